"""Images that are read from copies on a local disk: whole copies only, within a bound, for several processes."""

import errno
import os
import pickle
import subprocess
import sys
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from glimpse.check import check
from glimpse.cohort import Cohort
from glimpse.errors import SettingsError
from glimpse.modalities import find_modality
from glimpse.predicting.inputs import find_items
from glimpse.sources import ImageReadError, ImageSource, SlideSource, open_source
from glimpse.sources.staged import stage as staging
from glimpse.sources.staged.source import StagedSource
from glimpse.sources.staged.stage import Stage
from glimpse.tasks import Classification
from tests.checks import FAST, SIZES, listed
from tests.predictions import write_scn, write_slide

MB = 2**-10  # in gigabytes


@pytest.fixture(autouse=True)
def _told_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(staging, "_told", set())


def a_view(source: ImageSource) -> np.ndarray:
    return source.read([side / 2 for side in source.shape], (64.0, 64.0), (64, 64))


def copies(folder: Path) -> list[Path]:
    """All files of the copies in a stage; what else lies there is hidden."""
    return sorted(file for place in folder.glob("[!.]*") for file in place.rglob("[!.]*") if file.is_file())


# ---------------------------------------------------------------------------------------------- what is read
@pytest.mark.parametrize("write", [write_slide, write_scn])
def test_a_copy_shows_what_the_original_shows(write: Callable[[Path], Path], tmp_path: Path) -> None:
    path, stage = write(tmp_path / "s.svs"), tmp_path / "stage"
    original, staged = open_source(path), open_source(path, stage=stage)
    assert not stage.exists()  # nothing is copied before something is read
    assert np.array_equal(a_view(original), a_view(staged))
    assert staged.overview((32, 32)).tobytes() == original.overview((32, 32)).tobytes()
    assert (staged.frame, staged.offset, staged.name) == (original.frame, original.offset, original.name)
    assert (staged.identity, staged.lasting_identity) == (original.identity, original.lasting_identity)
    (copy,) = copies(stage)
    assert (staged.file, staged.path) == (copy, path) and copy.read_bytes() == path.read_bytes()
    again = pickle.loads(pickle.dumps(staged))
    assert np.array_equal(a_view(again), a_view(original)) and copies(stage) == [copy]


def test_all_files_of_an_image_are_copied(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "b.svs"):
        (tmp_path / name).write_text(name)
    stage = Stage.of(tmp_path / "stage", None)
    source = StagedSource(SlideSource(tmp_path / "a.mrxs"), stage, SlideSource)
    with pytest.raises(ImageReadError, match=r"a\.mrxs") as told:
        source.check()
    assert str(stage.folder) not in str(told.value)  # the user knows the original only
    (place,) = stage.folder.glob("[!.]*")
    names = {file.relative_to(place).as_posix() for file in copies(stage.folder)}
    assert names == {"a.mrxs", "a/Data0000.dat", "a/Slidedat.ini"}


def test_what_may_have_other_files_is_read_in_place(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "s.svs").rename(tmp_path / "s.vms")
    source = open_source(path, reader="slide", stage=tmp_path / "stage")
    with pytest.warns(UserWarning, match=r"s\.vms: is read in place"):
        assert source.file == path
    assert np.array_equal(a_view(source), a_view(open_source(path, reader="slide"))) and not copies(tmp_path / "stage")


# ---------------------------------------------------------------------------------------------- whole or not at all
def test_a_copy_is_made_anew_when_it_or_the_original_has_changed(tmp_path: Path) -> None:
    path, stage = write_slide(tmp_path / "s.svs", 0), tmp_path / "stage"
    a_view(open_source(path, stage=stage))
    (copy,) = copies(stage)
    content = copy.read_bytes()
    os.truncate(copy, 1000)
    assert np.array_equal(a_view(open_source(path, stage=stage)), a_view(open_source(path)))
    assert copy.read_bytes() == content
    before = open_source(path, stage=stage)
    seen, known = a_view(before), before.identity
    write_slide(path, 1)
    assert before.identity == known and np.array_equal(a_view(before), seen)  # caches show what it shows
    assert np.array_equal(a_view(open_source(path, stage=stage)), a_view(open_source(path)))
    assert len(copies(stage)) == 2


