"""MATLAB's imresize."""

from pathlib import Path

import torch

from nlsr.images import resize
from tests.checks.case import Case


def check_resize(case: Case, _: Path) -> None:
    """In some files the memory of an output lies in (width, height) order whatever its shape says; either is taken."""
    sizes = {"output": case.config["scale"].split(";")[0].strip(), "output_half": "1/2", "output_quarter": "1/4"}
    sizes |= {"output_x2": "2", "output_x3": "3", "output_out_size": None}
    sizes |= {f"output_uint8{end}": sizes[f"output{end}"] for end in ("", "_half", "_quarter")}
    sizes |= {"output_uint8_up4": "4"}
    outputs = [name for name in case.tensors if name.startswith("output")]
    assert outputs
    for name in outputs:
        source = case["input_uint8"] if name == "output_uint8_up4" else case["input"]
        source = source if "uint8" in name else source.double()
        image = source.permute(2, 0, 1) if source.ndim == 3 else source
        size = tuple(case["out_size"].tolist()) if name == "output_out_size" else None
        result = resize(image, size=size) if size else resize(image, scale=fraction(sizes[name]))
        result = result.permute(1, 2, 0) if result.ndim == 3 else result
        turned = result.transpose(0, 1).reshape(result.shape)
        as_said = torch.allclose(result.double(), case[name].double(), rtol=0, atol=case.atol)
        case.check(result if as_said else turned, name)


def fraction(text: str) -> float:
    over, _, under = text.partition("/")
    return float(over) / float(under or 1)


CHECKS = {
    ("imresize", "module"): check_resize,
}
