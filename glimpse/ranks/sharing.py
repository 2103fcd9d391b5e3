r"""How ranks share the work of a step, so that together they do what one process would do by itself.

The sizes in the settings are those of a whole step, whatever the number of ranks. All ranks have the same random
generators in the same state. They draw the same numbers for all rows of a step, and each computes on its own rows,
which lie side by side. A loss is a mean over all rows; each rank takes its share of it, and the sum of all gradients is
the gradient of that mean. So a step does not depend on the number of ranks, up to the rounding of sums, and a run can
go on with another number of them.

    with sharing(len(cases)) as own:
        loss = of_all(losses(cases[own]).mean())
    loss.backward()
    add_gradients(optimizer)

With one rank, each of these functions returns what it was given.
"""

import functools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Int
from torch import Tensor, nn

from glimpse.errors import SettingsError
from glimpse.ranks.group import ranks, together


@dataclass(frozen=True)
class Share:
    """The rows of this rank, `start` to `stop` (exclusive), of `whole` rows."""

    start: int
    stop: int
    whole: int

    @property
    def own(self) -> slice:
        """The own rows."""
        return slice(self.start, self.stop)

    def times(self, rows: int) -> "Share | None":
        """Returns the share where this one has `rows` rows: as many for each of its own; None where that is not so."""
        count = self.stop - self.start
        if count == 0 or rows % count:
            return None
        each = rows // count
        return Share(self.start * each, self.stop * each, self.whole * each)


_declared: list[Share] = []


def share_of(count: int, rank: int | None = None) -> Share:
    """Returns the share of a rank, by default this one, in `count` rows; the first ones have one more if need be."""
    group = ranks()
    at = group.rank if rank is None else rank
    least, more = divmod(count, group.size)
    start = at * least + min(at, more)
    return Share(start, start + least + (at < more), count)


def share_of_part(count: int, parts: int, number: int) -> Share:
    """Returns this rank's share in one of several parts of `count` rows; each rank has parted its own rows evenly."""
    sizes = []
    for rank in range(ranks().size):
        share = share_of(count, rank)
        least, more = divmod(share.stop - share.start, parts)
        sizes.append(least + (number < more))
    start = sum(sizes[: ranks().rank])
    return Share(start, start + sizes[ranks().rank], sum(sizes))


def check_shared(what: str, count: int, otherwise: str = "choose a larger number") -> None:
    """Refuses fewer rows of a step than there are ranks.

    Raises:
        SettingsError: the message names what there is too little of, and what to do `otherwise`.
    """
    if 0 < count < ranks().size:
        raise SettingsError(
            f"{what}: {count} cannot be shared by {ranks().size} processes. Start at most {count} with torchrun, or "
            f"{otherwise}."
        )


@contextmanager
def declared(share: Share) -> Iterator[None]:
    """Says which rows are this rank's own inside, so that random numbers are drawn for all rows (see `own_rows`)."""
    _declared.append(share)
    try:
        yield
    finally:
        _declared.pop()


@contextmanager
def sharing(count: int) -> Iterator[slice]:
    """Shares a step of `count` rows; yields the own ones.

    Raises:
        SettingsError: there are fewer rows than ranks.
    """
    check_shared("A step's batch", count)
    share = share_of(count)
    with declared(share):
        yield share.own


def _share() -> Share | None:
    return _declared[-1] if ranks().size > 1 and _declared else None


# ---------------------------------------------------------------------------------------------- random numbers
def own_rows(draw: Callable[[tuple[int, ...]], Tensor], *shape: int) -> Tensor:
    """Returns random numbers (row, ...) for the own rows, drawn for the rows of all ranks."""
    found = _share()
    share = None if found is None else found.times(shape[0])
    return draw(shape) if share is None else draw((share.whole, *shape[1:]))[share.own]


def own_choices(probs: Tensor, generator: torch.Generator | None = None) -> Int[Tensor, " row"]:
    """Draws an index for each row of probabilities (row, index), as `torch.multinomial` does for all rows together."""

    def draw(shape: tuple[int, ...]) -> Tensor:
        whole, found = probs, _share()
        if shape[0] != len(probs) and found is not None and (share := found.times(len(probs))) is not None:
            whole = torch.ones(shape, dtype=probs.dtype, device=probs.device)
            whole[share.own] = probs
        if whole.device.type == "cpu":
            return torch.multinomial(whole, 1, generator=generator)
        return raced(whole, generator)  # `multinomial` waits for a device, to refuse impossible numbers

    return own_rows(draw, *probs.shape)[:, 0]


def raced(probs: Tensor, generator: torch.Generator | None = None) -> Int[Tensor, " row 1"]:
    """Draws an index for each row of probabilities as `torch.multinomial` does, from the same random numbers.

    It does not look whether they are probabilities: of numbers that are none it returns some index.
    """
    return (probs / torch.empty_like(probs).exponential_(generator=generator)).argmax(-1, keepdim=True)


def own_order(count: int) -> Int[Tensor, " row"]:
    """Returns the own `count` rows in a random order, which is that of all rows, with those of other ranks left out."""
    return _own(torch.randperm(_whole(count)), count)


