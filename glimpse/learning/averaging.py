"""The running average of a policy's parameters: steadier than the parameters themselves while they still swing."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from glimpse.runs.checkpoints import Checkpoint

_NAME = "average"  # in checkpoints
_EARLY = 10  # updates in which the average forgets more quickly than `decay` says


class Average:
    r"""Exponential moving average of a module's state: \bar\theta_t = d_t \bar\theta_{t-1} + (1 - d_t) \theta_t.

    d_t = min(decay, (1 + t) / (10 + t)), so that it does not remember the start for long (Polyak and Juditsky, 1992, on
    why an average of the iterates is a better estimate than the last of them). What is not a floating-point number is
    taken as it is.

    Args:
        module: whose parameters and buffers are averaged.
        decay: between 0 and 1; at 0 the average is the module itself.
    """

    def __init__(self, module: nn.Module, decay: float) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"Expected a decay of at least 0 and below 1, got {decay}.")
        self.module, self.decay, self.updates = module, decay, 0
        self.state = self._current()

    @torch.no_grad()
    def update(self) -> None:
        """Takes the module as it is now into the average."""
        decay = min(self.decay, (1 + self.updates) / (_EARLY + self.updates))
        self.updates += 1
        for name, value in self.module.state_dict().items():
            if value.is_floating_point():
                self.state[name].lerp_(value, 1 - decay)
            else:
                self.state[name].copy_(value)

    def apply(self) -> None:
        """Gives the module the averaged parameters."""
        self.module.load_state_dict(self.state)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """The module has the averaged parameters inside, and its own again afterwards."""
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
        """Takes the average from a checkpoint; one without it leaves the average at the module's own parameters."""
        found = {name: checkpoint.tensors.get(f"{_NAME}/{name}") for name in self.state}
        for name, value in found.items():
            if value is not None:
                self.state[name].copy_(value)
        self.updates = int(checkpoint.meta.get("averaged", 0))