def test_a_copy_that_was_removed_while_it_was_read_is_made_again(tmp_path: Path) -> None:
    path, stage = write_slide(tmp_path / "s.svs"), Stage.of(tmp_path / "stage", None)
    source = open_source(path, stage=stage.folder)
    expected = a_view(source)
    stage.remove(copies(stage.folder)[0].parent)
    source.close()  # as when others are held open
    assert np.array_equal(a_view(source), expected) and len(copies(stage.folder)) == 1


@pytest.mark.parametrize(("times", "kept"), [(2, 1), (99, 0)])
def test_where_others_remove_a_copy_before_it_is_opened(
    times: int, kept: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, stage, left = write_slide(tmp_path / "s.svs"), Stage.of(tmp_path / "stage", None), [times]
    inner = StagedSource._placed

    def removed(self: StagedSource) -> Path | None:
        place = inner(self)
        if place is not None and left[0]:
            left[0] -= 1
            stage.remove(place)
        return place

    monkeypatch.setattr(StagedSource, "_placed", removed)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        assert np.array_equal(a_view(open_source(path, stage=stage.folder)), a_view(open_source(path)))
    assert len(copies(stage.folder)) == kept and [str(one.message)[-17:] for one in told] == ["stage_gigabytes=."] * (
        1 - kept
    )


def test_a_stage_among_images_is_not_read_as_images(tmp_path: Path) -> None:
    write_slide(tmp_path / "in" / "s.svs")
    open_source(tmp_path / "in" / "s.svs", stage=tmp_path / "in" / "stage").check()
    assert len(copies(tmp_path / "in" / "stage")) == 1
    assert [item.id for item in find_items([tmp_path / "in"], find_modality("wsi"))] == ["s"]


def test_an_interrupted_copy_is_not_used_and_is_removed(tmp_path: Path) -> None:
    path, stage = write_slide(tmp_path / "s.svs"), tmp_path / "stage"
    killed = (
        "import os, sys; from glimpse.sources.staged import stage\n"
        "def dies(original, copy):\n"
        "    copy.write_bytes(original.read_bytes()[:1000]); os._exit(9)\n"
        "from glimpse.sources.staged import source; source.copy_file = dies\n"
        "from glimpse.sources import open_source; open_source(sys.argv[1], stage=sys.argv[2]).check()"
    )
    assert subprocess.run([sys.executable, "-c", killed, path, stage]).returncode == 9
    assert len(list(stage.glob(".*.unfinished"))) == 1 and not copies(stage)
    assert np.array_equal(a_view(open_source(path, stage=stage)), a_view(open_source(path)))
    assert not list(stage.glob(".*.unfinished")) and copies(stage)[0].read_bytes() == path.read_bytes()


def test_folders_of_others_in_a_stage_are_kept(tmp_path: Path) -> None:
    path, hashed = write_slide(tmp_path / "s.svs"), "0" * 32
    kept, left = (".x.removed", ".keep.unfinished", f".{hashed}.removed", hashed[1:]), f".{hashed}.17.unfinished"
    for name in (*kept, left):
        (tmp_path / "stage" / name).mkdir(parents=True)
    open_source(path, stage=tmp_path / "stage", stage_gigabytes=1.2 * path.stat().st_size / 2**30).check()
    assert all((tmp_path / "stage" / name).is_dir() for name in kept) and not (tmp_path / "stage" / left).exists()


def test_an_original_that_is_being_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide(tmp_path / "s.svs")

    def growing(original: Path, copy: Path) -> None:
        with open(original, "ab") as file:
            file.write(b"more")
        staging.copy_file(original, copy)

    monkeypatch.setattr("glimpse.sources.staged.source.copy_file", growing)
    with pytest.raises(ImageReadError, match=r"s\.svs: it has changed while it was copied"):
        open_source(path, stage=tmp_path / "stage").check()
    assert not copies(tmp_path / "stage")


def test_several_processes_share_a_stage_and_each_image_is_copied_once(tmp_path: Path) -> None:
    paths = [write_slide(tmp_path / f"{i}.svs", i) for i in range(4)]
    reads = (
        "import os, sys; from glimpse.sources.staged import source, stage; from glimpse.sources import open_source\n"
        "def copies(original, copy):\n"
        "    print(original.name, flush=True); stage.copy_file(original, copy)\n"
        "source.copy_file = copies\n"
        "for path in sys.argv[2:]: open_source(path, stage=sys.argv[1]).check()"
    )
    command = [sys.executable, "-c", reads, tmp_path / "stage", *paths]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [process.communicate(timeout=60)[0].split() for process in running]
    assert sorted(said[0] + said[1]) == [path.name for path in paths]
    assert [process.returncode for process in running] == [0, 0] and len(copies(tmp_path / "stage")) == 4


# ---------------------------------------------------------------------------------------------- room
def test_the_copies_used_longest_ago_make_room(tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.npy" for i in range(4)]
    for i, path in enumerate(paths):
        np.save(path, np.full((1, 512, 512), i, np.uint8))  # a quarter of a megabyte each
    stage = {"stage": tmp_path / "stage", "stage_gigabytes": 0.8 * MB}  # three of them
    sources = [open_source(path, **stage) for path in paths]
    for source in sources[:3]:
        a_view(source)
    for age, path in ((30, paths[1]), (20, paths[0]), (10, paths[2])):
        (place,) = (one.parent for one in copies(tmp_path / "stage") if one.name == path.name)
        os.utime(place, ns=(0, (place.stat().st_mtime_ns - age * 10**9)))
    a_view(open_source(paths[1], **stage))  # it is used again, so the first one is now the oldest
    assert int(a_view(sources[3]).max()) == 3
    assert [one.name for one in sorted(copies(tmp_path / "stage"), key=lambda one: one.name)] == [
        "1.npy", "2.npy", "3.npy",
    ]  # fmt: skip


def test_what_does_not_fit_is_read_in_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_slide(tmp_path / "s.svs")
    with pytest.warns(UserWarning, match=r"do not fit into the .* GB of the stage.*s\.svs is read in place"):
        source = open_source(path, stage=tmp_path / "small", stage_gigabytes=1e-6)
        assert source.file == path
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # it was said once
        assert open_source(path, stage=tmp_path / "small", stage_gigabytes=1e-6).file == path
    tries = []

    def full(original: Path, copy: Path) -> None:
        tries.append(original)
        raise OSError(errno.ENOSPC, "No space left on device", str(copy))

    monkeypatch.setattr("glimpse.sources.staged.source.copy_file", full)
    with pytest.warns(UserWarning, match=r"cannot be copied here \(No space left on device\). Free some space"):
        assert open_source(path, stage=tmp_path / "full").file == path
    assert len(tries) == 2 and not copies(tmp_path / "full")
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match=r"cannot be copied here .* with stage="):
        assert np.array_equal(a_view(open_source(path, stage=tmp_path / "file")), a_view(open_source(path)))


@pytest.mark.parametrize(
    "options",
    [
        {"stage": ""},
        {"stage": 3},
        {"stage": "http://host/a"},
        {"stage": Path("http://host/a")},
        {"stage": "a\0"},
        {"stage": "a", "stage_gigabytes": 0},
    ],
)
def test_a_stage_that_makes_no_sense(options: dict[str, object], tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="Expected stage"):
        open_source(write_slide(tmp_path / "s.svs"), **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------------------------------------- commands
def test_cohorts_and_checks_have_a_stage(tmp_path: Path) -> None:
    lines = [f"p{i},s{i},{write_slide(tmp_path / f's{i}.svs', i).name},{i % 2},train" for i in range(2)]
    csv, stage = listed(tmp_path / "cohort.csv", *lines), tmp_path / "stage"
    options = {"reader": "slide", "stage": str(stage)}
    cohort = Cohort.from_csv(csv, Classification((0, 1)), source_options=options)
    assert [case.source.path for case in cohort] == [tmp_path / "s0.svs", tmp_path / "s1.svs"]
    assert len(copies(stage)) == 2
    other = tmp_path / "other"
    settings = (*SIZES, f"env.cohort.stage={other}")
    checked = check(csv, tmp_path / "out", env="wsi", **{**FAST, "settings": settings})
    assert checked.wrong == 0 and all(seen.pixels for _, seen, _ in checked.cases) and len(copies(other)) == 2
