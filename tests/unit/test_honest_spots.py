"""Spots of the embedded radiographs and volumes: statistics and random filters are blind to their form.

Each spot is painted twice on the same ground, as either kind, and seen as the environment's glimpses show it.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from scipy import ndimage
from sklearn.metrics import roc_auc_score

from benchmarks.probe import Spots, planes, scores_of
from glimpse.synthetic.photos.fundus import BLOOD
from glimpse.synthetic.photos.spots import ANEURYSM, paint_spots
from glimpse.synthetic.photos.spots import Spot as Fundus
from glimpse.synthetic.radiographs.spots import LOOKALIKE, NODULE, paint_bodies, paint_details
from glimpse.synthetic.radiographs.spots import Spot as Shadow
from glimpse.synthetic.volumes.recipe import HEAD, THORAX
from glimpse.synthetic.volumes.spots import Spot, paint_spot

PAIRS = 120


def ground(rng: np.random.Generator, shape: tuple[int, ...], width: float) -> np.ndarray:
    """Smooth noise of unit deviation."""
    smooth = ndimage.gaussian_filter(rng.standard_normal(shape), width, mode="wrap")
    return (smooth / smooth.std()).astype(np.float32)


def radiograph_pair(index: int) -> list[np.ndarray]:
    rng = np.random.default_rng(index)
    field, noise = 0.3 + 0.05 * ground(rng, (192, 192), 12), rng.uniform(0.006, 0.015)
    shadow = Shadow("", *(96 + rng.uniform(-4, 4, 2)).tolist(), rng.uniform(34, 46), rng.uniform(0.3, 0.38), 0.7)
    pair = []
    for kind in (NODULE, LOOKALIKE):
        own, spot = np.random.default_rng([index, 1]), replace(shadow, kind=kind)
        film = field.copy()
        paint_bodies(own, film, [spot])
        film = 1 - np.exp(-2.2 * film)
        paint_details(own, film, [spot])
        film += np.float32(noise) * rng.standard_normal(film.shape, np.float32)
        pair.append(film.reshape(96, 2, 96, 2).mean((1, 3))[None] * 255)
    return pair


def photo_pair(index: int) -> list[np.ndarray]:
    rng = np.random.default_rng(index)
    blood = np.exp(-(0.12 + 0.05 * ground(rng, (192, 192), 12)) * np.array(BLOOD, np.float32)[:, None, None])
    retina, noise = blood * np.array((0.7, 0.33, 0.14))[:, None, None], rng.uniform(0.008, 0.014)
    spot = Fundus("", *(96 + rng.uniform(-4, 4, 2)).tolist(), rng.uniform(5.6, 6.8), rng.uniform(0.55, 0.75), 0.4)
    pair = []
    for kind in (ANEURYSM, LOOKALIKE):
        film = retina.astype(np.float32)
        paint_spots(np.random.default_rng([index, 1]), film, [replace(spot, kind=kind)])
        film += np.float32(noise) * rng.standard_normal(film.shape[1:], np.float32)
        pair.append(film.reshape(3, 96, 2, 96, 2).mean((2, 4)) * 255)
    return pair


def volume_pair(name: str, index: int) -> list[np.ndarray]:
    kind = HEAD if name == "mri" else THORAX
    rng = np.random.default_rng(index)
    shape = (24, 24, 24) if name == "mri" else (12, 30, 30)
    middle = (np.asarray(shape) / 2 + rng.uniform(-1, 1, 3)).tolist()
    spot = Spot("", tuple(middle), rng.uniform(*kind.rule.radius), rng.uniform(*kind.rule.weight), index)
    dark, spread = (0.6, 0.05) if name == "mri" else (-840.0, 30.0)
    empty = dark + spread * ground(rng, shape, 3)
    pair = []
    for one in ("lesion", "lookalike"):
        volume = empty.copy()
        paint_spot(volume, replace(spot, kind=one), kind.rule, kind.spacing)
        values = kind.finish(np.random.default_rng([index, one == "lesion"]), volume, kind.spacing).astype(np.float32)
        pair.append(
            values[None] * 1.6 if name == "mri" else (ndimage.zoom(values, (1, 0.8, 0.8), order=1)[None] + 1350) / 6
        )
    return pair


@cache
def spots(name: str) -> Spots:
    """Spots of either kind, in turns; the last third is for testing."""
    made = {"xray": radiograph_pair, "photo": photo_pair}.get(name) or (lambda index: volume_pair(name, index))
    glimpses = np.stack([one for index in range(PAIRS) for one in made(index)]).clip(0, 255).astype(np.uint8)
    splits = np.where(np.arange(2 * PAIRS) < 4 * PAIRS // 3, "train", "test")
    return Spots(glimpses, np.arange(2 * PAIRS) % 2 == 0, splits)


def auc(encoder: str, name: str, **options: int) -> float:
    train, test = spots(name).of("train"), spots(name).of("test")
    return float(roc_auc_score(test.first, scores_of(encoder, name, train, test, **options)))


@pytest.mark.parametrize("name", ["xray", "photo", "mri", "ct"])
def test_statistics_and_random_filters_are_blind(name: str) -> None:
    assert auc("statistics", name) < 0.65
    assert np.mean([auc("random", name, seed=seed) for seed in range(4)]) < 0.65  # single ones have up to 0.72, on CT


@pytest.mark.parametrize("name", ["xray", "photo"])
def test_the_pretrained_encoder_sees_the_form(name: str) -> None:
    assert auc("efficientnet_lite0_16", name) > 0.95


def test_planes_go_through_the_middle_of_a_volume() -> None:
    volume = np.zeros((1, 2, 12, 24, 24), np.uint8)
    volume[0, 1, 6], volume[0, 0, :, 12] = 200, 100
    made = planes(volume)
    assert [plane.shape for plane in made] == [(1, 2, 96, 96)] * 3
    assert made[0][0, 1].min() == 200 and made[1][0, 0].min() == 100
    assert 180 < made[2][0, 1].max() <= 200 and made[2][0, 1, 0, 0] == 0  # one row of 12, between those of 96
