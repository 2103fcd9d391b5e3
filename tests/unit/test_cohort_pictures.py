"""Pictures of a cohort show the right cases and glimpses, in the right order and at the right places."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from glimpse.geometry import Frame
from glimpse.pictures.charts import contribution_chart
from glimpse.pictures.cohort import _AGAINST, _FOR, _NOTHING, DESCRIPTION, best_and_worst, telling_glimpses
from glimpse.reading.records import Reading, Trace
from glimpse.reading.standing_out import candidates, outermost, telling
from glimpse.tasks import Classification, MultiLabel, MultiTask, Regression, Survival, Task
from tests.reports import reading_by_hand


def reading(
    name: str,
    added: list[float],
    levels: list[int],
    target: object = 1,
    task: Task | None = None,
    axes: int = 2,
    p: float = 0.6,
) -> Reading:
    """A case whose answer is p(second class) = p, to which each look has added so much; glimpses have one grey each."""
    task = task or Classification(["normal", "tumour"])
    count, rest = len(added), np.clip(p - np.array(added), 1e-9, 1 - 1e-9)
    shape = (1 if axes == 3 else 3, *[8] * axes)
    without = np.log(np.stack([1 - rest, rest], -1)) if count else np.zeros((0, 2))
    last = np.log([1 - p, p])
    if task.outputs != 2:
        without, last = np.tile(np.array(added)[:, None], task.outputs), np.zeros(task.outputs)
    trace = Trace(
        task=task,
        frame=Frame((100,) * axes, (0.5,) * axes, "mm"),
        overview=np.full(shape, 128, np.uint8),
        foreground=np.ones((1, *[8] * axes), np.uint8),
        glimpses=np.array([np.full(shape, level) for level in levels], np.uint8).reshape(count, *shape),
        extents=np.full((count, axes), 0.1),
        cells=np.full((count + 1, *[4] * axes), 4.0**-axes, np.float32),
        parents=np.full(count, -1),
        without=without,
    )
    scanpath = np.linspace(-0.8, 0.8, count * axes).reshape(count, axes).astype(np.float32)
    return reading_by_hand(name, target, np.tile(last, (count + 1, 1)), scanpath, trace)


def cohort() -> list[Reading]:
    return [
        reading("a", [0.5, 0.01, -0.3, 0.2], [10, 40, 70, 100]),
        reading("b", [-0.25, 0.02], [130, 160]),
        reading("c", [], []),
        reading("d", [0.4, 0.03], [11, 190], target=None),  # its first glimpse is nearly that of "a"
    ]


def test_which_glimpses_are_chosen_and_in_which_order() -> None:
    most, least = telling(cohort(), count=3, per_case=2)
    # d's first look is left out for a's, and a has two looks already when its 0.2 has its turn.
    assert [(one.id, one.order, one.count) for one in most] == [("a", 1, 4), ("a", 3, 4), ("b", 1, 2)]
    np.testing.assert_allclose([one.added for one in most], [0.5, -0.3, -0.25], atol=1e-6)
    assert [(one.id, one.order) for one in least] == [("a", 2), ("b", 2), ("d", 2)]
    assert {one.column for one in (*most, *least)} == {"p_tumour"} and most[0].sides == (5.0, 5.0)
    assert [one.id for one in telling(cohort(), count=3, per_case=1)[0]] == ["a", "b", "d"]


def test_looks_at_one_place_count_as_one() -> None:
    one = reading("a", [0.5, 0.4, 0.1, 0.01], [10, 60, 110, 160])
    moved = replace(one, scanpath=one.scanpath[[0, 0, 2, 3]])
    assert [look.order for look in telling([moved], count=2)[0]] == [1, 3]


def test_what_is_chosen_bit_by_bit_is_what_is_chosen_at_once() -> None:
    rng = np.random.default_rng(0)
    many = [
        reading(f"{i}", (rng.permutation(8)[:4] / 20 + i / 1000).tolist(), rng.integers(0, 255, 4).tolist(), i % 2, p=p)
        for i, p in enumerate(rng.uniform(0.45, 0.9, 30))
    ]
    looks, kept = [], []
    for one in many:
        looks, kept = candidates([*looks, one], 2), outermost([*kept, one], 2)
    for bit, whole in zip(telling(looks, 2), telling(many, 2), strict=True):
        assert [(one.id, one.order) for one in bit] == [(one.id, one.order) for one in whole] and len(bit) == 2
    right = [one.prediction[1] if one.target else one.prediction[0] for one in many]
    order = [many[i].id for i in np.argsort(right)[::-1]]
    assert [one.id for one in kept] == [one.id for one in outermost(many, 2)] == order[:2] + order[-2:]


def test_at_which_place_of_the_sheet_they_are() -> None:
    sheet = telling_glimpses(cohort(), count=3)
    pixels = np.asarray(sheet.image)
    assert sheet.description.startswith("Glimpses, with what each has added to the answer. Most telling glimpses: a, ")
    assert "look 3 of 4, p_tumour −0.3; b, look 1 of 2" in sheet.description
    for x, level, frame in ((0, 10, _FOR), (162, 70, _AGAINST), (324, 130, _AGAINST)):
        rows = np.flatnonzero((pixels[:, x + 1] == frame).all(-1))  # the frame's left side
        assert (pixels[rows[0] + 50, x + 75] == level).all()
    rows = np.flatnonzero((pixels[:, 1] == _FOR).all(-1))
    (second,) = np.flatnonzero(np.diff(rows) > 1)  # the frame below: of the least telling one
    assert (pixels[rows[second + 1] + 50, 75] == 40).all()


def test_names_with_line_breaks_are_drawn_like_those_with_spaces() -> None:
    broken, plain = (reading(name, [0.3, -0.1], [10, 200]) for name in ("a\nb\tc", "a b c"))
    for picture in (lambda one: telling_glimpses([one], count=1), lambda one: best_and_worst([one], count=1)):
        assert np.array_equal(np.asarray(picture(broken).image), np.asarray(picture(plain).image))
    assert contribution_chart(broken).axes[0].get_title() == contribution_chart(plain).axes[0].get_title()


def test_a_glimpse_that_changes_nothing_has_a_frame_of_its_own() -> None:
    sheet = telling_glimpses([reading("a", [0.3, -1e-6], [10, 200])], count=1)
    pixels = np.asarray(sheet.image)
    assert "±0" in sheet.description and (pixels == _NOTHING).all(-1).any() and (pixels == _FOR).all(-1).any()
    assert not (pixels == _AGAINST).all(-1).any()


def test_best_on_the_left_and_worst_on_the_right(tmp_path: Path) -> None:
    right = [reading(f"case {i}", [0.1], [10], p=p) for i, p in enumerate((0.3, 0.9, 0.6, 0.01, 0.001))]
    sheet = best_and_worst(iter([*right, reading("unknown", [0.1], [10], target=None)]), count=2)
    told = sheet.description
    names = ["case 1, target tumour, score 0.85, answered tumour (0.90)", "case 2", "worst: case 4", "case 3"]
    places = [told.index(name) for name in names]  # 3 and 4 have the same score, -1
    assert places == sorted(places) and "case 0" not in told and "unknown" not in told
    assert "score −1.00" in told[places[2] :] and "score −1.00" in told[places[3] :]
    sheet.save(tmp_path / "s.png")
    with Image.open(tmp_path / "s.png") as picture:
        assert picture.info[DESCRIPTION] == told and picture.size == sheet.image.size


@pytest.mark.parametrize("axes", [2, 3])
@pytest.mark.parametrize("number", [1, 3])
def test_few_cases_are_shown_once(axes: int, number: int) -> None:
    few = [reading(f"case {i}", [0.1 * i + 0.01, 0.2], [60 * i, 60 * i + 30], axes=axes) for i in range(number)]
    told = best_and_worst(few).description
    assert all(told.count(f"case {i}") == 1 for i in range(number)) and ("worst" in told) == (number > 1)
    assert telling_glimpses(few).image.width <= 670


@pytest.mark.parametrize(
    ("task", "target"),
    [
        (Classification(3), 2),
        (MultiLabel(["a", "b", "c"]), np.array([0, 1, 1])),
        (Regression(50, 10), 60.0),
        (Survival(bins=3, unit="months").settled([(3.5, 1), (12.0, 0), (7.25, 1), (30.0, 1)]), (7.0, 1)),
        (MultiTask({"grade": Classification(3), "age": Regression(50, 10)}), {"grade": 1, "age": 40.0}),
    ],
    ids=["classes", "labels", "quantity", "survival", "several"],
)
def test_every_task(task: Task, target: object) -> None:
    some = [reading("a", [0.4, 0.1], [10, 90], target, task), reading("b", [0.3], [170], target, task)]
    columns = {look.column for look in telling(some)[0]}
    assert columns <= {task.columns[i] for i in task.pictured} and len(columns) == 1
    assert "score" in best_and_worst(some).description and telling_glimpses(some).image.width == 670


@pytest.mark.parametrize(
    ("task", "answer", "column"),
    [
        (Classification(2), 0, 1),  # of two classes always the second,
        (Classification(3), 0, 0),  # of more the one that is answered,
        (MultiLabel(["a", "b", "c"]), 0, 1),  # and else what looks have changed most
        (MultiTask({"grade": Classification(3), "age": Regression(50, 10)}), 0, 1),
        (Survival(bins=3, unit="months").settled([(3.5, 1), (12.0, 0), (7.25, 1), (30.0, 1)]), 0, 0),
    ],
    ids=["two classes", "classes", "labels", "several", "survival"],
)
def test_what_a_chart_of_contributions_is_of(task: Task, answer: int, column: int) -> None:
    one = reading("a", [0.4, 0.1], [10, 90], None, task)
    assert one.trace is not None
    last, without = np.zeros(task.outputs), np.zeros((2, task.outputs))
    last[answer], last[1] = 3.0, 1.0
    without[:, answer], without[:, 1] = 3.0, [-2.0, 1.0]  # the second output was changed most, by the first look
    one = replace(one, predictions=np.tile(last, (3, 1)), trace=replace(one.trace, without=without))
    axes = contribution_chart(one).axes[0]
    given = one.contributions
    assert given is not None and axes.get_ylabel() == f"added to {task.columns[column]}"
    np.testing.assert_allclose([bar.get_height() for bar in axes.patches], given[:, column])


def test_what_cannot_be_shown_is_refused() -> None:
    with pytest.raises(ValueError, match="no case has a target"):
        best_and_worst([reading("a", [0.1], [10], target=None)])
    with pytest.raises(ValueError, match="nobody has looked anywhere"):
        telling_glimpses([reading("c", [], [])])
    with pytest.raises(ValueError, match="a: this reading has no trace"):
        telling_glimpses([replace(reading("a", [0.1], [10]), trace=None)])
    for wrong in ({"count": 0}, {"per_case": 0}):
        with pytest.raises(ValueError, match="at least"):
            telling_glimpses(cohort(), **wrong)
