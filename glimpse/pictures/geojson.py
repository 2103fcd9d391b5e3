"""Exports the glimpses of a reading as annotations for QuPath."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.atomic import write_atomically
from glimpse.pictures.drawing import order_colours
from glimpse.reading.records import Reading


def to_geojson(reading: Reading, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """Returns the glimpses as GeoJSON polygons in level-0 pixels (x, y), which QuPath imports as annotations.

    Args:
        reading: a reading with a trace.
        path: file to write the GeoJSON to, too; None writes no file.

    Raises:
        ValueError: the image is not two-dimensional, or the reading has no trace.
    """
    trace = reading.traced
    shape = np.array(trace.frame.shape)
    if len(shape) != 2:
        raise ValueError(f"{reading.id}: GeoJSON is for two-dimensional images, this one has {len(shape)} axes.")
    centres = trace.frame.to_pixels(reading.scanpath)
    features = []
    for i, (centre, half) in enumerate(zip(centres, trace.extents * shape / 2, strict=True)):
        (top, left), (bottom, right) = (centre - half).tolist(), (centre + half).tolist()
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        answer = dict(zip(trace.task.columns, reading.probabilities[i + 1].tolist(), strict=True))
        properties = {
            "objectType": "annotation",
            "name": f"glimpse {i + 1}",
            "color": list(order_colours(len(centres))[i]),
            "measurements": {"order": i + 1, **answer},
        }
        geometry = {"type": "Polygon", "coordinates": [ring]}
        features.append({"type": "Feature", "geometry": geometry, "properties": properties})
    collection = {"type": "FeatureCollection", "features": features}
    if path is not None:
        write_atomically(Path(path), json.dumps(collection, indent=1) + "\n")
    return collection
