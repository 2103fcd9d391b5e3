"""Megapixel, gigapixel and cluttered MNIST: what images show, what is asked of them, what is wrong with a folder."""

import gzip
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import ndimage

from glimpse.cohort import Case, CohortError
from glimpse.envs import make_cluttered_mnist, make_megapixel_mnist
from glimpse.envs.glyphs import mnist_task
from glimpse.errors import UserError
from glimpse.synthetic.glyphs import cluttered_mnist, megapixel_mnist
from glimpse.synthetic.glyphs.cluttered_mnist import load_cluttered_mnist
from glimpse.synthetic.glyphs.gigapixel_mnist import load_gigapixel_mnist
from glimpse.synthetic.glyphs.idx import read_idx
from glimpse.synthetic.glyphs.megapixel_mnist import TARGETS, load_megapixel_mnist, place, read_digits
from glimpse.tasks import Classification, MultiTask

FEW = {"train": 12, "val": 6, "test": 6}


def classes_by_digit(root: Path, split: str) -> dict[bytes, int]:
    """The class of every digit that a split may show."""
    images, labels = read_digits(root, split)
    return {image.tobytes(): int(label) for image, label in zip(images, labels, strict=True)}


def at_marks(case: Case) -> list[bytes]:
    """The pixels in a case's marks."""
    assert case.marks is not None
    sides = case.marks[:, 1] - case.marks[:, 0]
    return [
        case.source.read(low + side / 2, side, side.astype(int)).tobytes()
        for low, side in zip(case.marks[:, 0], sides, strict=True)
    ]


def pixels(case: Case) -> np.ndarray:
    shape = np.array(case.source.shape)
    return case.source.read(shape / 2, shape, shape)


# ---------------------------------------------------------------------------------------------- megapixel MNIST
def test_three_digits_of_one_class_and_two_of_others(tiny_mnist: Path) -> None:
    cohort = load_megapixel_mnist(tiny_mnist, targets="all", n=FEW, size=600)
    for case in cohort:
        known = classes_by_digit(tiny_mnist, case.split or "")
        shown = [known[digit] for digit in at_marks(case)]  # a digit that is not the split's own is a KeyError
        assert sorted(Counter(shown).values()) == [1, 1, 3]
        assert case.marks is not None and case.marks.shape == (5, 2, 2)
        assert case.target["majority"] == Counter(shown).most_common(1)[0][0]
        assert case.target["max"] == max(shown)
        assert case.target["top"] == shown[int(case.marks[:, 0, 0].argmin())]
        assert np.flatnonzero(case.target["multi"]).tolist() == sorted(set(shown))
    assert [len(cohort.split(split)) for split in FEW] == list(FEW.values())


def test_targets_by_hand() -> None:
    classes, rows = np.array([3, 3, 3, 9, 0]), np.array([40.0, 90.0, 51.0, 60.0, 12.0])
    found = megapixel_mnist.targets_of(classes, rows, TARGETS)
    assert (found["majority"], found["max"], found["top"]) == (3, 9, 0)
    assert found["multi"].tolist() == [1, 0, 0, 1, 0, 0, 0, 0, 0, 1]
    assert megapixel_mnist.targets_of(classes, rows, ["top"]) == 0


def test_digits_and_strokes_do_not_overlap(tiny_mnist: Path) -> None:
    corners = place(np.random.default_rng(0), 40, 20, 200, 28)
    assert corners.min() >= 0 and corners.max() <= 200 - 28
    away = np.abs(corners[:, :, None] - corners[:, None]).max(-1) + 28 * np.eye(20, dtype=int)
    assert away.min() >= 28
    case = load_megapixel_mnist(tiny_mnist, n=FEW, size=600, noise=0)[0]
    total = sum(int(np.frombuffer(digit, np.uint8).sum()) for digit in at_marks(case))
    assert int(pixels(case).sum()) == total  # five digits and nothing else


def test_what_does_not_fit_is_refused(tiny_mnist: Path) -> None:
    with pytest.raises(CohortError, match="55 squares of 28 pixels do not find room in 120 x 120 pixels"):
        load_megapixel_mnist(tiny_mnist, n=FEW, size=120)
    with pytest.raises(CohortError, match=r"env\.cohort\.size as a whole number from 28 to 10000, got 10001"):
        load_megapixel_mnist(tiny_mnist, n=FEW, size=10_001)
    with pytest.raises(CohortError, match=r"env\.cohort\.thickness as a whole number from 1 to 8"):
        load_megapixel_mnist(tiny_mnist, n=FEW, thickness=0)


