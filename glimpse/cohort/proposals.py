"""What would do where images cannot be looked at with the sizes that were asked for: each proposal is checked first."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float

from glimpse.geometry import CellGrid, Extent, Frame, MissingSpacingError
from glimpse.views import Views, misordered

_EXTENTS = "env.make.glimpse_extents"
_EXPERIMENT = "experiment=whole_slides"
_OF_EXPERIMENT, _VIEW_CELL = ("1024um", "64um"), 8  # what that experiment sets
_MOST = 8  # fields of view that are proposed
_WORTH = 1.5  # a field of view that only fills the image is proposed if it is so many times as wide as the next one
_DIGITS = {"um": 3, "mm": 4}  # at least so many digits are written
_EPS = 1e-9
# How many cells a glimpse is to span, of the overview and of a wide glimpse: two, or one where two cannot be had.
_SLACKS = ((2.0, 2.0), (1.0, 2.0), (2.0, 1.0), (1.0, 1.0))


def advice(views: Views, frames: Sequence[Frame], grid: CellGrid, view_grid: CellGrid | None = None) -> str:
    """Returns sentences that name sizes with which every place of all images can be reached.

    Proposed fields of view are multiples of the finest one as a whole, in its unit, and per axis where it is. They, and
    whatever else is proposed, were accepted by `Views.problems` on each of the images. Images that are smaller than the
    finest glimpse, or of unknown size, cannot be served by any, and are not counted.

    Args:
        views: the sizes that do not fit.
        frames: the level-0 grids of all images.
        grid: the cells of the overview from which a policy chooses.
        view_grid: the cells of wide glimpses; by default as `grid`.

    Returns:
        The sentences; "" where all images can be served as it is, or none can.
    """
    distinct = {(one.shape, one.spacing, one.unit): one for one in reversed(frames)}.values()
    known = [(frame, extents) for frame in distinct if (extents := _extents(views, frame)) is not None]
    if not known or len(grid.side) != views.ndim:
        return ""
    if any(misordered(extents) for _, extents in known):
        ordered = replace(views, glimpse_extents=_in_order(views, [extents for _, extents in known]))
        further = advice(ordered, frames, grid, view_grid)
        return further or f"From wide to fine, {_EXTENTS}={_listed(ordered.glimpse_extents)} would do."
    tiny = [frame for frame, extents in known if (extents[-1] > frame.shape).any()]
    served = tuple(frame for frame, extents in known if (extents[-1] <= frame.shape).all())
    asked = _Asked(views, served[::-1], grid, view_grid or grid)
    if not served or asked.accepted(views):
        return ""
    found = asked.sentences()
    if tiny and found:
        which = f" and {len(tiny) - 1} more, which are" if len(tiny) > 1 else ", which is"
        found += f" Leave out {tiny[-1].name}{which} smaller than a glimpse of {_text(asked.finest)}."
    return found


def fitting(views: Views, frame: Frame) -> list[Any]:
    """Returns the fields of view, each no wider than an image, and without those that are then no wider than the next.

    Returns:
        As they are given in Python, such as ``["900um", "64um"]`` or ``[[8, 100, 100], [8, 16, 16]]``.

    Raises:
        MissingSpacingError: one is physical, and the image's spacing is unknown.
    """
    cells = CellGrid(views.overview_size, (1,) * views.ndim)  # of any side: only sizes are compared
    asked = _Asked(views, (frame,), cells, cells)
    chain: tuple[Extent, ...] = ()
    for extent in map(asked.clipped, reversed(views.glimpse_extents)):
        if not chain or _wider_on_all(asked.pixels(extent), asked.pixels(chain[0])):
            chain = (extent, *chain)
    given = [[float(f"{n:.15g}") if one.unit == "px" else f"{n:.15g}{one.unit}" for n in one.values] for one in chain]
    whole = [[int(n) if isinstance(n, float) and n.is_integer() else n for n in one] for one in given]
    return [one[0] if len(one) == 1 else one for one in whole]


def _extents(views: Views, frame: Frame) -> Float[np.ndarray, "zoom d"] | None:
    """Returns the fields of view in an image's pixels; None where it has other axes, or their size is not known."""
    if frame.ndim != views.ndim:
        return None
    try:
        return np.stack([extent.to_pixels(frame) for extent in views.glimpse_extents])
    except (MissingSpacingError, ValueError):
        return None


def _in_order(views: Views, extents: Sequence[Float[np.ndarray, "zoom d"]]) -> tuple[Extent, ...]:
    """Returns fields of view from wide to fine, without those that are no wider than the next one on some image."""
    pixels = np.stack(extents)
    chain: list[int] = []
    for zoom in np.log(pixels).sum((0, 2)).argsort(kind="stable").tolist():
        if not chain or _wider_on_all(pixels[:, zoom], pixels[:, chain[0]]):
            chain.insert(0, zoom)
    return tuple(views.glimpse_extents[zoom] for zoom in chain)


