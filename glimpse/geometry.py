"""The only conversions between [-1, 1], level-0 pixels and micrometres or millimetres.

The pixel frame is continuous: 0 is the outer edge of the first pixel and ``shape[axis]`` the outer edge of the last, so
the centre of pixel ``i`` lies at ``i + 0.5``. Axes come in array order, (y, x) or (z, y, x). Everything works in any
number of dimensions.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np

from glimpse.errors import UserError

Numbers: TypeAlias = np.ndarray | Sequence[Any] | float | int

MILLIMETRES = {"um": 1e-3, "mm": 1.0}
_VALUE = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][+-]?[0-9]+)?)\s*([a-zA-Zµμ]*)\s*")
_UNITS = {"": "px", "px": "px", "um": "um", "µm": "um", "μm": "um", "mm": "mm", "mpp": "mpp"}


UNKNOWN_SIZE = "needs the size of a pixel, which the file does not state"


class MissingSpacingError(UserError, ValueError):
    """A physical size was asked of an image whose pixels have no known physical size."""


@dataclass(frozen=True)
class Frame:
    """The full-resolution ("level-0") grid of one image.

    Attributes:
        shape: pixels per axis, (height, width) or (depth, height, width).
        spacing: size of a pixel per axis in ``unit``, or None where the file does not say.
        unit: "um" or "mm"; None exactly when ``spacing`` is None.
        name: the file or array it belongs to, for error messages.
    """

    shape: tuple[int, ...]
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    name: str = "image"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(int(n) for n in self.shape))
        if not self.shape or min(self.shape) < 1:
            raise ValueError(f"{self.name}: a frame needs at least one pixel on every axis, got shape {self.shape}.")
        if self.spacing is None:
            object.__setattr__(self, "unit", None)
            return
        spacing = tuple(float(value) for value in self.spacing)
        object.__setattr__(self, "spacing", spacing)
        if len(spacing) != len(self.shape) or not all(value > 0 and math.isfinite(value) for value in spacing):
            raise ValueError(
                f"{self.name}: expected one positive spacing for each of {len(self.shape)} axes, got {spacing}."
            )
        if self.unit not in MILLIMETRES:
            raise ValueError(f"{self.name}: the unit of a spacing must be 'um' or 'mm', got {self.unit!r}.")

    @property
    def ndim(self) -> int:
        """Number of axes."""
        return len(self.shape)

    @property
    def sides(self) -> tuple[float, ...]:
        """Length of each axis in ``unit``, or in pixels where the spacing is not known."""
        return tuple(n * size for n, size in zip(self.shape, self.spacing or (1.0,) * self.ndim, strict=True))

    def to_pixels(self, location: Numbers) -> np.ndarray:
        """Level-0 pixels (..., d) of locations in [-1, 1]^d (..., d): ``(location + 1) / 2 * shape``."""
        return (np.asarray(location, np.float64) + 1.0) * 0.5 * np.asarray(self.shape, np.float64)

    def to_location(self, pixels: Numbers) -> np.ndarray:
        """Locations in [-1, 1]^d (..., d) of level-0 pixels (..., d); the inverse of `to_pixels`."""
        return np.asarray(pixels, np.float64) / np.asarray(self.shape, np.float64) * 2.0 - 1.0

    def to_physical(self, pixels: Numbers) -> np.ndarray:
        """Level-0 pixels (..., d) in ``unit``, measured from the outer edge of the first pixel.

        Raises:
            MissingSpacingError: the image has no spacing.
        """
        return np.asarray(pixels, np.float64) * self._known_spacing("a position")

    def from_physical(self, physical: Numbers) -> np.ndarray:
        """Level-0 pixels (..., d) of positions in ``unit`` (..., d); the inverse of `to_physical`.

        Raises:
            MissingSpacingError: the image has no spacing.
        """
        return np.asarray(physical, np.float64) / self._known_spacing("a position")

    def _known_spacing(self, what: str) -> np.ndarray:
        if self.spacing is None:
            raise MissingSpacingError(
                f"{self.name}: {what} in micrometres or millimetres {UNKNOWN_SIZE}. State it in a column 'mpp' of the "
                "CSV, or with mpp= of glimpse predict and in Python (micrometres per pixel); in training, for slides "
                "with env.cohort.mpp, for volumes and radiographs with env.cohort.spacing (millimetres per pixel)."
            )
        return np.asarray(self.spacing, np.float64)


@dataclass(frozen=True)
class Extent:
    """A field of view: one value for all axes or one per axis, in level-0 pixels ("px"), "um" or "mm".

    In "mpp" it is the micrometres that a pixel of the glimpse spans; how wide that is depends on its size (see `at`).
    """

    values: tuple[float, ...]
    unit: str = "px"

    def __post_init__(self) -> None:
        object.__setattr__(self, "values", tuple(float(value) for value in self.values))
        if not self.values or not all(value > 0 and math.isfinite(value) for value in self.values):
            raise ValueError(f"an extent must be positive, got {self.values}. Write 128, '64um' or '30mm'.")
        if self.unit not in ("px", "mpp", *MILLIMETRES):
            raise ValueError(f"the unit of an extent must be 'px', 'um', 'mm' or 'mpp', got {self.unit!r}.")

    @classmethod
    def parse(cls, value: Any) -> Extent:
        """Reads 128, "128", "64um", "30mm", "0.5mpp" or one such per axis ([8, 64, 64], ["8mm", "64mm", "64mm"]).

        Raises:
            ValueError: the value is none of these, not positive, or mixes units.
        """
        if isinstance(value, Extent):
            return value
        parts = [value] if isinstance(value, str) or np.ndim(value) == 0 else list(value)
        parsed = [_parse_value(part) for part in parts]
        units = {unit for _, unit in parsed}
        if len(units) != 1:
            raise ValueError(
                f"an extent needs one unit for all axes, got {value!r}. Write e.g. ['8mm', '64mm', '64mm']."
            )
        return cls(tuple(number for number, _ in parsed), units.pop())

    def at(self, size: Sequence[int]) -> Extent:
        """The field of view of a glimpse of so many pixels per axis: in "um" where this one is in "mpp"; else itself.

        Raises:
            ValueError: the extent has another number of axes than the size.
        """
        if self.unit != "mpp":
            return self
        if len(self.values) not in (1, len(size)):
            raise ValueError(f"the extent {self} has {len(self.values)} axes, a glimpse has {len(size)}.")
        same = len(self.values) == 1 and len(set(size)) == 1
        values = np.multiply(self.values, size[:1] if same else size)
        return Extent(tuple(values.tolist()), "um")

    def to_pixels(self, frame: Frame) -> np.ndarray:
        """The extent in level-0 pixels of a frame, float64 (d,).

        Raises:
            MissingSpacingError: the extent is physical and the frame's spacing is unknown.
            ValueError: the extent has another number of axes than the frame, or is in "mpp".
        """
        if self.unit == "mpp":
            raise ValueError(f"{frame.name}: how wide {self} is depends on the size of glimpses. Give a width, '64um'.")
        if len(self.values) not in (1, frame.ndim):
            raise ValueError(
                f"{frame.name}: the extent {self} has {len(self.values)} axes, the image {frame.ndim}. "
                "Give one value, or one per axis."
            )
        values = self.values * frame.ndim if len(self.values) == 1 else self.values
        if self.unit == "px":
            return np.array(values, np.float64)
        spacing = frame.spacing or frame._known_spacing(f"the extent {self}")
        scale = MILLIMETRES[self.unit] / MILLIMETRES[str(frame.unit)]
        return np.array([value * scale / size for value, size in zip(values, spacing, strict=True)], np.float64)

    def __str__(self) -> str:
        text = [f"{value:g}{'' if self.unit == 'px' else self.unit}" for value in self.values]
        return text[0] if len(text) == 1 else "[" + ", ".join(text) + "]"


def _parse_value(value: Any) -> tuple[float, str]:
    match = _VALUE.fullmatch(str(value))
    unit = _UNITS.get(match.group(2).lower()) if match else None
    if match is None or unit is None or isinstance(value, bool):
        raise ValueError(
            f"cannot read the extent {value!r}: expected level-0 pixels (128) or a physical size ('64um', '30mm'; "
            "'0.5mpp' per pixel of the glimpse), or one such value per axis."
        )
    return float(match.group(1)), unit


@dataclass(frozen=True)
class CellGrid:
    """The cells of an overview's feature map: boxes of ``side`` pixels that cover the overview without gaps.

    Where a side of the overview is not a whole number of cells, the outer cells reach beyond its edges, equally far on
    both sides or one pixel further behind. The centre of every cell lies inside the overview, or on its edge.

    Attributes:
        size: pixels of the overview per axis.
        side: pixels of a cell per axis.
    """

    size: tuple[int, ...]
    side: tuple[int, ...]

    def __post_init__(self) -> None:
        for name in ("size", "side"):
            object.__setattr__(self, name, tuple(int(n) for n in getattr(self, name)))
        if not self.size or len(self.size) != len(self.side) or min(*self.size, *self.side) < 1:
            raise ValueError(f"a grid of cells needs a size and a side of at least 1 per axis, got {self}.")

    @property
    def cells(self) -> tuple[int, ...]:
        """Number of cells per axis."""
        return tuple(-(-n // side) for n, side in zip(self.size, self.side, strict=True))

    @property
    def margins(self) -> tuple[tuple[int, int], ...]:
        """How many pixels the cells reach beyond the overview, before and after it on each axis."""
        extra = [cells * side - n for n, side, cells in zip(self.size, self.side, self.cells, strict=True)]
        return tuple((n // 2, n - n // 2) for n in extra)

    @property
    def pitch(self) -> tuple[float, ...]:
        """Distance of neighbouring cells per axis, as a share of the image's side."""
        return tuple(side / n for side, n in zip(self.side, self.size, strict=True))

    def along_axes(self) -> list[np.ndarray]:
        """The coordinates of the cells' centres in [-1, 1], one float64 array (cells,) per axis."""
        per_axis = zip(self.size, self.side, self.cells, self.margins, strict=True)
        return [2 * (side * (np.arange(cells) + 0.5) - before) / n - 1 for n, side, cells, (before, _) in per_axis]

    def locations(self) -> np.ndarray:
        """The centres of the cells in [-1, 1]^d, float32 (cell, d), in C order."""
        mesh = np.meshgrid(*self.along_axes(), indexing="ij")
        return np.stack(mesh, axis=-1).reshape(-1, len(self.size)).astype(np.float32)
