"""Records of readings from which a report makes pages: what was seen, where, and what the answer became.

A record is JSON and holds everything of one case, pictures included, so that it is there whole or not at all. What it
shows is of the reading whose numbers are reported; nothing is read again.

    {"form": 1, "id": "slide-021", "patient": "case-021", "target": "1", "thumbnail": <JPEG>, "readings": [...]}

There is one reading for each model:

    model          its name; empty where there is one model only
    answer         the last answer as a text
    columns        names of the outputs;  probabilities: rows of them, before the first look and after each look
    pictured       the numbers of the columns of which one is shown look by look; they have the same unit
    captions       for each of these rows a very short text and the length of a bar from 0 to 1
    unit           "um", "mm" or "px"
    panels         the planes in which the image is shown: name, left (letter of a side of the body), through (the axis
                   that is cut), width and height in `unit`, grid (rows and columns of cells)
    cuts           for each row of probabilities, which of `overviews` is shown;  overviews: a JPEG for each panel
    heat           for each panel a PNG: where the locator wanted to look next. Its pictures before the first look and
                   after each look lie one below the other
    peaks          for each of these pictures the probability of the most probable cell
    looks          for each look: order, level, colour; parent (order of the wide look inside which it lies, or 0);
                   where (a text); boxes (for each panel left, top, width and height, as shares of the panel); place
                   and reach (its centre in [-1, 1] and its extent as a share of the image, along each axis); glimpse
                   (a JPEG for each of its planes); gain, chance, and for each column the contribution (see `Reading`)

JPEG and PNG are written in base 64.
"""

import base64
import io
import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from glimpse.pictures.drawing import BLACK, heat_layers, order_colours, through_the_middle
from glimpse.pictures.planes import Plane, coloured, planes
from glimpse.reading.looks import DIGITS, Look, looks_of
from glimpse.reading.records import Reading

FORM = 1
PAGES = "pages"  # the folder of records, in run folders and in folders of predictions
_QUALITY = 80  # of JPEG
_OVERVIEW, _GLIMPSE = 1024, 256  # pixels along the longer side, at most
_THUMBNAIL = 56  # pixels of its height
_CUTS = 256  # a volume that was looked at more often is cut through its first looks only


def page_record(
    readings: Sequence[Reading], offset: Sequence[int] = (), models: Sequence[str] = ("",)
) -> dict[str, Any]:
    """Returns the record of a case, ready for JSON; the module describes it.

    Args:
        readings: readings of the case with traces, one for each model.
        offset: level-0 pixels of the file that lie before the image, per axis (see `ImageSource.offset`).
        models: the names of the models.

    Raises:
        ValueError: a reading has no trace.
    """
    first = readings[0]
    trace = first.traced
    small = through_the_middle(trace.overview, _THUMBNAIL, trace.sides, BLACK)  # pages are light or dark, volumes dark
    return {
        "form": FORM,
        "id": first.id,
        "patient": first.patient,
        "target": None if first.target is None else trace.task.describe_target(first.target),
        "thumbnail": _jpeg(small),
        "readings": [
            {"model": model, **_told(reading, offset)} for model, reading in zip(models, readings, strict=True)
        ],
    }


