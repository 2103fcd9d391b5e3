"""What `Agent.read` returns: a reading with its answer, picture, table and GeoJSON."""

import base64
import html
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from glimpse.atomic import write_bytes_atomically
from glimpse.errors import EvaluationError, MissingExtraError
from glimpse.pictures.episodes import scanpath_picture
from glimpse.pictures.geojson import to_geojson
from glimpse.reading.looks import Look, looks_of, plain_number, spacing_text
from glimpse.reading.records import Reading
from glimpse.sources import ImageSource
from glimpse.sources.volume.grid import VoxelGrid
from glimpse.views import Views

Table = tuple[list[str], list[list[Any]]]
"""Names of columns, and rows."""


@dataclass(frozen=True, eq=False)
class CaseReading(Reading):
    """A reading of one image by an agent; it always has a trace. Picture and numbers are of the same reading.

    Attributes:
        offset: level-0 pixels of the file that lie before the image, per axis; 0 but for slides with bounds.
        grid: of a volume, the grid of its file.
        spacing: size of a level-0 pixel per axis, as the agent took it; None where it is not known.
        unit: of the spacing, "um" or "mm".
        glimpse_spacings: for each field of view the size of a pixel of a glimpse per axis, as it is shown, in `unit`;
            in level-0 pixels where the spacing is not known.
    """

    offset: tuple[int, ...] = ()
    grid: VoxelGrid | None = None
    spacing: tuple[float, ...] | None = None
    unit: str | None = None
    glimpse_spacings: tuple[tuple[float, ...], ...] = ()

    @classmethod
    def of(cls, reading: Reading, source: ImageSource, views: Views) -> "CaseReading":
        """Makes one of a reading with a trace, and of the source and the views with which it was read."""
        levels = range(len(views.glimpse_extents))
        shown = np.stack([views.shown(source, (0.0,) * source.ndim, level) for level in levels])
        per_pixel = (shown[:, 1] - shown[:, 0]) / views.glimpse_size * np.array(source.spacing or (1.0,))
        return cls(
            **{one.name: getattr(reading, one.name) for one in fields(Reading)},
            offset=tuple(source.offset),
            grid=getattr(source, "grid", None),
            spacing=source.spacing,
            unit=source.unit,
            glimpse_spacings=tuple(tuple(row) for row in per_pixel.tolist()),
        )

    def __repr__(self) -> str:  # that of a dataclass writes out every number of every array
        answer = ", ".join(f"{name}={value:.3g}" for name, value in self.answer.items())
        return f"CaseReading({self.id!r}: {answer}; {self.glimpses} glimpses)"

    # ------------------------------------------------------------------------------------------ the answer
    @property
    def answer(self) -> dict[str, float]:
        """The last probabilities (or quantities) by the name of their column, such as `p_tumour`."""
        return dict(zip(self.traced.task.columns, self.probabilities[-1].tolist(), strict=True))

    @property
    def attention(self) -> Float[np.ndarray, "step *grid"]:
        """The probability that the next glimpse lies in each cell of the overview, before the first and after each."""
        return self.traced.cells

    @property
    def looks(self) -> list[Look]:
        """The glimpses in order, in level-0 pixels of the file."""
        return looks_of(self, self.offset)

    # ------------------------------------------------------------------------------------------ pictures and tables
    def plot(self, path: str | os.PathLike[str] | None = None) -> Image.Image:
        """Returns a picture: the scanpath, where it wanted to look first, and the glimpses with the answers after them.

        Args:
            path: a file to write it to, too; its suffix says in which format, such as ".png".

        Raises:
            WriteError: the file cannot be written.
            EvaluationError: there is no such format.
        """
        picture = Image.fromarray(scanpath_picture(self))
        if path is not None:
            form = Image.registered_extensions().get(Path(path).suffix.lower())
            held = io.BytesIO()
            try:
                picture.save(held, form)
            except (KeyError, OSError, ValueError) as error:  # of a format that holds no colours, for example
                raise EvaluationError(
                    f"{path}: pictures of this suffix cannot be written. Call it .png or .jpg."
                ) from error
            write_bytes_atomically(path, held.getvalue())
        return picture

    def to_geojson(
        self,
        path: str | os.PathLike[str] | None = None,
        *,
        objects: str = "annotation",
        subtract_bounds: bool = True,
        key: str = "",
        name: str = "Look",
    ) -> dict[str, Any]:
        """Returns the looks as GeoJSON that QuPath opens (see `glimpse.pictures.geojson.to_geojson`).

        Args:
            path: a file to write it to, too; compressed if its name ends with ".gz".
            objects: the kind of QuPath's objects, "annotation" or "detection".
            subtract_bounds: whether positions begin at the bounds that the slide states, as QuPath shows it; otherwise
                they are those of OpenSlide.
            key: a text on which the objects' uuids depend, too.
            name: the name of their classification.

        Raises:
            ValueError: the image is not two-dimensional.
        """
        offset = () if subtract_bounds else self.offset
        return to_geojson(
            self, path, offset=offset, objects=objects, key=key, name=name, levels=len(self.glimpse_spacings)
        )

    def table(self) -> Table:
        """Returns names of columns and one row per look: order, level, box, answer, gain, and how it was seen.

        With several fields of view, the third column, "inside", is the order of the wide look that showed its place, or
        0 where that was the overview.

        Boxes of planes are `minx, miny, width, height` in level-0 pixels of the file. Those of volumes are in voxels
        (i, j, k) as the file stores them, followed by the centre in millimetres to the right, front and top (RAS).
        The last columns are the locator's probability, and the size of a pixel as it was seen, with its unit.
        """
        looks = self.looks
        names, boxes = self._boxes(looks)
        columns, several = list(self.traced.task.columns), len(self.glimpse_spacings) > 1
        rows = [
            [
                *(look.order, look.level, *([look.inside] if several else []), *box),
                *(look.answer[name] for name in columns),
                *(look.gain, look.chance, spacing_text(look.spacing), look.unit),
            ]
            for look, box in zip(looks, boxes, strict=True)
        ]
        own = ["order", "level", *(["inside"] if several else []), *names]
        return [*own, *columns, "gain", "locator_probability", "spacing", "unit"], rows

    def _boxes(self, looks: Sequence[Look]) -> tuple[list[str], list[list[int | float]]]:
        """Returns the names of the columns in which a box is written, and the numbers of each look."""
        ndim = self.scanpath.shape[1]
        if self.grid is not None:
            stored = self.grid.stored(self.boxes)
            centres = self.grid.positions(stored.mean(axis=1)) if len(stored) else np.zeros((0, 3))
            values = np.concatenate([stored[:, 0], stored[:, 1] - stored[:, 0], centres, self.grid.sides(stored)], 1)
            names = [*(f"min{axis}" for axis in "ijk"), *(f"size{axis}" for axis in "ijk")]
            names += ["right_mm", "anterior_mm", "superior_mm", *(f"side{axis}_mm" for axis in "ijk")]
            return names, [[plain_number(value) for value in row] for row in values.tolist()]
        letters = {1: "x", 2: "xy"}.get(ndim)
        names = [f"min{letter}" for letter in letters or map(str, range(ndim))]
        names += ["width", "height"][: len(letters)] if letters else [f"size{axis}" for axis in range(ndim)]
        step = -1 if letters else 1  # the axes of planes are (y, x)
        return names, [[plain_number(v) for v in (*look.low[::step], *look.size[::step])] for look in looks]

    def to_dataframe(self) -> Any:
        """Returns `table` as a `pandas.DataFrame`.

        Raises:
            MissingExtraError: pandas is not installed.
        """
        try:
            import pandas
        except ImportError as error:
            raise MissingExtraError(
                "to_dataframe() needs pandas, which is not installed: pip install 'glimpse-rl[pandas]'."
            ) from error
        columns, rows = self.table()
        return pandas.DataFrame(rows, columns=columns)

    def _repr_html_(self) -> str:
        """Returns what notebooks show: the answer, and the picture."""
        task = self.traced.task
        cells = "".join(
            f"<tr><td>{html.escape(name)}</td><td>{value:.4g}</td></tr>" for name, value in self.answer.items()
        )
        content = io.BytesIO()
        self.plot().save(content, "PNG")
        picture = base64.b64encode(content.getvalue()).decode()
        return (
            f"<div><b>{html.escape(self.id)}</b>: {html.escape(task.describe(self.prediction))} after {self.glimpses} "
            f'glimpses<table>{cells}</table><img style="max-width: 100%" src="data:image/png;base64,{picture}"></div>'
        )