@dataclass(frozen=True)
class _Asked:
    """Sizes, and the distinct grids of the images that they are to serve.

    Attributes:
        views: the sizes that were asked for.
        frames: the level-0 grids.
        grid: the cells of the overview.
        view_grid: the cells of wide glimpses.
    """

    views: Views
    frames: tuple[Frame, ...]
    grid: CellGrid
    view_grid: CellGrid

    @cached_property
    def shapes(self) -> Float[np.ndarray, "frame d"]:
        return np.array([frame.shape for frame in self.frames], np.float64)

    @property
    def finest(self) -> Extent:
        return self.views.glimpse_extents[-1]

    @cached_property
    def units(self) -> Float[np.ndarray, "frame d"]:
        """The level-0 pixels that one unit of the finest field of view spans."""
        return np.stack([Extent((1.0,), self.finest.unit).to_pixels(frame) for frame in self.frames])

    def pixels(self, extent: Extent) -> Float[np.ndarray, "frame d"]:
        """Returns a field of view in level-0 pixels of each image."""
        if extent.unit == self.finest.unit:
            return self.units * extent.values
        return np.stack([extent.to_pixels(frame) for frame in self.frames])

    def accepted(self, views: Views, overview: tuple[int, ...] | None = None) -> bool:
        """Whether all images can be looked at with views, under an overview of another size or the one there is."""
        grid = self.grid if overview is None else replace(self.grid, size=overview)
        return not any(views.problems(frame, grid, self.view_grid) for frame in self.frames)

    def fits(self, extent: Extent) -> bool:
        return bool((self.pixels(extent) <= self.shapes).all())

    def _within(self, extent: Extent) -> Extent:
        """Returns a field of view that is given per axis, such as of a stack of few slices, no wider than any image."""
        if len(extent.values) == 1:
            return extent
        room = (self.shapes / self.units).min(0)
        return replace(
            extent,
            values=tuple(
                min(value, _round(most, extent.unit, math.floor))
                for value, most in zip(extent.values, room.tolist(), strict=True)
            ),
        )

    def apart(self, extent: Extent) -> Float[np.ndarray, "frame d"]:
        """Returns the distance of cells of the overview, as shares of a glimpse's sides."""
        return self.shapes * self.grid.pitch / self.pixels(extent)

    def overview_for(self, widest: Extent) -> tuple[int, ...]:
        """Returns the smallest size of overviews whose cells lie at most one glimpse apart, or the one there is."""
        enough = np.ceil((self.shapes * self.grid.side / self.pixels(widest)).max(0) - _EPS)
        return tuple(int(max(n, least)) for n, least in zip(enough, self.views.overview_size, strict=True))

    def sentences(self) -> str:
        """Says what would do."""
        several, others = len(self.views.glimpse_extents) > 1, " or ".join(self._others())
        narrower = " A smaller network.view_cell or a larger glimpse_size makes the cells of glimpses narrower."
        more = narrower if several and self._narrow() else ""
        chain, experiment = self._chain(), self._with_experiment()
        if experiment is not None and experiment.view_grid != self.view_grid:
            zoom, more = experiment.offered(), ""
        elif chain is not None:
            zoom = f"{'' if several else 'Zoom: '}{_EXTENTS}={_listed(chain)} would do."
            if experiment is not None and chain != experiment.own:
                zoom += f" So would {_listed(experiment.own)}, of {_EXPERIMENT}."
        else:
            return self._without_zoom(others) + more
        return zoom + (f" Or choose {others}." if others else "") + more

    def _chain(self) -> tuple[Extent, ...] | None:
        """Returns fields of view that would do: where several were asked for, those nearest to them if any do."""
        near = self._near() if len(self.views.glimpse_extents) > 1 else None
        return near or next(self._chains(), None)

    def _chains(self) -> Iterator[tuple[Extent, ...]]:
        return filter(None, (self._reaching(*slacks) for slacks in _SLACKS))

    def _with_experiment(self) -> "_Slides | None":
        """Returns these images with the cells of `experiment=whole_slides`; None where that would not reach them."""
        if self.views.ndim != 2 or any(frame.unit != "um" or frame.spacing is None for frame in self.frames):
            return None
        cells = CellGrid(self.views.glimpse_size, tuple(min(_VIEW_CELL, side) for side in self.view_grid.side))
        slides = _Slides(self.views, self.frames, self.grid, cells)
        return slides if slides.accepted(replace(self.views, glimpse_extents=slides.own)) else None

    def _without_zoom(self, others: str) -> str:
        """Says what would do where no fields of view do under the overview there is."""
        both = next(filter(None, (self._with_larger_overview(view_slack) for view_slack in (2.0, 1.0))), None)
        said = [f"Choose {others}."] if others else []
        if both is not None:
            chain, overview = both
            size = f"[{','.join(map(str, overview))}]"
            extents = f"{_EXTENTS}={_listed(chain)}"
            said += [*self._in_the_way(), f"env.make.overview_size={size} and {extents} would do."]
        return " ".join(said)

    def _others(self) -> Iterator[str]:
        """Yields what would do beside other fields of view: a larger overview, or a wider first field of view."""
        first, *others = self.views.glimpse_extents
        far = self.apart(first)
        if far.max() <= 1 + _EPS:
            return
        overview = self.overview_for(first)
        if self.accepted(self.views, overview):
            yield f"a larger overview_size (more cells; {' x '.join(map(str, overview))} is enough)"
        wider = _scaled(first, float(far.max()), math.ceil)
        if self.accepted(replace(self.views, glimpse_extents=(wider, *others))):
            what = "wider first field of view" if others else "larger glimpse_extents"
            yield f"a {what} ({_text(wider)}{' pixels are' if wider.unit == 'px' else ' is'} enough)"

    def _narrow(self) -> bool:
        """Whether cells of a wide glimpse lie farther apart than the glimpses that are read at them are wide."""
        extents = np.stack([self.pixels(extent) for extent in self.views.glimpse_extents])
        return bool((extents[:-1] * self.view_grid.pitch > extents[1:] * (1 + _EPS)).any())

    def _ratio(self, view_slack: float) -> float:
        """Returns how many times as wide as the next a field of view is; 1 where they would differ too little."""
        ratio = 1 / (view_slack * max(self.view_grid.pitch))
        return ratio if ratio >= 2 or view_slack == 1 else 1.0

    def clipped(self, extent: Extent) -> Extent:
        """Returns a field of view, no wider than any image."""
        return (
            extent
            if self.fits(extent)
            else self._times(extent, np.minimum((self.shapes / self.pixels(extent)).min(0), 1))
        )

    def _times(self, extent: Extent, most: Float[np.ndarray, " d"]) -> Extent:
        """Returns a field of view times factors, one per axis, or the smallest of them if it has one length only."""
        factors = most.tolist() if len(extent.values) > 1 else [float(most.min())]
        values = zip(extent.values, factors, strict=True)
        return replace(
            extent, values=tuple(_round(value * factor, extent.unit, math.floor) for value, factor in values)
        )

    def _near(self) -> tuple[Extent, ...] | None:
        """Returns several fields of view, the finest as asked for, that differ little from those that were asked for.

        Where cells of one lie too far apart for the next, it is made narrower, or else others are put between the two.
        """
        for filled in (False, True):
            chain: tuple[Extent, ...] = (self.finest,)
            for asked in map(self.clipped, self.views.glimpse_extents[-2::-1]):
                ratios = self.pixels(asked) / self.pixels(chain[0])
                widest = 1 / np.array(self.view_grid.pitch)
                steps = max(1, math.ceil((np.log(ratios) / np.log(np.maximum(widest, 1 + _EPS))).max() - _EPS))
                if steps > (_MOST if filled else 1):
                    asked, steps = self._times(chain[0], np.minimum(ratios.min(0), widest)), 1
                between = [self._times(chain[0], ratios.min(0) ** (step / steps)) for step in range(1, steps)]
                for wider in (*between, asked):
                    if _wider_on_all(self.pixels(wider), self.pixels(chain[0])):
                        chain = (wider, *chain)
            if 1 < len(chain) <= _MOST and self.accepted(replace(self.views, glimpse_extents=chain)):
                return chain
        return None

    def _reaching(self, overview_slack: float, view_slack: float) -> tuple[Extent, ...] | None:
        """Returns fields of view, from wide to fine, under the overview there is; None where none are accepted.

        Args:
            overview_slack: how many cells of the overview a glimpse of the first one is to span.
            view_slack: how many cells of a glimpse one of the next finer is to span.
        """
        chain: tuple[Extent, ...] = (self.finest,)
        ratio = self._ratio(view_slack)
        while (short := overview_slack * float(self.apart(chain[0]).max())) > 1 + _EPS:
            wider = wanted = _scaled(chain[0], ratio, math.floor) if ratio > 1 else chain[0]
            if not self.fits(wider):  # then as wide as it has to be, which may be less
                wider = _scaled(chain[0], short, math.ceil)
            wider = wider if self.fits(wider) else self._within(wanted)
            if not (_wider(wider, chain[0]) and self.fits(wider) and len(chain) < _MOST):
                return None
            chain = (wider, *chain)
        return chain if self.accepted(replace(self.views, glimpse_extents=chain)) else None

    def _with_larger_overview(self, view_slack: float) -> tuple[tuple[Extent, ...], tuple[int, ...]] | None:
        """Returns fields of view, the first as wide as images allow, and the overview whose cells are fine enough."""
        chain: tuple[Extent, ...] = (self.finest,)
        ratio = self._ratio(view_slack)
        while len(chain) < _MOST and ratio > 1:
            wider = _scaled(chain[0], ratio, math.floor)
            if not self.fits(wider):
                room = self.shapes / self.pixels(chain[0])
                least = float(room.min())
                wider = _scaled(chain[0], least, math.floor) if least >= _WORTH else self._within(wider)
                if room.min(0).max() < _WORTH:
                    break
            if not (_wider(wider, chain[0]) and self.fits(wider)):
                break
            chain = (wider, *chain)
        overview = self.overview_for(chain[0])
        made = replace(self.views, overview_size=overview, glimpse_extents=chain)
        return (chain, overview) if len(chain) > 1 and self.accepted(made, overview) else None

    def _in_the_way(self) -> Iterator[str]:
        """Says which image is too small for the glimpses that another one needs, or itself."""
        small = int((self.shapes / self.pixels(self.finest)).min(1).argmin())
        large = int(self.apart(self.finest).max(1).argmax())
        least = _scaled(self.finest, float(self.apart(self.finest).max()), math.ceil)
        if not self.fits(least):
            shape, unit = " x ".join(map(str, self.frames[small].shape)), " pixels" if least.unit == "px" else ""
            yield (
                f"{self.frames[small].name} ({shape} pixels) is smaller than glimpses of {_text(least)}{unit}, which "
                f"{'it' if small == large else self.frames[large].name} needs under this overview."
            )


