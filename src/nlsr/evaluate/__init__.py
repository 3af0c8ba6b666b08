"""Evaluation: upscale a set of images, compare luma with the originals, print the papers' table."""

from nlsr.evaluate.datasets import Pair, PairFolder, modcrop
from nlsr.evaluate.evaluation import Evaluation, Failure, Row, bicubic, evaluate
from nlsr.evaluate.metrics import Score, psnr, ssim
from nlsr.evaluate.models import Model, bicubic_model, load_model
from nlsr.evaluate.protocols import PROTOCOLS, Protocol
from nlsr.evaluate.published import PUBLISHED, Published
from nlsr.evaluate.tables import EvaluatedModel, as_csv, markdown, report

__all__ = [
    "PROTOCOLS",
    "PUBLISHED",
    "EvaluatedModel",
    "Evaluation",
    "Failure",
    "Model",
    "Pair",
    "PairFolder",
    "Protocol",
    "Published",
    "Row",
    "Score",
    "as_csv",
    "bicubic",
    "bicubic_model",
    "evaluate",
    "load_model",
    "markdown",
    "modcrop",
    "psnr",
    "report",
    "ssim",
]
