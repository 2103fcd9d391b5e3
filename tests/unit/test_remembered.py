"""Images that were checked once are not opened again for the next training, unless they have changed."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.scale_images import SeedSource
from glimpse.cohort import Cohort, CohortError, remembered
from glimpse.cohort.preflight import check_sizes
from glimpse.geometry import CellGrid, Extent
from glimpse.sources import ImageReadError, RadiographSource, registry
from glimpse.tasks import Classification
from glimpse.views import Views

COUNT = 6
READER = registry.Reader("seeds", SeedSource, (".seed",), registry.knows_nothing, registry.knows_nothing)
VIEWS = Views((64, 64), (32, 32), (Extent.parse(32),))


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(registry._READERS, "seeds", READER)
    monkeypatch.setattr(remembered, "LEAST", COUNT)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    lines = ["case_id,slide_id,path,target,split"]
    for i in range(COUNT):
        (tmp_path / f"{i}.seed").write_text(str(i))
        lines.append(f"p{i},s{i},{i}.seed,{i % 2},{('train', 'val', 'test')[i // 2]}")
    path = tmp_path / "cohort.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the images that are read, or asked for their size."""
    names: list[str] = []

    def noting(inner: Callable[..., Any]) -> Callable[..., Any]:
        def noted(self: SeedSource, *arguments: Any) -> Any:
            names.append(self.path.stem)
            return inner(self, *arguments)

        return noted

    monkeypatch.setattr(SeedSource, "_opened", noting(SeedSource._opened))
    monkeypatch.setattr(SeedSource, "frame", property(noting(SeedSource.frame.fget)))
    return names


def load(path: Path, **options: Any) -> Cohort:
    found = Cohort.from_csv(path, Classification((0, 1)), source_options={"reader": "seeds"}, **options)
    check_sizes(found, VIEWS, CellGrid((64, 64), (8, 8)))
    return found


def test_only_images_that_have_changed_are_opened_again(cohort: Path, opened: list[str]) -> None:
    first = [(case.id, case.fingerprint, case.split) for case in load(cohort)]
    assert set(opened) == {str(i) for i in range(COUNT)}
    opened.clear()
    assert [(case.id, case.fingerprint, case.split) for case in load(cohort)] == first
    assert not opened
    changed = cohort.parent / "3.seed"
    changed.write_text("7")
    os.utime(changed, ns=(time.time_ns() + 10**9,) * 2)
    again = {case.id: case.fingerprint for case in load(cohort)}
    assert set(opened) == {"3"}
    assert [name for name, mark, _ in first if again[name] != mark] == ["s3"]


def test_what_is_wrong_is_found_again(cohort: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(self: SeedSource) -> None:
        if self.path.stem == "4":
            raise ImageReadError(f"{self.path}: broken")

    monkeypatch.setattr(SeedSource, "check", broken)
    for _ in range(2):
        with pytest.raises(CohortError, match=r"line 6, s4: .*4\.seed: broken"):
            load(cohort)
    (cohort.parent / "1.seed").unlink()
    with pytest.raises(CohortError, match="2 problems"):
        load(cohort)
    with pytest.warns(UserWarning, match="skipped"):
        assert [case.id for case in load(cohort, on_error="skip")] == ["s0", "s2", "s3", "s5"]


def test_a_file_of_the_cache_that_is_damaged_or_cannot_be_written_is_none(
    cohort: Path, opened: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    load(cohort)
    for file in (cohort.parent / "cache" / "checked").iterdir():
        file.write_text("[1")
    opened.clear()
    assert len(load(cohort)) == COUNT and set(opened) == {str(i) for i in range(COUNT)}
    monkeypatch.setenv("GLIMPSE_CACHE", str(cohort))  # a file, not a folder
    assert len(load(cohort)) == COUNT


def test_small_cohorts_leave_nothing_behind(cohort: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "LEAST", COUNT + 1)
    load(cohort)
    assert not (cohort.parent / "cache" / "checked").exists()


def test_what_was_found_with_another_size_of_pixel_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    Image.new("L", (64, 64)).save(tmp_path / "a.png")
    known = remembered.Remembered("sizes", remembered.LEAST)
    keys = {known.key(RadiographSource(tmp_path / "a.png", mpp=mpp)) for mpp in (None, 0.5, 5.0, 5.0)}
    assert None not in keys and len(keys) == 3


@pytest.mark.parametrize("content", ['{"a": 5, "b": ""}', "[" * 200_000, "[1]"])
def test_a_file_of_something_else_is_as_good_as_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str
) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    known = remembered.Remembered("whole", remembered.LEAST)
    known._file.parent.mkdir()
    known._file.write_text(content)
    again = remembered.Remembered("whole", remembered.LEAST)
    assert again.found("a") is None and again.found("b") is None
