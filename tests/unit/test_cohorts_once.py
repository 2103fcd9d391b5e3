"""However many environments are made on a cohort, its files are checked once, and again when they have changed."""

import os
import sys
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import tifffile

import glimpse  # noqa: F401 - registers the environments
from glimpse.cohort import CohortError
from glimpse.envs import cohorts
from glimpse.sources.radiograph.source import RadiographSource
from glimpse.sources.slide.source import SlideSource
from glimpse.tasks import Classification

SIZES: dict[str, Any] = {"overview_size": 64, "glimpse_size": 32, "glimpse_extents": (64,)}


@pytest.fixture
def checks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that have been checked, in order."""
    names: list[str] = []
    for source in (SlideSource, RadiographSource):

        def check(self: Any, original: Any = source.check) -> None:
            names.append(self.path.name)
            original(self)

        monkeypatch.setattr(source, "check", check)
    return names


def paint(path: Path, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (256, 256, 3), np.uint8)
    tifffile.imwrite(path, pixels, tile=(128, 128), photometric="rgb")
    os.utime(path, ns=(seed, seed))


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    lines = ["case_id,slide_id,path,target,split"]
    for index in range(3):
        paint(tmp_path / f"s{index}.tiff", seed=index)
        lines.append(f"p{index},s{index},s{index}.tiff,{index % 2},{'val' if index == 2 else 'train'}")
    (tmp_path / "cohort.csv").write_text("\n".join(lines))
    return tmp_path / "cohort.csv"


def test_files_are_checked_once_for_all_environments(slides: Path, checks: list[str]) -> None:
    envs = [gymnasium.make("glimpse/WSI-v0", cohort=str(slides), **SIZES).unwrapped for _ in range(3)]
    envs.append(gymnasium.make("glimpse/WSI-v0", cohort=slides, split="val", max_glimpses=2, **SIZES).unwrapped)
    assert checks == ["s0.tiff", "s1.tiff", "s2.tiff"]
    assert [len(env.cases) for env in envs] == [2, 2, 2, 1]  # type: ignore[attr-defined]
    assert envs[0].cases[0].source is envs[2].cases[0].source  # type: ignore[attr-defined]


def test_what_matters_is_checked_again(slides: Path, checks: list[str]) -> None:
    def made(**options: Any) -> int:
        checks.clear()
        gymnasium.make("glimpse/WSI-v0", cohort=slides, **{**SIZES, **options})
        return len(checks)

    assert (made(), made()) == (3, 0)
    assert made(task=Classification(["normal", "tumour"])) == 3
    assert made(max_glimpses=3) == 3  # the cohort with the task of the modality again
    assert made(on_error="skip") == 3
    paint(slides.parent / "s1.tiff", seed=7)
    assert (made(), made()) == (3, 0)
    paint(slides.parent / "s3.tiff", seed=3)
    slides.write_text(slides.read_text() + "\np3,s3,s3.tiff,1,test")
    assert (made(), made()) == (4, 0)
    (slides.parent / "s0.tiff").unlink()
    with pytest.raises(CohortError, match=r"s0\.tiff"):
        made()


def test_no_bar_is_shown_by_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    paint(tmp_path / "s.tiff", seed=0)
    rows = "".join(f"p{index},s{index},s.tiff,{index % 2},train\n" for index in range(60))
    (tmp_path / "cohort.csv").write_text("case_id,slide_id,path,target,split\n" + rows)
    gymnasium.make("glimpse/WSI-v0", cohort=tmp_path / "cohort.csv", **SIZES)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_only_the_csv_its_images_and_its_masks_are_looked_at(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "other").mkdir()
    for name in ("s.tiff", "m.png", "notes.txt", "other/unrelated.txt"):
        (tmp_path / name).touch()
    path = tmp_path / "cohort.csv"
    rows = [
        "case_id;slide_id;path;target;mask;size;folder;note",
        "p;s;s.tiff;1;m.png;~3 mm;/;a,notes.txt",
        "q;.;t.tiff;1",
    ]
    path.write_text("\n".join(rows), encoding=encoding)
    files = cohorts._files_of(path)
    assert set(files) == {str(tmp_path / name) for name in ("cohort.csv", "s.tiff", "m.png", "t.tiff")}
    assert {Path(name).name for name, stamp in files.items() if stamp is None} == {"t.tiff"}


def test_all_files_of_an_image_that_is_a_folder_are_looked_at(tmp_path: Path) -> None:
    for name in ("scan/1.dcm", "scan/late/2.dcm", "a/Slidedat.ini"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    path = tmp_path / "cohort.csv"
    path.write_text("case_id,slide_id,path,target\np,s,scan,1\nq,t,a.mrxs,0")
    names = {Path(name).relative_to(tmp_path).as_posix() for name in cohorts._files_of(path)}
    assert names >= {"cohort.csv", "scan", "scan/1.dcm", "scan/late/2.dcm", "a.mrxs", "a/Slidedat.ini"}


def test_a_column_of_notes_stops_nothing_and_home_folders_that_do_not_exist_are_listed(
    slides: Path, checks: list[str]
) -> None:
    header, *rows = slides.read_text().splitlines()
    slides.write_text("\n".join([f"{header},thickness", *(f"{row},~3 mm" for row in rows)]))
    gymnasium.make("glimpse/WSI-v0", cohort=slides, **SIZES)
    assert len(checks) == 3
    slides.write_text(
        "\n".join([f"{header},mask", *(f"{row}," for row in rows[1:]), "p,s,~no-such-user/s.tiff,1,train,"])
    )
    with pytest.raises(
        CohortError, match=r"line 4, s: ~no-such-user/s\.tiff: '~' at its beginning means a home folder"
    ):
        gymnasium.make("glimpse/WSI-v0", cohort=slides, **SIZES)
    slides.write_text("\n".join([f"{header},mask", *(f"{row}," for row in rows[1:]), f"{rows[0]},~no-such-user/m.png"]))
    with pytest.raises(CohortError, match=r"line 4, s0: ~no-such-user/m\.png: '~' at its beginning"):
        gymnasium.make("glimpse/WSI-v0", cohort=slides, **SIZES)
    with pytest.warns(UserWarning, match=r"skipped line 4, s0: ~no-such-user/m\.png"):
        gymnasium.make("glimpse/WSI-v0", cohort=slides, on_error="skip", **SIZES)
