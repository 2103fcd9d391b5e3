"""The files of a run: names for any case, a full disk, and files that may not be read."""

import errno
import os
import re
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

import glimpse
from glimpse import atomic
from glimpse.atomic import WriteError, write_atomically
from glimpse.compare import compare
from glimpse.errors import UserError
from glimpse.evaluate import evaluate
from glimpse.predict import predict
from glimpse.report.html.writing import write_report
from glimpse.runs import checkpoints
from glimpse.runs.checkpoints import Checkpoint, CheckpointError
from glimpse.runs.file_names import file_names
from glimpse.runs.folder import Run, RunError, settings_of
from glimpse.runs.initial import weights_file
from glimpse.runs.loading import read_settings, settings_text
from glimpse.settings.command import run_command
from glimpse.settings.paths import with_whole_paths
from glimpse.settings.quoting import typed
from tests.predictions import untrained_run

STRANGE = [
    "site/s1", "site_s1", "..", ".", "", " ", "a.", "a", "A", "/etc/passwd", "a\\b", "a:b", "con", "NUL.txt", "-rf",
    ".git", "x" * 500, "x" * 501, "\u00fc" * 200, "u\u0308", "\u00fc", "a\nb", "a\0b", "s 1", "\u75c5\u4f8b 7", "a*b?",
    "a|b",
]  # fmt: skip


def test_every_case_gets_a_file_of_its_own(tmp_path: Path) -> None:
    names = file_names(STRANGE)
    for name, case in zip(names, STRANGE, strict=True):
        file = tmp_path / f"{name}.png"
        assert file.parent == tmp_path and not file.exists() and not name.startswith(("-", ".")) and name[-1:] != "."
        file.write_text(case)
    assert len(list(tmp_path.iterdir())) == len({name.casefold() for name in names}) == len(STRANGE)
    assert all(len(f"{name}.png".encode()) <= 160 and set(name).isdisjoint('/\\:*?"<>|\0\n') for name in names)


def test_no_case_takes_the_file_of_another_that_is_called_like_its_hash() -> None:
    plain, hashed = file_names(["A", "a"])
    assert plain == "A" and hashed.startswith("a-")
    for cases in ([hashed, "A", "a"], ["A", hashed, "a"], ["A", "a", hashed]):
        assert len({name.casefold() for name in file_names(cases)}) == 3


def test_plain_names_stay_as_they_are() -> None:
    plain = ["slide-1", "TCGA-AA-3502-01Z.svs", "s 1", "病例", "case_7 (left)"]
    assert file_names(plain) == plain
    assert file_names(["a/b"]) == file_names(["c", "a/b"])[1:], "a name does not depend on other cases"


def full(*_: object, **__: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_full_disk_is_one_line_and_keeps_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_atomically(tmp_path / "a.txt", "before")
    monkeypatch.setattr(atomic.os, "fsync", full)
    with pytest.raises(WriteError) as caught:
        write_atomically(tmp_path / "a.txt", "after")
    assert isinstance(caught.value, UserError)
    assert str(caught.value) == (
        f"{tmp_path / 'a.txt'}: cannot be written (No space left on device). Free some space on the disk."
    )
    assert (tmp_path / "a.txt").read_text() == "before" and len(list(tmp_path.iterdir())) == 1


def test_threads_that_write_the_same_file_do_not_write_into_each_other(tmp_path: Path):
    path, texts = tmp_path / "a.txt", ["short", "long " * 50_000]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda index: write_atomically(path, texts[index % 2]), range(40)))
    assert path.read_text() in texts and [one.name for one in tmp_path.iterdir()] == ["a.txt"]


def test_a_folder_that_has_gone_is_said_to_be_missing(tmp_path: Path) -> None:
    with pytest.raises(
        WriteError, match=r"a\.txt: cannot be written \(No such file.*\)\. Make sure that its folder is there\.$"
    ):
        write_atomically(tmp_path / "gone" / "a.txt", "text")


def test_a_checkpoint_on_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def beginning(_: object, file: Path, __: object) -> None:
        file.write_bytes(b"the beginning")
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    path = tmp_path / "last.safetensors"
    Checkpoint({"a": torch.zeros(3)}).save(path)
    before = path.read_bytes()
    monkeypatch.setattr(checkpoints, "save_file", beginning)
    with pytest.raises(WriteError, match=r"last\.safetensors: cannot be written \(No space left on device\)"):
        Checkpoint({"a": torch.ones(3)}).save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1


def test_other_writers_on_a_full_disk_end_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    def main() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "events.out")

    with pytest.raises(SystemExit) as ended:
        run_command(main)
    assert ended.value.code == 2
    assert capsys.readouterr().err == "glimpse: events.out: No space left on device. Free some space on the disk.\n"

    def mistaken() -> None:
        raise FileNotFoundError(errno.ENOENT, "a mistake of the program", "x")

    with pytest.raises(FileNotFoundError):
        run_command(mistaken)


