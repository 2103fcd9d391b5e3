"""Transfer learning: a policy takes over the weights of another one, which may have other fields of view."""

from collections.abc import Mapping

import torch
from torch import Tensor

from glimpse.networks.policy import GlimpsePolicy

_PER_LEVEL = frozenset({
    "locator.seen_penalty",
    "locator.near_penalty",
    "locator.worth_slope",
    "locator.worth_offset",
    "locator.worth_moments",
    "zoom_head.weight",
    "zoom_head.bias",
})  # fmt: skip
_PER_IMAGE = frozenset({"pool.shift", "pool.spread", "scale.weight"})  # a row of the overview, then one of each level
_OF_CELLS = ("key.", "unary.", "shift", "spread")  # what a locator has for each level


def take_over(policy: GlimpsePolicy, state: Mapping[str, Tensor], levels: int) -> list[str]:
    """Copies into a policy all weights of another one that have the same names and shapes.

    Fields of view correspond from the finest one on. If the other policy has fewer of them, places of the wider ones
    here begin like those of its widest, and what they show is taken in like its overviews, which resemble them more;
    if it has more, its widest are left out.

    Args:
        policy: what is changed, in place.
        state: the parameters and buffers of the other policy, by their names.
        levels: the number of its fields of view.

    Returns:
        The names of the parts that keep their own weights, since the other policy has none of their names and shapes.
    """
    deeper = policy.layout.zooms - levels
    kept = []
    with torch.no_grad():
        for name, own in policy.state_dict().items():
            other = state.get(_counterpart(name, deeper))
            if other is not None and name in _PER_LEVEL | _PER_IMAGE:
                other = _by_level(own, other, deeper, name in _PER_IMAGE)
            if other is None or other.shape != own.shape:
                kept.append(name)
            else:
                own.copy_(other)
    return kept


def _counterpart(name: str, deeper: int) -> str:
    """Returns the other policy's name of a part: that of the same level, counted from the finest one."""
    prefix, _, rest = name.partition("locator.")
    if prefix or not rest:
        return name
    level = 0
    if rest.startswith("finer."):
        number, _, rest = rest.removeprefix("finer.").partition(".")
        level = 1 + int(number)
    elif not rest.startswith(_OF_CELLS):
        return name
    there = max(level - deeper, 0)
    return f"locator.finer.{there - 1}.{rest}" if there else f"locator.{rest}"


def _by_level(own: Tensor, other: Tensor, deeper: int, with_overview: bool) -> Tensor:
    """Returns rows of levels of another policy in the order of one's own."""
    if other.ndim < own.ndim:  # one row for all
        return other.expand_as(own) if other.shape == own.shape[1:] else other
    if other.ndim > own.ndim:
        return other[-1]
    rows = torch.arange(len(own))
    there = (rows - deeper).clamp(0, len(other) - 1)
    if with_overview and len(own):
        there[0] = 0
    return other[there]
