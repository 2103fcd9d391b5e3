"""What trainers share that learn without episodes: they go on where they were interrupted."""

import torch
from torch import nn

from glimpse.networks.policy import GlimpsePolicy
from glimpse.runs.checkpoints import Checkpoint


class Trainer:
    """Saves and restores everything that a trainer needs to go on as if it had not been interrupted.

    Attributes:
        policy: what is trained.
        optimizer: of what is trained.
        generator: draws batches and views.
        done: steps that have been made.
    """

    policy: GlimpsePolicy
    optimizer: torch.optim.Optimizer
    generator: torch.Generator
    done: int = 0

    def modules(self) -> dict[str, nn.Module]:
        """The networks whose parameters are saved, by the name they have in the file."""
        return {"policy": self.policy}

    def save_state(self, checkpoint: Checkpoint) -> None:
        """Adds the trainer's state to a checkpoint, with the states of all global random generators."""
        checkpoint.meta["done"] = self.done
        for name, module in self.modules().items():
            checkpoint.add_module(name, module)
        checkpoint.add_optimizer("optimizer", self.optimizer)
        checkpoint.add_generator("views", self.generator)
        checkpoint.add_global_generators(self.policy.device)

    def restore_state(self, checkpoint: Checkpoint) -> None:
        """Goes back to where `save_state` was called.

        Raises:
            CheckpointError: the checkpoint is of another network.
        """
        for name, module in self.modules().items():
            checkpoint.restore_module(name, module)
        checkpoint.restore_optimizer("optimizer", self.optimizer)
        checkpoint.restore_generator("views", self.generator)
        checkpoint.restore_global_generators(self.policy.device)
        self.done = int(checkpoint.meta["done"])
