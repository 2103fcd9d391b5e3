"""Actions as dictionaries and as vectors."""

import numpy as np
import pytest

from glimpse.spaces import ActionLayout


def test_pack_by_hand() -> None:
    layout = ActionLayout(ndim=2, outputs=2, zooms=3, limit=20.0)
    flat = layout.pack([0.25, -2.0], True, [5.0, -40.0], zoom=1)
    np.testing.assert_array_equal(flat, np.array([0.25, -1, 1, -1, 1, -1, 0.25, -1], np.float32))
    assert flat.dtype == np.float32 and flat.shape == (layout.size,)


def test_without_zoom_the_vector_has_no_block_for_it() -> None:
    layout = ActionLayout(ndim=3, outputs=4)
    assert layout.size == 3 + 1 + 4
    np.testing.assert_array_equal(layout.pack([0, 0, 0], False, [20, 0, 0, 0])[3:5], [-1, 1])
    assert "zoom" not in layout.dict_space().spaces


@pytest.mark.parametrize("zooms", [1, 2, 5])
@pytest.mark.parametrize("ndim", [1, 2, 3])
@pytest.mark.parametrize("batch", [(), (7,), (3, 4)])
def test_round_trip(batch: tuple[int, ...], ndim: int, zooms: int) -> None:
    rng = np.random.default_rng(0)
    layout = ActionLayout(ndim, outputs=3, zooms=zooms)
    location, stop = rng.uniform(-1, 1, (*batch, ndim)).astype(np.float32), rng.random(batch) < 0.5
    prediction, zoom = rng.uniform(-20, 20, (*batch, 3)), rng.integers(0, zooms, batch)
    flat = layout.pack(location, stop, prediction, zoom)
    assert flat.shape == (*batch, layout.size)
    action = layout.unpack(flat)
    np.testing.assert_array_equal(action.location, location)
    np.testing.assert_array_equal(action.stop, stop)
    np.testing.assert_array_equal(action.zoom, zoom)
    np.testing.assert_allclose(action.prediction, prediction, atol=1e-5)
    assert (action.stop.dtype, action.zoom.dtype, action.prediction.dtype) == (bool, np.int64, np.float32)


@pytest.mark.parametrize("zooms", [1, 3])
def test_dictionaries_lie_in_their_space_and_say_the_same(zooms: int) -> None:
    layout = ActionLayout(2, 3, zooms)
    space = layout.box_space()
    space.seed(0)
    for _ in range(20):
        flat = space.sample()
        action = layout.to_dict(flat)
        assert action in layout.dict_space()
        for one, other in zip(layout.from_dict(action), layout.unpack(flat), strict=True):
            np.testing.assert_array_equal(one, other)


def test_from_space() -> None:
    for layout in (ActionLayout(2, 3), ActionLayout(3, 2, zooms=4)):
        assert ActionLayout.from_space(layout.dict_space()) == layout


def test_errors_name_the_value() -> None:
    layout = ActionLayout(2, 2, zooms=2)
    good = layout.to_dict(layout.pack([0, 0], False, [0, 0]))
    with pytest.raises(ValueError, match="'stop' is missing"):
        layout.from_dict({key: value for key, value in good.items() if key != "stop"})
    with pytest.raises(ValueError, match=r"'location'\] of shape \(2,\), got \(3,\)"):
        layout.from_dict(good | {"location": np.zeros(3)})
    with pytest.raises(ValueError, match="finite numbers"):
        layout.from_dict(good | {"prediction": np.array([np.nan, 0])})
    with pytest.raises(ValueError, match="from 0 to 1, got 2"):
        layout.from_dict(good | {"zoom": 2})
    for key, value in (("zoom", None), ("zoom", "1"), ("stop", None), ("location", ["a", "b"])):
        with pytest.raises(ValueError, match=rf"Expected numbers in action\['{key}'\], got"):
            layout.from_dict(good | {key: value})
    for key in ("zoom", "stop"):
        with pytest.raises(ValueError, match=rf"action\['{key}'\] to be a whole number, got 0.5"):
            layout.from_dict(good | {key: 0.5})
    assert layout.from_dict(good | {"zoom": 1.0, "stop": True}).zoom == 1
    with pytest.raises(ValueError, match="zoom to be a whole number"):
        layout.pack([0, 0], False, [0, 0], 0.5)
    with pytest.raises(ValueError, match="numbers in a flat action"):
        layout.unpack(["a"] * layout.size)
    with pytest.raises(ValueError, match="zoom"):
        ActionLayout(2, 2).from_dict({key: good[key] for key in ("location", "stop", "prediction")} | {"zoom": None})
    with pytest.raises(ValueError, match=r"got \(4, 3\)"):
        layout.unpack(np.zeros((4, 3)))
    with pytest.raises(ValueError, match="finite"):
        layout.unpack(np.full(layout.size, np.nan))
    with pytest.raises(ValueError, match="outputs"):
        ActionLayout(2, 0)