def own_some(count: int, share: float) -> Int[Tensor, " some"]:
    """Draws a share of all rows, rounded up, and returns those that are among the own `count` rows; perhaps none."""
    whole = _whole(count)
    return _own(torch.randperm(whole)[: math.ceil(share * whole)], count)


def _whole(count: int) -> int:
    found = _share()
    share = None if found is None else found.times(count)
    return count if share is None else share.whole


def _own(order: Tensor, count: int) -> Tensor:
    found = _share()
    share = None if found is None else found.times(count)
    if share is None:
        return order
    return order[(order >= share.start) & (order < share.stop)] - share.start


class Dropout(nn.Dropout):
    """Dropout whose masks are drawn for the rows of all ranks."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or not self.p or _share() is None:
            return super().forward(x)
        kept = own_rows(
            lambda shape: torch.empty(shape, dtype=x.dtype, device=x.device).bernoulli_(1 - self.p), *x.shape
        )
        return x * (kept / (1 - self.p))


# ---------------------------------------------------------------------------------------------- losses
def of_all(mean: Tensor) -> Tensor:
    """Returns what a mean over the own rows adds to the mean over all rows."""
    share = _share()
    return mean if share is None else mean * ((share.stop - share.start) / share.whole)


def one_of(loss: Tensor) -> Tensor:
    """Returns what this rank adds to a loss that all ranks have computed from the rows of all of them."""
    return loss if _share() is None else loss / ranks().size


def total(values: Tensor) -> Tensor:
    """Returns the sum over all ranks; no gradient is passed on. Outside of shared steps, it is the value itself."""
    if _share() is None:
        return values
    found = values.detach().clone()
    together(lambda: dist.all_reduce(found))
    return found


def totals(logs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Returns the sums of numbers over all ranks; nobody waits for a device on which they are."""
    if _share() is None:
        return dict(logs)
    summed = total(torch.stack([value.detach().double() for value in logs.values()]))
    return dict(zip(logs, summed.unbind(), strict=True))


def over_all(rows: Tensor) -> Tensor:
    """Returns the rows of all ranks in a shared step, in order, and passes gradients on to the own ones."""
    return rows if _share() is None else _Gather.apply(rows)


class _Gather(torch.autograd.Function):
    """Joins the rows of all ranks; the gradient of the own ones is the sum over all ranks."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        parts = _parts(rows)
        ctx.start, ctx.count = sum(map(len, parts[: ranks().rank])), len(rows)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        together(lambda: dist.all_reduce(summed))
        return summed[ctx.start : ctx.start + ctx.count]


def gathered(rows: Tensor) -> Tensor:
    """Returns the rows of all ranks, in order, without gradient; ranks may have different numbers of them."""
    return rows if ranks().size == 1 else torch.cat(_parts(rows))


def gathered_array(rows: np.ndarray) -> np.ndarray:
    """Returns the rows of all ranks, in order."""
    return rows if ranks().size == 1 else gathered(torch.from_numpy(np.ascontiguousarray(rows))).numpy()


def _parts(rows: Tensor) -> list[Tensor]:
    rows = rows.detach()
    truth = rows.dtype == torch.bool
    counts = [torch.zeros(1, dtype=torch.long, device=rows.device) for _ in range(ranks().size)]
    together(lambda: dist.all_gather(counts, torch.tensor([len(rows)], device=rows.device)))
    most = max(int(count) for count in counts)
    padded = rows.new_zeros(most, *rows.shape[1:], dtype=torch.uint8 if truth else rows.dtype)
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    together(lambda: dist.all_gather(parts, padded))
    return [part[: int(count)].to(rows.dtype) for part, count in zip(parts, counts, strict=True)]


# ---------------------------------------------------------------------------------------------- parameters
def add_gradients(optimizer: torch.optim.Optimizer) -> None:
    """Adds up the gradients of all ranks; a parameter that has one in no rank keeps none."""
    if ranks().size == 1:
        return
    kinds: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for group in optimizer.param_groups:
        for one in group["params"]:
            kinds.setdefault((one.dtype, one.device), []).append(one)
    for parameters in kinds.values():
        _add(parameters)


@torch.no_grad()
def _add(parameters: Sequence[nn.Parameter]) -> None:
    there = parameters[0].new_tensor([one.grad is not None for one in parameters])
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    flat = torch.cat([there, *(one.flatten() for one in gradients)])
    together(lambda: dist.all_reduce(flat))
    there, *parts = flat.split([len(parameters), *(one.numel() for one in parameters)])
    for one, some, part in zip(parameters, there.tolist(), parts, strict=True):
        one.grad = part.view_as(one).clone() if some else None


@torch.no_grad()
def align(modules: Iterable[nn.Module]) -> None:
    """Gives the modules of all ranks the parameters and buffers of the first rank."""
    if ranks().size == 1:
        return
    for module in modules:
        for tensor in (*module.parameters(), *module.buffers()):
            whole = tensor.detach().contiguous()
            together(functools.partial(dist.broadcast, whole, 0))
            if whole.data_ptr() != tensor.data_ptr():
                tensor.copy_(whole)