class _Slides(_Asked):
    """Slides that the fields of view of `experiment=whole_slides` reach, with the cells that it sets."""

    @property
    def own(self) -> tuple[Extent, ...]:
        """The fields of view that the experiment sets."""
        return tuple(map(Extent.parse, _OF_EXPERIMENT))

    def offered(self) -> str:
        """Says that the experiment would do, and which other fields of view would with it."""
        said = (
            f"Zoom: {_EXPERIMENT} would do: it has {_listed(self.own)} and the settings that go with them (give no "
            f"{_EXTENTS} beside it)."
        )
        chain = self._kept() or min(self._chains(), key=len, default=self.own)
        if chain == self.own or len(chain) == 1:
            return said
        branches = "" if len(chain) == len(self.own) else " warm_up.branches=null"  # it sets those of two
        return f'{said} Or keep its other settings: {_EXPERIMENT} "{_EXTENTS}={_listed(chain)}"{branches} would do.'

    def _kept(self) -> tuple[Extent, ...] | None:
        """Returns the several fields of view that were asked for, if they do with these cells, or those near them."""
        asked = self.views.glimpse_extents
        if len(asked) == 1:
            return None
        return asked if self.accepted(self.views) else self._near()


def _wider_on_all(one: Float[np.ndarray, "frame d"], other: Float[np.ndarray, "frame d"]) -> bool:
    """Whether a field of view is wider than another on one axis of each image at least, and narrower on none."""
    return bool((one >= other * (1 - _EPS)).all() and (one > other * (1 + _EPS)).any(1).all())


def _scaled(extent: Extent, factor: float, rounded: Callable[[float], int]) -> Extent:
    """Returns a field of view times a factor, in whole pixels, or in whole micrometres from 100 on."""
    return replace(extent, values=tuple(_round(value * factor, extent.unit, rounded) for value in extent.values))


def _round(value: float, unit: str, rounded: Callable[[float], int]) -> float:
    digits = 0 if unit == "px" else max(0, _DIGITS[unit] - 1 - math.floor(math.log10(value)))
    slip = _EPS if rounded is math.floor else -_EPS
    return rounded(value * 10**digits * (1 + slip)) / 10**digits or value


def _wider(one: Extent, other: Extent) -> bool:
    """Whether one field of view is wider than another: on one axis at least, and narrower on none."""
    pairs = list(zip(one.values, other.values, strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)


def _listed(extents: Sequence[Extent]) -> str:
    return f"[{','.join(map(_text, extents))}]"  # without spaces, so that it can be typed


def _text(extent: Extent) -> str:
    text = [f"{value:.15g}{'' if extent.unit == 'px' else extent.unit}" for value in extent.values]
    return text[0] if len(text) == 1 else f"[{','.join(text)}]"
