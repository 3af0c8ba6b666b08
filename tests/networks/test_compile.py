"""What torch.compile sees of networks in training: one graph, so that all of it is compiled."""

import subprocess
import sys
from pathlib import Path

GRAPHS = """
import torch
from tests.small import OF_POSITIONS, PLAIN, with_effect
from nlsr.networks import build

low_res = torch.rand(2, 3, 12, 12, generator=torch.Generator().manual_seed(0))
for name in (*PLAIN, "enlcn"):
    network = with_effect(build((PLAIN | OF_POSITIONS)[name])).train()
    results = []
    for trace in (network.trace, torch.compile(network.trace, backend="eager", fullgraph=True)):
        upscaled = trace(low_res, draws=torch.Generator().manual_seed(0)).upscaled
        network.zero_grad()
        upscaled.square().mean().backward()
        results.append([upscaled, *(parameter.grad for parameter in network.parameters())])
    assert all(map(torch.equal, *results)), name
    print(name)
"""


def test_a_training_step_is_one_graph_with_the_same_results():
    """In a process of its own: here shapes are checked in all calls, and the checks have no graph."""
    here = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", GRAPHS], cwd=here, capture_output=True, text=True, check=False)
    assert done.stdout.split() == ["lcoan", "smfanet", "pan", "enlcn"], done.stderr[-2000:]