def test_images_up_to_10000_pixels_a_side(tiny_mnist: Path) -> None:
    case = load_megapixel_mnist(tiny_mnist, n={"train": 3, "val": 1, "test": 1}, size=10_000)[0]
    known = classes_by_digit(tiny_mnist, "train")
    assert case.source.shape == (10_000, 10_000)
    assert all(digit in known for digit in at_marks(case))
    assert case.source.overview((188, 188)).any()


def test_smaller_digits(tiny_mnist: Path) -> None:
    images, _ = read_digits(tiny_mnist, "train")
    halved = (images.reshape(-1, 14, 2, 14, 2).sum((2, 4), np.int64) + 2) // 4
    known = {image.tobytes() for image in halved.astype(np.uint8)}
    case = load_megapixel_mnist(tiny_mnist, n=FEW, size=600, digit_size=14)[0]
    assert all(digit in known for digit in at_marks(case))
    case = load_megapixel_mnist(tiny_mnist, n=FEW, size=600, digit_size=21)[0]
    assert {len(digit) for digit in at_marks(case)} == {21 * 21}


@pytest.mark.parametrize("load", [load_megapixel_mnist, load_cluttered_mnist])
def test_equal_seeds_give_equal_images_and_others_do_not(load, tiny_mnist: Path) -> None:
    size = {"size": 500} if load is load_megapixel_mnist else {}
    one, same, other = (load(tiny_mnist, n=FEW, seed=seed, **size) for seed in (3, 3, 4))
    for first, second in zip(one, same, strict=True):
        assert first.target == second.target and first.source.identity == second.source.identity
        np.testing.assert_array_equal(pixels(first), pixels(second))
    assert not any((pixels(a) == pixels(b)).all() for a, b in zip(one, other, strict=True))
    assert not {case.source.identity for case in one} & {case.source.identity for case in other}


def test_no_digit_serves_two_splits(tiny_mnist: Path) -> None:
    whole = read_idx(tiny_mnist / "train-images-idx3-ubyte.gz")
    parts = [read_digits(tiny_mnist, split)[0] for split in ("train", "val")]
    assert len(parts[1]) == len(whole) // 6
    np.testing.assert_array_equal(np.concatenate(parts), whole)
    test = read_digits(tiny_mnist, "test")
    np.testing.assert_array_equal(test[0], read_idx(tiny_mnist / "t10k-images-idx3-ubyte.gz"))
    np.testing.assert_array_equal(test[1], read_idx(tiny_mnist / "t10k-labels-idx1-ubyte.gz"))


def test_tasks_of_the_targets() -> None:
    assert isinstance(mnist_task("max"), Classification)
    assert isinstance(mnist_task(["max", "multi"]), MultiTask)
    with pytest.raises(CohortError, match="Expected targets of majority, max, top, multi, or all; got 'least'"):
        mnist_task("least")


# ---------------------------------------------------------------------------------------------- cluttered MNIST
@pytest.mark.parametrize("size", [60, 100])
def test_a_digit_among_pieces_of_others(tiny_mnist: Path, size: int) -> None:
    for case in load_cluttered_mnist(tiny_mnist, n=FEW, size=size):
        images, labels = read_digits(tiny_mnist, case.split or "")
        image = pixels(case)[0]
        assert image.shape == (size, size)
        (low, high), pieces = case.marks[0].astype(int), case.source._pieces
        assert (high - low).tolist() == [28, 28] and low.min() >= 0 and high.max() <= size
        digit, *clutter = pieces.tolist()
        assert case.target == labels[digit[0]] and digit[1:] == [0, 0, 28, *low.tolist()]
        expected = np.zeros((size, size), np.uint8)
        for number, top, left, side, y, x in pieces.tolist():
            drawn = np.zeros_like(expected)
            drawn[y : y + side, x : x + side] = images[number, top : top + side, left : left + side]
            expected = np.maximum(expected, drawn)
        np.testing.assert_array_equal(image, expected)
        assert len(clutter) == 4 and {piece[3] for piece in clutter} == {8}
        assert digit[0] not in {piece[0] for piece in clutter}