def test_a_file_in_place_of_a_run_folder(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("")
    for folder in (tmp_path / "run", tmp_path / "run" / "below"):
        with pytest.raises(RunError, match=r"run.*: cannot be made a run folder \(.*\)\. Choose another one with run="):
            Run(folder, {"env": {}})
        with pytest.raises(RunError, match="no run to resume"):
            settings_of(folder)
        with pytest.raises(CheckpointError, match="not a run folder"):
            glimpse.load(folder)


def test_the_folder_of_a_cross_validation_is_told_from_a_run(tmp_path: Path) -> None:
    (tmp_path / "fold-1").mkdir()
    (tmp_path / "fold-1" / "config.yaml").write_text("")
    said = f"{tmp_path}: the folder of a cross-validation, .* Give one, such as {tmp_path / 'fold-1'}"
    for use in (settings_of, glimpse.load, weights_file, write_report):
        with pytest.raises(UserError, match=said):
            use(tmp_path)


@pytest.mark.parametrize(
    "text",
    ["a${x}", r"\${x}", r"\\${x}", "$", "${", "${oc.env:HOME}", r"a\b", "it's", "", " ", "null", "1", "a: b", "\n"],
)
def test_settings_are_read_as_they_were_written(text: str, tmp_path: Path) -> None:
    settings = {
        "env": {"make": {"path": text, "several": [text, 1.5]}, "cohort": {}},
        "run": text,
        "read_threads": None,
    }
    (tmp_path / "config.yaml").write_text(settings_text(settings), "utf-8")
    assert read_settings(tmp_path) == settings


@pytest.mark.parametrize("content", ["", "a: [", "- 1", "seed: 3", "env: {}", "env: ${nothing}"])
def test_settings_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "config.yaml").write_text(content)
    for read in (settings_of, glimpse.load):
        with pytest.raises(CheckpointError, match=r"config\.yaml: .*Restore the file") as caught:
            read(tmp_path)
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(sys.platform == "win32", reason="rights are other ones there")
@pytest.mark.parametrize("file", ["config.yaml", "policy.safetensors", ""])
def test_files_that_may_not_be_read(tmp_path: Path, file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "config.yaml").write_text("env: {make: {}, cohort: {}}\nread_threads: 2\n")
    (tmp_path / "policy.safetensors").write_bytes(b"")

    def denied(read: object) -> object:
        def reading(path: Path, *given: object, **options: object) -> object:
            if path == tmp_path / file or file == "":
                raise PermissionError(errno.EACCES, "Permission denied", str(path))
            return read(path, *given, **options)  # type: ignore[operator]

        return reading

    for name in ("read_text", "read_bytes", "exists", "is_file"):  # root may read everything, so rights are no test
        monkeypatch.setattr(Path, name, denied(getattr(Path, name)))
    with pytest.raises(CheckpointError, match=r"cannot be read \(Permission denied\)\. Allow this user") as caught:
        glimpse.load(tmp_path)
    assert (file or "config.yaml") in str(caught.value) and "\n" not in str(caught.value)


def test_paths_do_not_depend_on_the_working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/someone")
    given = {"cohort": {"path": "a/b.csv", "synthetic": {"folder": "~/c", "n": 3}, "windows": ["lung"]}, "root": None}
    assert with_whole_paths(given) == {
        "cohort": {
            "path": str(tmp_path / "a" / "b.csv"), "synthetic": {"folder": "/home/someone/c", "n": 3},
            "windows": ["lung"],
        },
        "root": None,
    }  # fmt: skip
    assert with_whole_paths({"path": "/x/y.csv", "root": ""}) == {"path": "/x/y.csv", "root": ""}
    encoder = {"planar": {"name": "model", "checkpoint": "net.pt"}, "other": {"name": "org/model"}}
    (tmp_path / "model").mkdir()
    assert with_whole_paths(encoder, folders=("name",)) == {
        "planar": {"name": str(tmp_path / "model"), "checkpoint": str(tmp_path / "net.pt")},
        "other": {"name": "org/model"},  # of a hub
    }
    assert with_whole_paths({"name": "model"}) == {"name": "model"}  # of an environment


@pytest.mark.parametrize(("make", "said"), [(os.mkdir, "There is a folder"), (os.mkfifo, "no regular file")])
def test_only_files_are_replaced(make: Callable[[Path], None], said: str, tmp_path: Path) -> None:
    make(tmp_path / "there")
    with pytest.raises(WriteError, match=f"there: cannot be written .*{said}"):
        write_atomically(tmp_path / "there", "text")
    assert [path.name for path in tmp_path.iterdir()] == ["there"] and not (tmp_path / "there").is_file()


def test_every_command_says_that_a_training_has_not_ended(tmp_path: Path) -> None:
    run = untrained_run(tmp_path / "run", "experiment=smoke")
    (run / "policy.safetensors").unlink()
    with pytest.raises(CheckpointError, match="there is no such file; is the run folder complete"):
        glimpse.load(run)  # nothing of a training lies there
    (run / "checkpoints").mkdir()
    said = rf"run: this training has not ended.*glimpse train {re.escape(typed('resume', run))} goes on with it"
    commands: tuple[Callable[[], object], ...] = (
        lambda: glimpse.load(run),
        lambda: evaluate(run),
        lambda: predict(run, tmp_path, tmp_path / "out"),
        lambda: compare([run, run]),
        lambda: weights_file(run),
    )
    for command in commands:
        with pytest.raises(UserError, match=said):
            command()
    (run / "checkpoints" / "best.safetensors").touch()
    with pytest.raises(CheckpointError, match=r"Its best weights so far: .*best\.safetensors"):
        weights_file(run)
