"""What single glimpses at random places are worth, and how the locator learns from it where to look first.

The warm-up finds it out. Agents go on learning from it while they play episodes: once an answer is right, nothing that
is found besides is rewarded any more, and the features of overviews change as the encoder learns.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from glimpse.networks.devices import to_device
from glimpse.networks.locator import moments_of
from glimpse.networks.where import CLOSED
from glimpse.ranks.sharing import gathered
from glimpse.runs.checkpoints import Checkpoint, CheckpointError

_SAME_PLACE = 1e-5  # in units of [-1, 1]: wide glimpses that are nearer to each other show the same


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
    return choice_loss(logits, single.mean(1, keepdim=True) - single, entropy)


def choice_loss(
    logits: Float[Tensor, "set place"],
    benefit: Float[Tensor, "set place"],
    entropy: float,
    there: Bool[Tensor, "set place"] | None = None,
) -> Tensor:
    """Returns minus what a choice among the places of a set is expected to bring, the mean over the sets.

    Args:
        logits: The locator's logits.
        benefit: What each place brings, without gradient.
        entropy: Weight of the entropy of the choice.
        there: Which places may be chosen; None where all may.
    """
    log_probs = (logits if there is None else logits.masked_fill(~there, CLOSED)).log_softmax(-1)
    gain = benefit - entropy * log_probs
    return -(log_probs.exp() * (gain if there is None else gain.masked_fill(~there, 0.0))).sum(1).mean()


@dataclass(frozen=True)
class WideLooks:
    """Wide glimpses of some episodes, all rollouts of a case one after the other.

    Attributes:
        location: Their centres in [-1, 1]^d.
        zoom: The indices of their fields of view; -1 for padding.
        scores: The locator's unary scores of their cells.
    """

    location: Float[Tensor, "batch view d"]
    zoom: Int[Tensor, "batch view"]
    scores: Float[Tensor, "batch view cell"]


@dataclass(frozen=True)
class InnerWorth:
    """What is known of glimpses inside wider ones, of one field of view: the counterpart of `Worth` below.

    Attributes:
        location: The centres of the wider glimpses in [-1, 1]^d.
        cells: The cells of the wider glimpses in which the glimpses lie.
        losses: The lower, the better: minus what a glimpse is worth (see `glimpse.learning.zoom_warm_up`).
        open: Whether the locator could have chosen these cells.
    """

    location: Float[Tensor, "case view d"]
    cells: Int[Tensor, "case view inner"]
    losses: Float[Tensor, "case view inner"]
    open: Bool[Tensor, "case view inner"]

    def of_cases(self, rows: Int[Tensor, "some"]) -> "InnerWorth":
        """Returns the worth of the glimpses of the cases with these indices."""
        return InnerWorth(*(tensor[rows] for tensor in vars(self).values()))

    def to(self, device: torch.device) -> "InnerWorth":
        """Returns this record on a device."""
        return InnerWorth(*(to_device(tensor, device) for tensor in vars(self).values()))

    def known(self, wide: WideLooks, zoom: int) -> "InnerPlaces":
        """Returns the scores and the losses of places inside those wide glimpses of some episodes that are known here.

        Args:
            wide: The wide glimpses, and the locator's scores of their cells.
            zoom: The index of the field of view of the glimpses inside.
        """
        rollouts = len(wide.location) // len(self.location)
        row = torch.arange(len(wide.location), device=wide.location.device)
        case = (row // rollouts)[:, None]
        apart = (wide.location[:, :, None] - self.location[case[:, 0]][:, None]).abs().amax(-1)  # (row, view, known)
        nearest, known = apart.min(-1)
        known_view = (nearest < _SAME_PLACE) & (wide.zoom == zoom - 1)
        logits = wide.scores.gather(2, self.cells[case, known])
        there = known_view[..., None] & self.open[case, known]

        def by_case(values: Tensor) -> Tensor:
            return values.unflatten(0, (-1, rollouts)).flatten(1)

        return InnerPlaces(by_case(logits), by_case(self.losses[case, known]), by_case(there))


@dataclass(frozen=True)
class InnerPlaces:
    """Places inside wide glimpses that the rollouts of a case have read, and whose worth is known.

    Attributes:
        logits: The locator's scores.
        losses: Minus what they are worth: the lower, the better.
        there: False for padding.
    """

    logits: Float[Tensor, "case place"]
    losses: Float[Tensor, "case place"]
    there: Bool[Tensor, "case place"]

    def loss(self, entropy: float) -> Tensor:
        """Returns the looking loss, where the places of a case are one set; `entropy` weighs that of the choice."""
        mean = (self.losses * self.there).sum(1, keepdim=True) / self.there.sum(1, keepdim=True).clamp_min(1)
        return choice_loss(self.logits, mean - self.losses, entropy, self.there)


@dataclass(frozen=True)
class Worth:
    """How well single glimpses at random places predicted the targets of the training cases, after the warm-up.

    With several fields of view, `cells` and `losses` are of wide glimpses, and say what the choice inside these brings;
    with `look_contexts`, what the finest ones bring beside others. With `look_worth=surprise`, a glimpse is worth how
    much judges are surprised by it.

    Attributes:
        cases: The names of the cases.
        cells: The cells in which the glimpses lie.
        losses: The losses of the answers from each glimpse alone; with several fields of view minus what it is worth.
        among: Among how many of them the locator learns to choose.
        entropy: Weight of the entropy of its choice.
        inner: With several fields of view, the same of the finer glimpses inside these, from wide to fine.
    """

    cases: tuple[str, ...]
    cells: Int[Tensor, "case glimpse"]
    losses: Float[Tensor, "case glimpse"]
    among: int
    entropy: float
    inner: tuple[InnerWorth, ...] = ()

    def of_cases(self, rows: Int[Tensor, "some"]) -> "Worth":
        """Returns the worth of the glimpses of the cases with these indices."""
        names = tuple(self.cases[row] for row in rows.tolist())
        inner = tuple(one.of_cases(rows) for one in self.inner)
        return replace(self, cases=names, cells=self.cells[rows], losses=self.losses[rows], inner=inner)

    def shuffled(self) -> "Worth":
        """Returns the glimpses in a random order, the same for all cases, so that the sets are others each time."""
        order = torch.randperm(self.cells.shape[1]).to(self.cells.device)
        return replace(self, cells=self.cells[:, order], losses=self.losses[:, order])

    def to(self, device: torch.device) -> "Worth":
        """Returns this record on a device."""
        inner = tuple(one.to(device) for one in self.inner)
        cells, losses = to_device(self.cells, device), to_device(self.losses, device)
        return replace(self, cells=cells, losses=losses, inner=inner)

    def loss(self, logits: Float[Tensor, "case glimpse"], wide: WideLooks | None = None) -> Tensor:
        """Returns the looking loss.

        Args:
            logits: The locator's logits of the cells as the first choice.
            wide: Wide glimpses of episodes of these cases; what is known of the glimpses inside them is learned, too.
        """
        loss = looking_loss(logits, self.losses, self.among, self.entropy)
        if wide is None:
            return loss
        return loss + sum(one.known(wide, zoom).loss(self.entropy) for zoom, one in enumerate(self.inner, 1))

    @torch.no_grad()
    def moments(self, logits: Float[Tensor, "case glimpse"], wide: WideLooks | None) -> Float[Tensor, "zoom 4"]:
        """Returns the moments of scores and of what they are worth, for each field of view (see `moments_of`).

        The arguments are those of `loss`.
        """
        found = [moments_of(gathered(logits.flatten()), -gathered(self.losses.flatten()))]
        for zoom, one in enumerate(self.inner, 1):
            nothing = logits.new_zeros(0)  # which is gathered all the same: other ranks may have wide glimpses
            of_these = (nothing, nothing)
            if wide is not None:
                known = one.known(wide, zoom)
                of_these = known.logits[known.there], known.losses[known.there]
            found.append(moments_of(gathered(of_these[0]), -gathered(of_these[1])))
        return torch.stack(found)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes a file of safetensors."""
        tensors = {"cells": self.cells.int(), "losses": self.losses}
        for zoom, one in enumerate(self.inner, 1):
            tensors |= {f"{name}.{zoom}": tensor for name, tensor in vars(one).items()}
        meta = {"cases": self.cases, "among": self.among, "entropy": self.entropy, "inner": len(self.inner)}
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
        names = [field.name for field in fields(InnerWorth)]
        zooms = range(1, 1 + file.meta.get("inner", 0))
        if any(f"{name}.{zoom}" not in file.tensors for name in names for zoom in zooms):
            raise CheckpointError(f"{path}: lacks what it says of glimpses inside wide ones. Train anew.")
        inner = tuple(InnerWorth(*(file.tensors[f"{name}.{zoom}"][order] for name in names)) for zoom in zooms)
        return cls(tuple(cases), cells, losses, file.meta["among"], file.meta["entropy"], inner)
