"""One of several processes that share keys; run by `test_streams.py`: python one_process.py RANK COUNT PORT FOLDER."""

import sys
from pathlib import Path

import torch
from torch import Tensor, distributed

from nlsr.attention.leverage import distributed_leverage_scores, distributed_threshold, distributed_top_r
from nlsr.errors import NlsrError


def choose(key: Tensor) -> list[Tensor]:
    """Scores of this process's keys and two sets of all; nothing if the keys are refused."""
    try:
        scores = distributed_leverage_scores(key)
    except NlsrError:
        return []
    return [scores, distributed_threshold(scores, 0.0008), distributed_top_r(scores, 300)]


if __name__ == "__main__":
    rank, count, port = (int(argument) for argument in sys.argv[1:4])
    folder = Path(sys.argv[4])
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=count)
    torch.save([choose(key) for key in torch.load(folder / f"keys{rank}.pt")], folder / f"found{rank}.pt")
    distributed.destroy_process_group()
