"""What lies where on a slide of which most is glass: fragments of tissue far apart, each laid out as a slide is.

Number and place of the fragments, and which of them would hold foci, are drawn before the target is looked at, and so
is all of a fragment but the kind of its spots.
"""

from dataclasses import dataclass

import numpy as np

from glimpse.synthetic.slides.layout import Layout, lay_out

GRID = 256
"""Fragments begin at multiples of so many pixels, where tiles do, so that glass around them stays plain."""

SMALLEST = 8192
"""Side of the smallest slide on which fragments surely find room, in pixels."""

_LARGE = 16_384
_FRAGMENTS, _HOLDING = (6, 9), (1, 2)  # how many there are, and how many of them hold foci: least and most
_REDRAWS = 10_000


@dataclass(frozen=True)
class Fragment:
    """A square of a slide with tissue in it.

    Attributes:
        y: row of its upper left corner in level-0 pixels of the slide.
        x: its column.
        layout: what lies where in it, in pixels from that corner.
    """

    y: int
    x: int
    layout: Layout


def fragment_side(size: int) -> int:
    """Side of the fragments of a slide in pixels: 2048 from 16,384 pixels of the slide on, else 1024."""
    return 2048 if size >= _LARGE else 1024


def scatter(
    rng: np.random.Generator, size: int, target: int, tissue_map: np.ndarray, islands: np.ndarray
) -> tuple[Fragment, ...]:
    """Draws the plan of a slide: 6 to 9 fragments; on a positive one, 1 or 2 of them hold foci.

    Args:
        rng: The slide's own source of randomness.
        size: Side of the slide in pixels, a multiple of 256 of at least `SMALLEST`.
        target: 1 if some of the spots are tumour, 0 if none is.
        tissue_map: As of `lay_out`.
        islands: As of `lay_out`.

    Raises:
        RuntimeError: There is no room for the fragments, or in one of them for two spots.
    """
    side = fragment_side(size)
    corners = _corners(rng, size, side, int(rng.integers(_FRAGMENTS[0], _FRAGMENTS[1] + 1)))
    holding = rng.permutation(len(corners))[: rng.integers(_HOLDING[0], _HOLDING[1] + 1)]
    fragments = []
    for number, (y, x) in enumerate(corners):
        # all spots of a fragment may be foci: there are look-alikes in the others
        layout = lay_out(rng, side, int(target and number in holding), tissue_map, islands, all_foci=True)
        fragments.append(Fragment(y, x, layout))
    return tuple(fragments)


def _corners(rng: np.random.Generator, size: int, side: int, count: int) -> list[tuple[int, int]]:
    """Corners of squares that lie apart, one step of the grid at least."""
    found: list[tuple[int, int]] = []
    for _ in range(_REDRAWS):
        y, x = (GRID * int(step) for step in rng.integers(0, (size - side) // GRID + 1, 2))
        if all(max(abs(y - other[0]), abs(x - other[1])) > side for other in found):
            found.append((y, x))
        if len(found) == count:
            return found
    raise RuntimeError(f"No room for {count} fragments of {side} pixels on {size} pixels; make larger slides.")
