"""Settings of drawn and of synthetic cohorts: each that cannot be is refused, and named."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from glimpse.envs.modality import load_modality
from glimpse.errors import UserError
from glimpse.synthetic.glyphs.cluttered_mnist import load_cluttered_mnist
from glimpse.synthetic.glyphs.gigapixel_mnist import load_gigapixel_mnist
from glimpse.synthetic.glyphs.megapixel_mnist import load_megapixel_mnist
from glimpse.synthetic.glyphs.needle_mnist import load_needle_mnist
from glimpse.synthetic.glyphs.relations import load_relations
from glimpse.synthetic.radiographs.recipe import embedded_cohort

LOADERS = [load_megapixel_mnist, load_gigapixel_mnist, load_needle_mnist, load_cluttered_mnist]


@pytest.mark.parametrize("load", [*LOADERS, load_relations])
@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"train": 2.5}, r"env.cohort.n.train as a whole number of at least 0, got 2.5"),
        ({"val": -2}, "env.cohort.n.val as a whole number of at least 0, got -2"),
        ({"test": True}, "env.cohort.n.test as a whole number"),
        ({"train": None}, "env.cohort.n.train as a whole number"),
        ({"trian": 2}, "env.cohort.n has no split 'trian'; did you mean 'train'"),
        (5, r"Expected env.cohort.n as images per split, such as \{train: .*, got 5"),
    ],
)
def test_numbers_of_images_are_checked(
    load: Callable[..., Any], numbers: Any, message: str, tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_MNIST", str(tiny_mnist))
    with pytest.raises(UserError, match=message):
        load(n=numbers)


@pytest.mark.parametrize(
    ("modality", "options", "message"),
    [
        ("needle_mnist", {"grows": "maybe"}, "env.cohort.grows: expected true or false, got 'maybe'"),
        ("needle_mnist", {"n": 5}, "env.cohort.n as images per split"),
        ("cluttered_mnist", {"clutter": 2.5}, "env.cohort.clutter: expected a whole number, got 2.5"),
        ("megapixel_mnist", {"noise": "much"}, "env.cohort.noise: expected a whole number, got 'much'"),
        ("gigapixel_mnist", {"islands": 0}, "env.cohort.islands as a whole number of at least 1"),
        ("relations", {"strokes": -1}, "env.cohort.strokes as a whole number of at least 0, got -1"),
        ("relations", {"target": "middle"}, "env.cohort.target"),
        ("relations", {"seed": -1}, "env.cohort.seed as a whole number of at least 0, got -1"),
    ],
)
def test_settings_of_drawn_images_are_named(
    modality: str, options: dict[str, Any], message: str, tiny_mnist: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_MNIST", str(tiny_mnist))
    with pytest.raises(UserError, match=message):
        load_modality(modality, **options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n": 2.5}, "env.cohort.synthetic.n: expected a whole number, got 2.5"),
        ({"n": -6}, "env.cohort.synthetic of xray.* n as a whole number of at least 0, got -6"),
        ({"size": "large"}, "env.cohort.synthetic.size: expected a whole number"),
        ({"seed": -1}, "env.cohort.synthetic of xray.* seed as a whole number of at least 0, got -1"),
        ({"workers": 0}, "env.cohort.synthetic of xray.* workers=0"),
    ],
)
def test_settings_of_synthetic_images_are_named(options: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_modality("xray", synthetic={"folder": str(tmp_path)} | options)


@pytest.mark.parametrize("options", [{"n": 6.5}, {"seed": 0.5}, {"size": 512.5}, {"workers": 1.5}])
def test_synthetic_cohorts_take_whole_numbers(options: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"Expected {next(iter(options))} as a whole number"):
        embedded_cohort(tmp_path, **options)