def page_text(record: dict[str, Any]) -> str:
    """Returns the content of a record's file; numbers that are not finite, which JSON does not have, become null."""
    return json.dumps(_finite(record), separators=(",", ":"), allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(one) for name, one in value.items()}
    if isinstance(value, list):
        return [_finite(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _told(reading: Reading, offset: Sequence[int]) -> dict[str, Any]:
    trace, task = reading.traced, reading.traced.task
    shown = planes(trace.overview.shape[1:])
    cuts, overviews = _overviews(reading, shown)
    return {
        "answer": task.describe(reading.prediction),
        "columns": list(task.columns),
        "pictured": list(task.pictured),
        "probabilities": _numbers(reading.probabilities),
        "captions": [[text, round(share, 4)] for text, share in reading.captions],
        "unit": trace.frame.unit or "px",
        "panels": [_panel(plane, trace.sides, plane.most(trace.cells[0]).shape) for plane in shown],
        "cuts": cuts,
        "overviews": overviews,
        "heat": [_png(layers) for layers in (heat_layers(plane, trace.cells) for plane in shown)],
        "peaks": [round(float(cells.max()), DIGITS) for cells in trace.cells],
        "looks": _looks(reading, shown, offset),
    }


def _panel(plane: Plane, sides: Sequence[float], grid: Sequence[int]) -> dict[str, Any]:
    height, width = plane.proportions(sides)
    return {
        "name": plane.name,
        "left": plane.left,
        "through": plane.through,
        "width": round(float(width), 3),
        "height": round(float(height), 3),
        "grid": list(grid),
    }


def _overviews(reading: Reading, shown: Sequence[Plane]) -> tuple[list[int], list[list[str]]]:
    """Returns which cut each step shows, and the cuts: of a volume through each look, of other images the only one."""
    overview, steps = reading.traced.overview, len(reading.predictions)
    places = [np.zeros(overview.ndim - 1)]
    if shown[0].through is not None and len(reading.scanpath):
        places = list(reading.scanpath[:_CUTS])
    found: dict[tuple[str, ...], int] = {}
    chosen = []
    for place in places:
        cut = tuple(_jpeg(_picture(plane.cut(overview, place), overview.ndim)) for plane in shown)
        chosen.append(found.setdefault(cut, len(found)))
    last = len(chosen) - 1
    return [chosen[min(max(step - 1, 0), last)] for step in range(steps)], [list(cut) for cut in found]


def _looks(reading: Reading, shown: Sequence[Plane], offset: Sequence[int]) -> list[dict[str, Any]]:
    trace, contributions = reading.traced, reading.contributions
    lengths = [plane.lengths(trace.extents) for plane in shown]
    corners = [plane.places(reading.scanpath) - length / 2 for plane, length in zip(shown, lengths, strict=True)]
    boxes = np.stack([np.concatenate(both, 1) for both in zip(corners, lengths, strict=True)], 1).round(5)
    colours = order_colours(reading.glimpses)
    told = []
    for index, look in enumerate(looks_of(reading, offset)):
        told.append(
            {
                "order": look.order,
                "level": look.level,
                "colour": "#{:02x}{:02x}{:02x}".format(*colours[index]),
                "parent": look.inside,
                "where": _where(look, trace.frame.spacing, trace.frame.unit),
                "boxes": boxes[index].tolist(),
                "place": _numbers(reading.scanpath[index]),
                "reach": _numbers(trace.extents[index]),
                "glimpse": _glimpse(trace.glimpses[index]),
                "gain": look.gain,
                "chance": look.chance,
                "contribution": None if contributions is None else _numbers(contributions[index]),
            }
        )
    return told


def _where(look: Look, spacing: Sequence[float] | None, unit: str | None) -> str:
    """Returns where a look lies, how large it is and how large a pixel of it was, as a text."""
    axes = {1: "x", 2: "yx", 3: "zyx"}.get(len(look.low), "")
    order = range(len(look.low))[:: 1 if len(axes) == 3 else -1]  # of planes, x comes first
    parts = [f"{axes[i] if axes else f'axis {i}'} {look.low[i]:.0f} to {look.high[i]:.0f}" for i in order]
    text = f"{', '.join(parts)} ({'voxels' if len(axes) == 3 else 'level-0 pixels'})"
    if spacing is None or unit is None:
        return text
    sides = " × ".join(f"{look.size[i] * spacing[i]:.3g}" for i in order)
    seen = [f"{look.spacing[i]:.3g}" for i in order]
    pixel = seen[0] if len({*seen}) == 1 else " × ".join(seen)
    return f"{text}; {sides} {unit}, seen at {pixel} {unit} per pixel".replace("um", "µm")


def _glimpse(glimpse: UInt8[np.ndarray, "channel *size"]) -> list[str]:
    middle = np.zeros(glimpse.ndim - 1)
    return [_jpeg(_picture(plane.cut(glimpse, middle), glimpse.ndim, _GLIMPSE)) for plane in planes(glimpse.shape[1:])]


def _picture(pixels: UInt8[np.ndarray, "channel height width"], axes: int, largest: int = _OVERVIEW) -> Image.Image:
    picture = Image.fromarray(coloured(pixels, colour=axes < 4))  # of the channel and the image: volumes have four
    picture.thumbnail((largest, largest))
    return picture


def _numbers(values: np.ndarray) -> Any:
    return np.asarray(values, np.float64).round(DIGITS).tolist()


def _jpeg(picture: Image.Image) -> str:
    return _written(picture if _is_coloured(picture) else picture.convert("L"), "JPEG", quality=_QUALITY, optimize=True)


def _is_coloured(picture: Image.Image) -> bool:
    pixels = np.asarray(picture)
    return bool((pixels != pixels[..., :1]).any())


def _png(picture: Image.Image) -> str:
    return _written(picture, "PNG", optimize=True)


def _written(picture: Image.Image, form: str, **options: Any) -> str:
    content = io.BytesIO()
    picture.save(content, form, **options)
    return base64.b64encode(content.getvalue()).decode()