def test_without_clutter_only_the_digit_is_there(tiny_mnist: Path) -> None:
    for case in load_cluttered_mnist(tiny_mnist, n=FEW, clutter=0):
        (digit,) = at_marks(case)
        assert classes_by_digit(tiny_mnist, case.split or "")[digit] == case.target
        assert int(pixels(case).sum()) == int(np.frombuffer(digit, np.uint8).sum())


def test_another_number_of_images_is_another_cohort(tiny_mnist: Path) -> None:
    few, more = (load_cluttered_mnist(tiny_mnist, n=FEW | {"train": count})[0] for count in (12, 13))
    same = bool((pixels(few) == pixels(more)).all())
    assert (few.source.identity == more.source.identity) == same  # overviews are cached by identity


def test_more_images_than_digits_use_every_digit_equally_often(tiny_mnist: Path) -> None:
    digits = len(read_digits(tiny_mnist, "test")[0])
    cases = cluttered_mnist.make_cases(tiny_mnist, "test", 2 * digits + 5, cluttered_mnist.Plan(), 0)
    used = Counter(int(case.source._pieces[0, 0]) for case in cases)
    assert len(used) == digits and sorted(set(used.values())) == [2, 3] and list(used.values()).count(3) == 5
    places = {tuple(case.marks[0, 0]) for case in cases}
    assert len(places) > digits / 2  # of 33 x 33


