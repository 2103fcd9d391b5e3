"""What single glimpses at random places are worth, and how the locator learns from it where to look first.

The warm-up finds it out. Agents go on learning from it while they play episodes: once an answer is right, nothing that
is found besides is rewarded any more, and the features of overviews change as the encoder learns.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from glimpse.runs.checkpoints import Checkpoint, CheckpointError


def looking_loss(
    logits: Float[Tensor, "case glimpse"], single: Float[Tensor, "case glimpse"], among: int, entropy: float
) -> Tensor:
    r"""Returns the loss of the locator's first choice among some glimpses, -\sum_i p_i (\bar l - l_i).

    p_i is the probability of choosing glimpse i, and l_i the loss of the answer from glimpse i alone: the lower it is,
    the more the glimpse says about the target. The glimpses of a case are parted into sets; the loss is the mean over
    these. Glimpses that are left over are in no set.

    Args:
        logits: The locator's logits of the glimpses.
        single: The losses l_i, without gradient.
        among: How many glimpses a set has; if there are fewer, they are one set.
        entropy: Weight of the entropy of the choice, which is subtracted.
    """
    count = logits.shape[1]
    among = min(among, count)
    logits, single = (torch.cat(part[:, : count // among * among].split(among, 1)) for part in (logits, single))
    log_probs = logits.log_softmax(-1)
    benefit = single.mean(1, keepdim=True) - single
    return -(log_probs.exp() * (benefit - entropy * log_probs)).sum(1).mean()


@dataclass(frozen=True)
class Worth:
    """How well single glimpses at random places predicted the targets of the training cases, after the warm-up.

    Attributes:
        cases: The names of the cases.
        cells: The cells in which the glimpses lie.
        losses: The losses of the answers from each glimpse alone.
        among: Among how many of them the locator learns to choose.
        entropy: Weight of the entropy of its choice.
    """

    cases: tuple[str, ...]
    cells: Int[Tensor, "case glimpse"]
    losses: Float[Tensor, "case glimpse"]
    among: int
    entropy: float

    def of_cases(self, rows: Int[Tensor, "some"]) -> "Worth":
        """Returns the worth of the glimpses of the cases with these indices."""
        names = tuple(self.cases[row] for row in rows.tolist())
        return replace(self, cases=names, cells=self.cells[rows], losses=self.losses[rows])

    def shuffled(self) -> "Worth":
        """Returns the glimpses in a random order, the same for all cases, so that the sets are others each time."""
        order = torch.randperm(self.cells.shape[1]).to(self.cells.device)
        return replace(self, cells=self.cells[:, order], losses=self.losses[:, order])

    def to(self, device: torch.device) -> "Worth":
        """Returns this record on a device."""
        return replace(self, cells=self.cells.to(device), losses=self.losses.to(device))

    def loss(self, logits: Float[Tensor, "case glimpse"]) -> Tensor:
        """Returns the looking loss, given the locator's logits of the cells as the first choice."""
        return looking_loss(logits, self.losses, self.among, self.entropy)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file of safetensors."""
        tensors = {"cells": self.cells.int(), "losses": self.losses}
        meta = {"cases": self.cases, "among": self.among, "entropy": self.entropy}
        Checkpoint(meta=meta, tensors=tensors).save(path)

    @classmethod
    def load(cls, path: str | os.PathLike[str], cases: Sequence[str]) -> "Worth":
        """Reads what `save` has written, for some of its cases.

        Args:
            path: The file.
            cases: The names of the cases, in the order that is wanted.

        Raises:
            CheckpointError: The file is missing or broken, or lacks a case.
        """
        file = Checkpoint.load(path)
        rows = {name: row for row, name in enumerate(file.meta["cases"])}
        lacking = [name for name in cases if name not in rows]
        if lacking:
            raise CheckpointError(f"{path}: is of another cohort, and lacks {lacking[0]!r}. Train anew.")
        order = torch.tensor([rows[name] for name in cases])
        cells, losses = file.tensors["cells"][order].long(), file.tensors["losses"][order]
        return cls(tuple(cases), cells, losses, file.meta["among"], file.meta["entropy"])
