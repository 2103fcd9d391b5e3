"""A running average of a policy's parameters; it fluctuates less during training than the parameters themselves."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from glimpse.runs.checkpoints import Checkpoint

_NAME = "average"  # prefix of its tensors in checkpoints
_EARLY = 10  # the first updates t use the lower decay (1 + t) / (_EARLY + t)


class Average:
    r"""Exponential moving average of a module's state: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t) \theta_t.

    d_t = min(decay, (1 + t) / (10 + t)), so that the average soon forgets the initial parameters. Polyak and Juditsky
    (1992) show why an average of the iterates is a better estimate than the last one. Values that are not
    floating-point numbers are copied.

    Args:
        module: the module whose parameters and buffers are averaged.
        decay: at least 0 and below 1; with 0 the average always equals the module.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"Expected a decay of at least 0 and below 1, got {decay}.")
        self.module, self.decay, self.updates = module, decay, 0
        self.state = self._current()

    @torch.no_grad()
    def update(self) -> None:
        """Includes the module's current state in the average."""
        decay = min(self.decay, (1 + self.updates) / (_EARLY + self.updates))
        self.updates += 1
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def apply(self) -> None:
        """Loads the averaged state into the module."""
        self.module.load_state_dict(self.state)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Loads the averaged state into the module inside, and the module's own state again afterwards."""
        own = self._current()
        self.apply()
        try:
            yield
        finally:
            self.module.load_state_dict(own)

    def _current(self) -> dict[str, Tensor]:
        return {name: value.detach().clone() for name, value in self.module.state_dict().items()}

    # ------------------------------------------------------------------------------------------ checkpoints
    def save(self, checkpoint: Checkpoint) -> None:
        """Adds the average to a checkpoint."""
        checkpoint.tensors |= {f"{_NAME}/{name}": value.clone() for name, value in self.state.items()}
        checkpoint.meta["averaged"] = self.updates

    def restore(self, checkpoint: Checkpoint) -> None:
        """Reads the average from a checkpoint; what the checkpoint does not have stays as it is."""
        found = {name: checkpoint.tensors.get(f"{_NAME}/{name}") for name in self.state}
        for name, value in found.items():
            if value is not None:
                self.state[name].copy_(value)
        self.updates = int(checkpoint.meta.get("averaged", 0))
