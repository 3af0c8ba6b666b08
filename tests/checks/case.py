"""A file of published numbers."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file


class Case:
    """One file: its tensors by name, its config, and comparison within its tolerance."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata()
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        self.system, self.level = metadata["system"], metadata["level"]
        self.config = json.loads(metadata["config"])
        self.atol = float(metadata["atol"])

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name]

    def __contains__(self, name: str) -> bool:
        return name in self.tensors

    def weights(self, prefix: str = "") -> dict[str, torch.Tensor]:
        start = f"weights.{prefix}"
        return {name[len(start) :]: tensor for name, tensor in self.tensors.items() if name.startswith(start)}

    def check(self, actual: torch.Tensor, name: str) -> None:
        expected = self[name]
        assert actual.shape == expected.shape, name
        if expected.is_floating_point():
            error = (actual.double() - expected.double()).abs().max().item()
            assert error <= self.atol, f"{name}: off by {error:.3g}, tolerance {self.atol:g}"
        else:
            assert torch.equal(actual, expected), name


def published_file(case: Case, folder: Path) -> Path:
    """The weights of a case as a file of their own, under the published names."""
    path = folder / "published.safetensors"
    save_file({name: tensor.contiguous() for name, tensor in case.weights().items()}, path)
    return path


def with_round_offsets(codes: torch.Tensor, num_clusters: int) -> torch.Tensor:
    rounds = torch.arange(codes.shape[1]).view(1, -1, 1)
    return (codes + rounds * num_clusters).flatten(1)
