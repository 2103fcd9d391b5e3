"""What lies where on a slide of which most is glass: fragments of tissue far apart.

Some are laid out as a slide is, with dark spots. The others have the same kinds of tissue but no spots, and are copies
of each other. Number and place of the fragments, and which of them would hold foci, are drawn before the target is
looked at, and so is all of a fragment but the kind of its spots.
"""

from dataclasses import dataclass

import numpy as np

from glimpse.synthetic.slides.layout import Layout, lay_out, lay_out_plain

GRID = 256
"""Fragments begin at multiples of so many pixels, where tiles do, so that glass around them stays plain."""

SMALLEST = 8192
"""Side of the smallest slide on which fragments surely find room, in pixels."""

_SIDES = ((49_152, 4096), (24_576, 3072), (16_384, 2048), (0, 1024))  # of slides at least, and of their fragments
_SPOTTED, _HOLDING, _PLAIN = (4, 5), (2, 3), (8, 10)  # least and most: with spots, of which with foci, without spots
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
    """Side of the fragments in pixels: 4096 of slides from 49,152 on, 3072 from 24,576, 2048 from 16,384, else 1024."""
    return next(side for least, side in _SIDES if size >= least)


def scatter(
    rng: np.random.Generator, size: int, target: int, tissue_map: np.ndarray, islands: np.ndarray
) -> tuple[Fragment, ...]:
    """Draws the plan of a slide: 4 or 5 fragments with spots, then 8 to 10 without, which have one layout.

    On a positive slide, all spots of 2 or 3 fragments are foci.

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
    spotted, plain = (int(rng.integers(least, most + 1)) for least, most in (_SPOTTED, _PLAIN))
    corners = _corners(rng, size, side, spotted + plain)
    holding = rng.permutation(spotted)[: rng.integers(_HOLDING[0], _HOLDING[1] + 1)]
    fragments = []
    for number, (y, x) in enumerate(corners[:spotted]):
        # all spots of a fragment are foci: there are look-alikes in the others
        layout = lay_out(rng, side, int(target and number in holding), tissue_map, islands, all_foci=True)
        fragments.append(Fragment(y, x, layout))
    without = lay_out_plain(rng, side, tissue_map)
    fragments += [Fragment(y, x, without) for y, x in corners[spotted:]]
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
