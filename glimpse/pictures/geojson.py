"""Where an agent looked, as annotations that QuPath imports."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from glimpse.atomic import write_atomically
from glimpse.pictures.drawing import order_colours
from glimpse.pictures.episodes import Watched


def to_geojson(watched: Watched, path: str | os.PathLike[str] | None = None) -> dict[str, Any]:
    """The glimpses as GeoJSON polygons in level-0 pixels (x, y), which QuPath imports as annotations.

    Raises:
        ValueError: the image is not two-dimensional.
    """
    shape = np.array(watched.case.source.shape)
    if len(shape) != 2:
        raise ValueError(f"{watched.case.id}: GeoJSON is for two-dimensional images, this one has {len(shape)} axes.")
    centres = watched.case.source.frame.to_pixels(watched.scanpath)
    features = []
    for i, (centre, half) in enumerate(zip(centres, watched.extents * shape / 2, strict=True)):
        (top, left), (bottom, right) = (centre - half).tolist(), (centre + half).tolist()
        ring = [[left, top], [right, top], [right, bottom], [left, bottom], [left, top]]
        answer = dict(zip(watched.task.columns, watched.probabilities[i + 1].tolist(), strict=True))
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
