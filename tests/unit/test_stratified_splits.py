"""Splits: near their fractions, stratified by target, and never a patient in two of them."""

import math
from collections import Counter, defaultdict

import numpy as np
import pytest

from glimpse.cohort.splits import stratified_splits


def test_split_is_stratified_and_near_its_fractions():
    patients = [f"p{index}" for index in range(200)]
    targets = [int(index < 50) for index in range(200)]
    splits = stratified_splits(patients, targets, (0.6, 0.15, 0.25), 0)
    counts = Counter(zip(splits, targets, strict=True))
    for name, fraction in (("train", 0.6), ("val", 0.15), ("test", 0.25)):
        assert counts[name, 1] == pytest.approx(50 * fraction, abs=1)
        assert counts[name, 0] == pytest.approx(150 * fraction, abs=1)


@pytest.mark.parametrize("seed", range(5))
def test_split_keeps_patients_together(seed: int):
    generator = np.random.default_rng(seed)
    patients = [f"p{index}" for index in generator.integers(0, 30, 100)]
    splits = stratified_splits(patients, generator.integers(0, 2, 100).tolist(), (0.6, 0.15, 0.25), seed)
    found = defaultdict(set)
    for patient, split in zip(patients, splits, strict=True):
        found[patient].add(split)
    assert all(len(names) == 1 for names in found.values())


def test_split_does_not_depend_on_the_order_of_cases():
    patients, targets = [f"p{index}" for index in range(20)], [index % 3 for index in range(20)]
    forward = dict(zip(patients, stratified_splits(patients, targets, (0.6, 0.2, 0.2), 1), strict=True))
    backward = dict(
        zip(patients[::-1], stratified_splits(patients[::-1], targets[::-1], (0.6, 0.2, 0.2), 1), strict=True)
    )
    assert forward == backward


@pytest.mark.parametrize("count", range(3, 12))
@pytest.mark.parametrize("classes", [1, 2, 5])
def test_no_split_is_empty(count: int, classes: int):
    patients, targets = [f"p{index}" for index in range(count)], [index % classes for index in range(count)]
    for seed in range(3):
        assert set(stratified_splits(patients, targets, (0.6, 0.15, 0.25), seed)) == {"train", "val", "test"}


def test_every_split_has_every_target_that_three_patients_have():
    patients, targets = [f"p{index}" for index in range(9)], [0] * 6 + [1] * 3
    splits = stratified_splits(patients, targets, (0.8, 0.1, 0.1), 0)
    assert set(zip(splits, targets, strict=True)) == {(name, k) for name in ("train", "val", "test") for k in (0, 1)}


def test_a_share_of_zero_stays_empty():
    splits = stratified_splits(["a", "b", "c", "d"], [0, 0, 1, 1], (0.5, 0.0, 0.5), 0)
    assert Counter(splits) == {"train": 2, "test": 2}


@pytest.mark.parametrize("fractions", [(0.6, 0.4), (0.6, 0.6, 0.6), (1.2, -0.1, -0.1), (math.nan, 0.5, 0.5)])
def test_wrong_fractions_are_refused(fractions: tuple[float, ...]):
    with pytest.raises(ValueError, match="add up to 1"):
        stratified_splits(["a", "b", "c"], [0, 1, 0], fractions, 0)
