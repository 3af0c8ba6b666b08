"""How many devices share a training, and how. Knows nothing of what is trained."""

import os
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal

import lightning
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.strategies import DDPStrategy, ModelParallelStrategy
from torch import Tensor
from torch.distributed.checkpoint.state_dict import StateDictOptions, set_model_state_dict, set_optimizer_state_dict
from torch.distributed.fsdp import FullyShardedDataParallel, OptimStateKeyType
from torch.utils._pytree import tree_map_only

from nlsr.errors import UsageError

Strategy = Literal["ddp", "fsdp"]

PATIENCE = timedelta(hours=2)
"""How long processes wait for the one that validates."""


@dataclass(frozen=True)
class Devices:
    """How many processes share a training. Where torchrun starts the processes, its numbers count instead of these."""

    per_node: int = 1
    nodes: int = 1
    strategy: Strategy = "ddp"
    """ddp: every device holds the whole network. fsdp: weights and optimiser state are divided among them."""

    def trainer(self, **options: Any) -> lightning.Trainer:
        """With further options. Raises: UsageError if there are fewer devices."""
        try:
            return lightning.Trainer(**options, **self.options())
        except MisconfigurationException as error:
            reason = " ".join(str(error).split())
            raise UsageError(f"`devices={self.per_node}`: not available here ({reason})") from error

    def options(self) -> dict[str, Any]:
        """For Lightning's trainer."""
        per_node, nodes = self.per_node, self.nodes
        if "TORCHELASTIC_RUN_ID" in os.environ:
            per_node = int(os.environ["LOCAL_WORLD_SIZE"])
            nodes = int(os.environ["WORLD_SIZE"]) // per_node
        if per_node * nodes == 1:
            return {"devices": 1}
        strategy: Any = DDPStrategy(timeout=PATIENCE)
        if self.strategy == "fsdp":
            strategy = Divided(
                data_parallel_size=per_node * nodes,
                tensor_parallel_size=1,
                save_distributed_checkpoint=False,
                timeout=PATIENCE,
            )
        return {"devices": per_node, "num_nodes": nodes, "strategy": strategy}


class Divided(ModelParallelStrategy):
    """Weights divided among devices (FSDP2), with the checkpoints of one device, so that their number may change."""

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        """Every process reads the file and keeps its part.

        Lightning's own way divides channels-last weights as if they were contiguous, which permutes them.
        """
        checkpoint = tree_map_only(Tensor, Tensor.contiguous, self.checkpoint_io.load_checkpoint(checkpoint_path))
        options = StateDictOptions(full_state_dict=True)
        assert self.model is not None
        set_model_state_dict(self.model, checkpoint["state_dict"], options=options)
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            named = FullyShardedDataParallel.rekey_optim_state_dict(state, OptimStateKeyType.PARAM_NAME, self.model)
            set_optimizer_state_dict(self.model, optimizer, named, options=options)
        return checkpoint


def own_device() -> str:
    """Where this process computes what comes before the training."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"


def is_main_process() -> bool:
    """Whether this process speaks for all: the first that torchrun or Lightning started."""
    return int(os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0"))) == 0
