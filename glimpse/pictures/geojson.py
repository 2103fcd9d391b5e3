"""Exports the looks of a reading as objects for QuPath, in GeoJSON (RFC 7946)."""

import gzip
import json
import os
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from glimpse.atomic import write_bytes_atomically
from glimpse.errors import SettingsError
from glimpse.pictures.drawing import order_colours
from glimpse.reading.looks import Look, looks_of, plain_number
from glimpse.reading.records import Reading

OBJECTS = ("annotation", "detection")
_NAMESPACE = uuid.UUID("6b7c1f0e-2d0a-5c7e-9a54-3f1d5c0c8a11")  # of all uuids that are made here


def to_geojson(
    reading: Reading,
    path: str | os.PathLike[str] | None = None,
    *,
    offset: Sequence[int] = (),
    objects: str = "annotation",
    name: str = "Look",
    levels: int = 1,
    key: str = "",
) -> dict[str, Any]:
    """Returns the looks as a FeatureCollection of polygons in level-0 pixels (x, y), which QuPath imports.

    Each look is a locked object, with a classification (its level, where there are several), and as measurements its
    order, its level, the wide look inside which it lies (`inside`, where there are several levels; 0: the overview),
    the answer after it, its gain, the locator's probability and the size of a pixel as it was seen (`spacing_x_um`).
    Its uuid depends on what it is only, so that the same reading gives the same file.

    Args:
        reading: a reading with a trace.
        path: file to write the GeoJSON to, too; it is compressed if the name ends with ".gz". None writes no file.
        offset: level-0 pixels that lie before the image, per axis (y, x), where the viewer shows them. QuPath shows a
            slide with bounds from these on, so nothing is to be added for it.
        objects: the kind of QuPath's objects, "annotation" or "detection".
        name: the name of the classification.
        levels: how many fields of view there are, used or not; where there are several, the classification tells them
            apart.
        key: a text on which uuids depend, too, such as the checksum of the model.

    Raises:
        ValueError: the image is not two-dimensional, the reading has no trace, or there is no such kind of objects.
    """
    if objects not in OBJECTS:
        raise SettingsError(f"Expected objects as one of {', '.join(OBJECTS)}, got {objects!r}.")
    ndim = len(reading.traced.frame.shape)
    if ndim != 2:
        raise ValueError(f"{reading.id}: GeoJSON is for two-dimensional images, this one has {ndim} axes.")
    looks, colours = looks_of(reading, offset), order_colours(reading.glimpses)
    features = [
        _feature(look, list(colour), objects, (name, levels), (key, reading.id))
        for look, colour in zip(looks, colours, strict=True)
    ]
    collection = {"type": "FeatureCollection", "features": features}
    if path is not None:
        write_geojson(path, collection)
    return collection


def _feature(
    look: Look, colour: list[int], objects: str, classes: tuple[str, int], owner: tuple[str, ...]
) -> dict[str, Any]:
    (top, left), (bottom, right) = ([plain_number(value) for value in corner] for corner in (look.low, look.high))
    ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
    name, levels = classes
    classification, inside = (f"{name}: level {look.level}", {"inside": look.inside}) if levels > 1 else (name, {})
    measurements: dict[str, float] = {"order": look.order, "level": look.level, **inside, **look.answer}
    measurements["gain"] = look.gain
    if look.chance is not None:
        measurements["locator_probability"] = look.chance
    measurements |= {f"spacing_{axis}_{look.unit}": size for axis, size in zip("yx", look.spacing, strict=True)}
    identity = json.dumps([*owner, look.order, look.level, ring])
    return {
        "type": "Feature",
        "id": str(uuid.uuid5(_NAMESPACE, identity)),
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "properties": {
            "objectType": objects,
            "name": f"look {look.order}",
            "color": colour,
            "classification": {"name": classification, "color": colour},
            "isLocked": True,
            "measurements": measurements,
        },
    }


def write_geojson(path: str | os.PathLike[str], collection: dict[str, Any]) -> None:
    """Writes GeoJSON atomically, compressed if the name ends with ".gz"; the bytes depend on the content only.

    Raises:
        WriteError: the file cannot be written.
    """
    content = (json.dumps(collection, indent=1) + "\n").encode()
    packed = os.fspath(path).endswith(".gz")
    write_bytes_atomically(Path(path), gzip.compress(content, mtime=0) if packed else content)
