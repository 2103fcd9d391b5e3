"""The embedded patches of cases, in memory and in files."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Float32
from torch import Tensor

from glimpse.atomic import WriteError
from glimpse.runs.checkpoints import Checkpoint, CheckpointError

_LOSS = 0.01  # the largest rounding error of a feature, as a share of its standard deviation, that is taken as none


@dataclass
class Bag:
    """The embedded patches of one case, and the seconds from the end of the case before it to the end of this one."""

    embeddings: Float[Tensor, "tile embed"]
    locations: Float[Tensor, "tile d"]
    seconds: float


def halved(bags: Sequence[Bag]) -> list[Bag]:
    """Returns the bags with embeddings in float16, which takes half the space, if nothing that matters is lost.

    They stay in float32 if float16 would overflow, or would move a feature by more than 1 % of its standard deviation
    (root mean square over all patches). That happens where a feature hardly varies around a value far from 0.
    """
    count = sum(len(bag.embeddings) for bag in bags)
    mean = sum_of([bag.embeddings for bag in bags]) / count
    spread = sum_of([(bag.embeddings - mean.float()) ** 2 for bag in bags])
    error = sum_of([(bag.embeddings.half().float() - bag.embeddings) ** 2 for bag in bags])
    if not bool((error <= _LOSS**2 * spread).all()):  # an overflow makes the error infinite
        return list(bags)
    return [Bag(bag.embeddings.half(), bag.locations, bag.seconds) for bag in bags]


def sum_of(parts: Sequence[Float32[Tensor, "_ embed"]]) -> Tensor:
    """Returns the sum over all rows of all parts, (embed,), in float64."""
    return torch.stack([part.sum(0, dtype=torch.float64) for part in parts]).sum(0)


def keep(path: Path, meta: dict[str, object], probe: Tensor, bags: Sequence[Bag]) -> None:
    """Writes the bags to a file, with what says later whether they still fit; if it cannot, a warning says so.

    Args:
        path: the file.
        meta: what was embedded, and how; it must be writable as JSON.
        probe: embedding of a fixed image, which shows with which weights it was made.
        bags: what to keep.
    """
    tensors = {
        "probe": probe,
        "embeddings": torch.cat([bag.embeddings for bag in bags]),
        "locations": torch.cat([bag.locations for bag in bags]),
        "lengths": torch.tensor([len(bag.embeddings) for bag in bags]),
        "seconds": torch.tensor([bag.seconds for bag in bags], dtype=torch.float64),
    }
    try:
        Checkpoint(tensors, dict(meta)).save(path)
    except WriteError as error:  # what was read is not lost for that
        warnings.warn(
            f"{error} Patches are not kept, so they are embedded anew whenever they are needed.",
            UserWarning,
            stacklevel=2,
        )


def kept(path: Path, meta: dict[str, object], probe: Tensor) -> list[Bag] | None:
    """Returns the bags of a file if they are of the same cases, sizes and weights, and None otherwise."""
    try:
        file = Checkpoint.load(path)
    except CheckpointError:
        return None
    tensors = file.tensors
    same = file.meta == meta and tensors["probe"].shape == probe.shape
    if not same or not torch.allclose(tensors["probe"], probe, rtol=1e-3, atol=1e-4):
        return None
    lengths = tensors["lengths"].tolist()
    parts = zip(tensors["embeddings"].split(lengths), tensors["locations"].split(lengths), strict=True)
    return [Bag(*both, seconds) for both, seconds in zip(parts, tensors["seconds"].tolist(), strict=True)]
