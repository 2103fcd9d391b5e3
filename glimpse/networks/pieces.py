"""Long episodes are computed in pieces, a second time in the backward pass, so that memory does not grow with them."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

STEPS_AT_ONCE = 128
"""How many steps of an episode are computed at once in an update; shorter episodes are one piece."""


def is_long(steps: int) -> bool:
    """Returns whether so many steps are computed in pieces: their activations would be kept for the backward pass."""
    return torch.is_grad_enabled() and steps > STEPS_AT_ONCE


def along_time(part: Callable[..., Tensor], *rows: Tensor) -> Tensor:
    """Returns `part(*rows)`, (batch, time, ...), of a part that computes each step from that step of `rows` alone.

    It must not draw random numbers.
    """
    if not is_long(rows[0].shape[1]):
        return part(*rows)
    pieces = zip(*(tensor.split(STEPS_AT_ONCE, 1) for tensor in rows), strict=True)
    return torch.cat([recomputed(part, *piece, draws=False) for piece in pieces], 1)


def recomputed(part: Callable[..., Any], *given: Tensor, draws: bool = True) -> Any:
    """Returns `part(*given)`, of which only `given` is kept for the backward pass.

    Args:
        part: Computes from `given` and from parameters, and from nothing else that has a gradient.
        given: If none of it requires a gradient, but parameters do, one of these should be among it: less is kept then.
        draws: Whether it may draw random numbers, which are the same the second time.
    """
    # "Reentrant" keeps no nodes of the graph, of which recurrent networks have many, but needs a gradient to pass on.
    reentrant = any(tensor.requires_grad for tensor in given)
    return checkpoint(part, *given, use_reentrant=reentrant, preserve_rng_state=draws)
