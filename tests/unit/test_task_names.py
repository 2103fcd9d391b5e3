"""Names of classes and labels: how they are given, read from cells, written, and typed again."""

import csv
import shlex
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

import glimpse
from glimpse.reading.records import Reading
from glimpse.report.tables import write_predictions
from glimpse.tasks import (
    Classification,
    MultiLabel,
    MultiTask,
    Regression,
    Task,
)
from glimpse.tasks.names import in_python


@pytest.mark.parametrize("task", [Classification, MultiLabel])
def test_a_text_is_no_list_of_names(task: type) -> None:
    with pytest.raises(ValueError, match=r"list of names such as \[a,b\], got 'two'"):
        task("two")


# How cells of a CSV become classes


@pytest.mark.parametrize(
    ("classes", "text", "name"),
    [
        ([1, 2, 3], "1", "1"),
        ([1, 2, 3], "1.0", "1"),
        ([1, 2, 3], "3", "3"),
        ([1.0, 2.0], "2", "2"),
        (["1", "2"], "2.0", "2"),
        ([2, 1, 0], "0", "0"),
        ([2, 1, 0], "2.00", "2"),
        (["0.5", "1.5"], "1.50", "1.5"),
        (["01", "1"], "01", "01"),
        (["benign", "tumour"], "1", "tumour"),  # no name is a number: the index
        ([" benign ", "tumour"], "benign", "benign"),
    ],
)
def test_a_label_is_the_class_that_is_called_so(classes: list[object], text: str, name: str) -> None:
    for task, found in ((Classification(classes), name), (MultiLabel(classes), name)):
        target = task.parse_target(text)
        assert task.write_target(target) == found
        assert np.array_equal(task.parse_target(found), target)


@pytest.mark.parametrize(
    ("classes", "text"),
    [
        ([1, 2, 3], "0"), ([1, 2, 3], "4"), ([1, 2], "1_0"), ([1, 2], "1e0"), (["a", "1"], "0"), (["01", "1"], "1.0"),
        (12, "1_0"),
    ],
)  # fmt: skip
def test_a_label_never_becomes_another_one(classes: object, text: str) -> None:
    for task in (Classification(classes), MultiLabel(classes)):
        with pytest.raises(ValueError, match=f"target '{text}'.*expected"):
            task.parse_target(text)


@pytest.mark.parametrize("names", [[True, False], [None, "a"], ["", "a"], [1, "1"], [1, 1.0], "two", 2.5])
@pytest.mark.parametrize("task", [Classification, MultiLabel])
def test_what_is_no_name_is_refused(task: type, names: object) -> None:
    with pytest.raises(ValueError, match="names"):
        task(names)


EVERY = [
    (Classification([1, 2, 3]), ["3", "1", "2"]),
    (Classification(["benign", "in situ, G1", 'so-called "x"']), ["in situ, G1", 'so-called "x"']),
    (MultiLabel([3, 2, 1]), ["none", "3", "2;1"]),
    (Regression(), ["-2.5", "1e-07", "3.0"]),
    (
        MultiTask({"grade": Classification([1, 2]), "signs": MultiLabel(["a", "1"])}),
        ["grade=2;signs=a;1", "grade=1;signs=none"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("task", "texts"), EVERY)
def test_what_predictions_hold_is_read_as_the_same_target(task: Task, texts: list[str], tmp_path: Path) -> None:
    one = Reading(
        id="s", patient="p", target=None, prediction=np.zeros(task.outputs), predictions=np.zeros((1, task.outputs)),
        scanpath=np.zeros((0, 2)), zooms=np.zeros(0, int), glimpses=0, share_read=0.0, pixels_read=0, seconds=0.0,
    )  # fmt: skip
    readings = [replace(one, target=task.parse_target(text)) for text in texts]
    write_predictions(tmp_path / "predictions.csv", {"ppo": readings}, task, "test")
    with open(tmp_path / "predictions.csv", newline="") as file:
        written = [line["target"] for line in csv.DictReader(file)]
    assert written == texts
    assert np.array_equal(
        task.stack([task.parse_target(text) for text in written]), task.stack([r.target for r in readings])
    )


def test_names_that_could_not_be_read_again_are_refused() -> None:
    with pytest.raises(ValueError, match="without ';' or without '='"):
        MultiTask({"a": Classification(["x;a=1", "y"])})


@pytest.mark.parametrize(
    ("task", "texts", "option"),
    [
        (Classification(2), ["malignant", "benign", "benign"], "'env.task.classes=[benign,malignant]'"),
        (Classification(2), ["1", "2.0", "10"], "'env.task.classes=[1,2,10]'"),
        (Classification(2), ["0", "2", "1"], "env.task.classes=3"),
        (Classification(2), ["a.b", "c~d", "1e", "nan"], """'env.task.classes=["1e",a.b,"c~d","nan"]'"""),
        (Classification(2), ["in situ", "null"], """'env.task.classes=["in situ","null"]'"""),
        (Classification(2), ["0", "1", "typo"], ""),
        (Classification(["a", "b"]), ["a", "c"], ""),
        (Classification(2), ["only"], ""),
        (Classification(2), [f"name {i}" for i in range(21)], ""),
        (MultiLabel(2), ["oedema;nodule", "none"], "'env.task.labels=[nodule,oedema]'"),
        (MultiLabel(2), ["oedema,nodule", "none"], ""),
        (MultiLabel(2), ["1,4", "4"], ""),
        (Classification(2), ["9" * 5000, "1"], ""),
        (
            MultiTask({"a": Classification(2), "b": Regression()}),
            ["a=x;b=1", "a=y;b=2"],
            "'env.task.tasks.a.classes=[x,y]'",
        ),
        (Regression(), ["a"], ""),
    ],
)  # fmt: skip
def test_the_option_that_names_the_labels_can_be_typed(task: Task, texts: list[str], option: str) -> None:
    assert task.hint(texts) == option
    if python := in_python(option):
        known = eval(python.removeprefix("task="), {"glimpse": glimpse})
        assert [known.write_target(known.parse_target(text)) for text in texts]
    assert bool(python) == option.lstrip("'").startswith(("env.task.classes", "env.task.labels"))
    if option:
        (typed,) = shlex.split(option)
        key, value = typed.split("=", 1)
        override = OverridesParser.create().parse_override(f"+{typed}")
        kind = MultiLabel if key.endswith("labels") else Classification
        known = kind(override.value() if value.startswith("[") else int(value))
        words = [word.partition("a=")[2] or word for text in texts for word in text.split(";") if word[:2] != "b="]
        assert {known.write_target(known.parse_target(word)) for word in words} <= {*known.names, "none"}
