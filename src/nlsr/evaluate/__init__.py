"""Evaluation: upscale a set of images, compare luma with the originals, print the papers' table."""

from nlsr.evaluate.datasets import Pair, PairFolder, modcrop
from nlsr.evaluate.evaluation import Evaluation, Failure, Mean, Row, bicubic, evaluate
from nlsr.evaluate.metrics import psnr, ssim
from nlsr.evaluate.protocols import PROTOCOLS, Protocol
from nlsr.evaluate.tables import markdown

__all__ = [
    "PROTOCOLS",
    "Evaluation",
    "Failure",
    "Mean",
    "Pair",
    "PairFolder",
    "Protocol",
    "Row",
    "bicubic",
    "evaluate",
    "markdown",
    "modcrop",
    "psnr",
    "ssim",
]
