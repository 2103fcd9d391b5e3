"""A strict validator of GeoJSON (RFC 7946) for collections of polygons, and what QuPath asks of its objects."""

import itertools
import json
import math
import re
import uuid
from typing import Any

_CLASS = re.compile(r"[\w !-/;-@\[-`{-~]+")  # names of classes in QuPath: letters, digits, punctuation but ":"
_FOREIGN = {"coordinates", "geometries", "geometry", "properties", "crs"}  # no member of a collection (7.1, 4)


def parsed(text: str) -> Any:
    """The value of a JSON text; names like NaN, which JSON does not have, and members that occur twice are refused."""

    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), f"a member occurs twice: {pairs}"
        return dict(pairs)

    def refused(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    return json.loads(text, parse_constant=refused, object_pairs_hook=once)


def rfc7946(collection: Any) -> list[dict[str, Any]]:
    """The features of a FeatureCollection of polygons; fails with the section of RFC 7946 that it breaks."""
    assert isinstance(collection, dict) and collection.get("type") == "FeatureCollection", "3.3: the type"
    assert not _FOREIGN & set(collection), "7.1: members of other objects"
    features = collection.get("features")
    assert isinstance(features, list), "3.3: features are an array"
    for feature in features:
        assert isinstance(feature, dict) and feature.get("type") == "Feature", "3.2: the type"
        assert {"geometry", "properties"} <= set(feature), "3.2: geometry and properties are there"
        assert not {"coordinates", "geometries", "features"} & set(feature), "7.1: members of other objects"
        assert isinstance(feature["properties"], dict | None), "3.2: properties are an object"
        _check_polygon(feature["geometry"])
    ids = [feature["id"] for feature in features if "id" in feature]
    assert all(isinstance(one, str) or _is_number(one) for one in ids), "3.2: ids are texts or numbers"
    assert len(set(ids)) == len(ids), "3.2: an id is of one feature"
    return features


def _check_polygon(geometry: Any) -> None:
    assert isinstance(geometry, dict) and geometry.get("type") == "Polygon", "3.1.6: the type"
    assert not {"geometry", "properties", "features"} & set(geometry), "7.1: members of other objects"
    rings = geometry.get("coordinates")
    assert isinstance(rings, list) and rings, "3.1.6: an array of rings"
    for index, ring in enumerate(rings):
        assert isinstance(ring, list) and len(ring) >= 4, "3.1.6: a ring has four positions or more"
        for position in ring:
            assert isinstance(position, list) and 2 <= len(position) <= 3, "3.1.1: a position has two or three elements"
            assert all(map(_is_number, position)), "3.1.1: elements are numbers"
        assert ring[0] == ring[-1], "3.1.6: a ring is closed"
        assert all(a != b for a, b in itertools.pairwise(ring)), "3.1.6: a ring stands still"
        area = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
        assert area > 0 if index == 0 else area < 0, "3.1.6: the right-hand rule"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def valid(collection: Any) -> list[dict[str, Any]]:
    """The features of a FeatureCollection that is valid, and whose features are objects as QuPath takes them."""
    features = rfc7946(collection)
    for feature in features:
        assert str(uuid.UUID(feature["id"])) == feature["id"]
        told = feature["properties"]
        assert told["objectType"] in ("annotation", "detection") and told["isLocked"] is True
        classes = [part.strip() for part in told["classification"]["name"].split(":")]  # one derived from another
        assert all(map(_CLASS.fullmatch, classes)) and set(told["classification"]) == {"name", "color"}
        assert told["color"] == told["classification"]["color"] and told["name"]
        assert len(told["color"]) == 3 and all(type(one) is int and 0 <= one <= 255 for one in told["color"])
        assert all(map(_is_number, told["measurements"].values()))
    return features