def test_the_overview_is_half_the_image_where_nothing_else_is_said(tiny_mnist: Path) -> None:
    for size in (60, 100):
        env = make_cluttered_mnist(root=tiny_mnist, n=FEW, size=size)
        assert env.views.overview_size == (size // 2, size // 2) and env.views.glimpse_size == (12, 12)
    assert make_cluttered_mnist(root=tiny_mnist, n=FEW, overview_size=20).views.overview_size == (20, 20)
    with pytest.raises(ValueError, match="is the split 'val' empty"):
        make_cluttered_mnist(root=tiny_mnist, n=FEW | {"val": 0}, split="val")
    with pytest.raises(CohortError, match=r"env\.cohort\.size as a whole number from 28 to 512, got 20"):
        load_cluttered_mnist(tiny_mnist, n=FEW, size=20)


# ---------------------------------------------------------------------------------------------- folders
@pytest.mark.parametrize("load", [load_megapixel_mnist, load_cluttered_mnist])
def test_a_missing_folder_or_file_is_named(
    load, tiny_mnist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GLIMPSE_MNIST", raising=False)
    with pytest.raises(CohortError, match=r"Where is MNIST\? .*env\.root=<folder>.*GLIMPSE_MNIST.*t10k-labels"):
        load(n=FEW)
    with pytest.raises(CohortError, match=r"nowhere: no file train-images-idx3-ubyte or train-images-idx3-ubyte\.gz"):
        load(tmp_path / "nowhere", n=FEW)
    for file in tiny_mnist.iterdir():
        shutil.copy(file, tmp_path)
    (tmp_path / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(CohortError, match=r"no file t10k-labels-idx1-ubyte"):
        load(tmp_path, n=FEW)
    plain = gzip.decompress((tiny_mnist / "t10k-labels-idx1-ubyte.gz").read_bytes())
    (tmp_path / "t10k-labels.idx1-ubyte").write_bytes(plain)  # not gzipped, and in the other spelling
    monkeypatch.setenv("GLIMPSE_MNIST", str(tmp_path))
    assert len(load(n=FEW)) == sum(FEW.values())


def test_labels_that_do_not_belong_to_the_images_are_refused(tiny_mnist: Path, tmp_path: Path) -> None:
    for file in tiny_mnist.iterdir():
        shutil.copy(file, tmp_path)
    shutil.copy(tiny_mnist / "t10k-labels-idx1-ubyte.gz", tmp_path / "train-labels-idx1-ubyte.gz")
    with pytest.raises(CohortError, match=r"expected as many 28 x 28 images as labels, got \(1500, 28, 28\)"):
        load_cluttered_mnist(tmp_path, n=FEW)


def test_both_share_one_environment(tiny_mnist: Path) -> None:
    for make, options in ((make_megapixel_mnist, {"size": 500}), (make_cluttered_mnist, {})):
        env = make(root=tiny_mnist, n=FEW, max_glimpses=2, **options)
        observation, info = env.reset(seed=0)
        assert set(info) >= {"case", "target"} and observation["glimpse"].sum() == 0
        case = next(case for case in env.cases if case.id == info["case"])
        assert case.marks is not None
        action = {"location": case.source.frame.to_location(case.marks[0].mean(0)).astype(np.float32)}
        observation, *_ = env.step(action | {"stop": 0, "prediction": np.zeros(10, np.float32)})
        assert observation["glimpse"].any()
        *_, info = env.step(action | {"stop": 1, "prediction": np.zeros(10, np.float32)})
        assert np.asarray(info["hits"])[0]


# ---------------------------------------------------------------------------------------------- gigapixels
def test_digits_lie_in_a_few_islands_of_strokes(tiny_mnist: Path) -> None:
    numbers, sizes = {"train": 6, "val": 1, "test": 2}, {"size": 3000, "island_size": 300, "islands": 5, "strokes": 3}
    cohort = load_gigapixel_mnist(tiny_mnist, n=numbers, holding=2, digit_size=48, **sizes)
    again = load_gigapixel_mnist(tiny_mnist, n=numbers, holding=2, digit_size=48, **sizes)
    assert len(cohort) == 9
    for case, same in zip(cohort, again, strict=True):
        assert case.target == same.target and case.source.shape == (3000, 3000)
        whole = case.source.read((1500, 1500), (3000, 3000), (3000, 3000))[0]
        np.testing.assert_array_equal(whole, same.source.read((1500, 1500), (3000, 3000), (3000, 3000))[0])
        islands, count = ndimage.label(ndimage.binary_dilation(whole > 0, iterations=140))
        assert 1 <= count <= 5
        marks = case.marks
        assert marks is not None and marks.shape == (5, 2, 2) and (marks[:, 1] - marks[:, 0] == 48).all()
        middles = marks.mean(1).astype(int)
        assert len({islands[y, x] for y, x in middles}) <= 2  # all digits in the two islands that hold them
        for (top, left), (bottom, right) in marks.astype(int):
            assert whole[top:bottom, left:right].max() > 100
        shown = case.source.foreground(case.source.overview((96, 96)))
        pitch = 3000 / 96
        assert all(shown[int(y / pitch), int(x / pitch)] for y, x in middles)
        assert shown.mean() < 0.5


def test_a_digit_of_a_gigapixel_image_is_the_digit_of_the_file(tiny_mnist: Path) -> None:
    sizes = {"size": 4000, "island_size": 400, "islands": 3, "holding": 3, "strokes": 0, "digit_size": 28}
    (case,) = load_gigapixel_mnist(tiny_mnist, n={"train": 1, "val": 0, "test": 0}, **sizes)
    digits, labels = read_digits(tiny_mnist, "train")
    assert case.marks is not None
    found = []
    for low, high in case.marks:
        read = case.source.read((low + high) / 2, (28, 28), (28, 28))[0]
        same = [index for index, digit in enumerate(digits) if np.array_equal(digit, read)]
        assert same
        found.append(int(labels[same[0]]))
    assert sorted(found.count(one) for one in set(found)) == [1, 1, 3] and found.count(case.target) == 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 1000}, "size must be from four islands"),
        ({"holding": 6}, "holding from 1 to 5"),
        ({"digit_size": 500}, "digit_size from 8 to island_size"),
        ({"islands": 60}, "60 islands do not find room in 4000 x 4000"),
        ({"size": 12_288, "islands": 1000}, "1000 islands do not find room"),  # at once
        ({"size": 12_288, "islands": 300}, "300 islands do not find room"),
        ({"islands": 0}, "env.cohort.islands as a whole number of at least 1, got 0"),
        ({"islands": 2}, "env.cohort.holding from 1 to 2, .* env.cohort.islands=2, got 3"),
        ({"size": 12_288.7}, "env.cohort.size"),
        ({"digit_size": 48.5}, "env.cohort.digit_size"),
        ({"strokes": None}, "env.cohort.strokes"),
        ({"strokes": 90}, "has no room for all"),
    ],
)
def test_gigapixel_images_that_cannot_be_are_refused(options: dict[str, Any], message: str, tiny_mnist: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_gigapixel_mnist(tiny_mnist, n={"train": 1, "val": 0, "test": 0}, **{"size": 4000} | options)
