"""Needle MNIST: where the 3 is, what the clutter is, and what cannot be drawn."""

from pathlib import Path

import numpy as np
import pytest

from glimpse.cohort import Case
from glimpse.envs import make_needle_mnist
from glimpse.errors import UserError
from glimpse.synthetic.glyphs.megapixel_mnist import SIDE, read_digits
from glimpse.synthetic.glyphs.needle_mnist import NEEDLE, NUMBERS, Plan, load_needle_mnist

FEW = {"train": 12, "val": 6, "test": 7}


def digits_of(case: Case, root: Path) -> list[int]:
    """The classes of all digits in an image, the first one first."""
    _, labels = read_digits(root, case.split or "")
    return labels[case.source._index].tolist()


@pytest.mark.parametrize(("options", "digits"), [({}, 26), ({"clutter": 8, "grows": True}, 1 + 8 * 4)])
def test_half_of_the_images_have_one_3_among_other_digits(options: dict, digits: int, tiny_mnist: Path) -> None:
    cohort = load_needle_mnist(tiny_mnist, n=FEW, **options)
    for split, count in FEW.items():
        cases = cohort.split(split)
        assert len(cases) == count and sum(case.target for case in cases) == count // 2
    for case in cohort:
        shown = digits_of(case, tiny_mnist)
        assert len(shown) == digits and shown.count(NEEDLE) == case.target
        corners = case.source._corners
        assert corners.min() >= 0 and corners.max() <= 1024 - SIDE
        apart = np.abs(corners[:, None] - corners[None]).max(-1) + SIDE * np.eye(digits, dtype=int)
        assert apart.min() >= SIDE  # digits do not overlap


def test_marks_lie_on_the_3(tiny_mnist: Path) -> None:
    for case in load_needle_mnist(tiny_mnist, n=FEW, size=600):
        assert case.marks is not None and case.marks.shape == (case.target, 2, 2)
        images, labels = read_digits(tiny_mnist, case.split or "")
        threes = {image.tobytes() for image in images[labels == NEEDLE]}
        for low, high in case.marks:
            assert case.source.read((low + high) / 2, (SIDE, SIDE), (SIDE, SIDE)).tobytes() in threes


def test_every_digit_is_foreground_on_the_largest_canvas(tiny_mnist: Path) -> None:
    case = load_needle_mnist(tiny_mnist, n=FEW, size=6144)[0]
    shown = case.source.foreground(case.source.overview((256, 256)))
    middles = ((case.source._corners + SIDE / 2) / 24).astype(int)
    assert shown[tuple(middles.T)].all() and shown.mean() < 0.01


def test_equal_seeds_give_equal_images_and_others_do_not(tiny_mnist: Path) -> None:
    one, same, other = (load_needle_mnist(tiny_mnist, n=FEW, seed=seed) for seed in (3, 3, 4))
    for first, second in zip(one, same, strict=True):
        assert first.target == second.target and first.source.identity == second.source.identity
        np.testing.assert_array_equal(first.source._corners, second.source._corners)
    assert not {case.source.identity for case in one} & {case.source.identity for case in other}
    more = load_needle_mnist(tiny_mnist, n=FEW | {"train": 13})
    assert not {case.source.identity for case in one} & {case.source.identity for case in more}


def test_how_many_images_and_digits_there_are() -> None:
    assert dict(NUMBERS) == {"train": 11_276, "val": 1972, "test": 4040}
    assert [Plan(size, 100, True).digits - 1 for size in (256, 512, 1024)] == [25, 100, 400]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"size": 40}, "size as a whole number from 56 to 1000000, got 40"),
        ({"clutter": -1}, "env.cohort.clutter as a whole number of at least 0, got -1"),
        ({"size": 200}, "26 digits of 28 pixels do not find room in 200 x 200 pixels"),
        ({"clutter": 200, "grows": True}, "801 digits of 28 pixels do not find room"),
        ({"grows": "maybe"}, "env.cohort.grows: expected true or false, got 'maybe'"),
        ({"clutter": 2.5}, "env.cohort.clutter"),
        ({"size": 1024.5}, "env.cohort.size"),
        ({"clutter": 100, "grows": True, "size": 1_000_000}, "places of all digits would take"),
    ],
)
def test_images_that_cannot_be_are_refused(options: dict, message: str, tiny_mnist: Path) -> None:
    with pytest.raises(UserError, match=message):
        load_needle_mnist(tiny_mnist, n=FEW, **options)


def test_its_environment_ends_with_whether_the_3_was_seen(tiny_mnist: Path) -> None:
    env = make_needle_mnist(root=tiny_mnist, n=FEW, max_glimpses=1)
    index, case = next(pair for pair in enumerate(env.cases) if pair[1].target)
    assert case.marks is not None
    env.reset(seed=0, options={"case": index})
    action = {"location": case.source.frame.to_location(case.marks[0].mean(0)).astype(np.float32)}
    env.step(action | {"stop": 0, "prediction": np.zeros(2, np.float32)})
    *_, info = env.step(action | {"stop": 1, "prediction": np.zeros(2, np.float32)})
    assert info["case"] == case.id and np.asarray(info["hits"]).tolist() == [True]
