"""Images on other machines: fetched once, when they are read, and named by their addresses."""

import csv
import os
import pickle
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from glimpse.cohort import Cohort, CohortError, remembered
from glimpse.cohort.images import located
from glimpse.errors import EvaluationError, MissingExtraError
from glimpse.modalities import find_modality
from glimpse.predict import predict
from glimpse.predicting.inputs import find_items
from glimpse.sources import ImageReadError, UnsupportedImageError, open_source
from glimpse.sources.staged import remote as module
from glimpse.sources.staged.remote import RemotePath, RemoteSource, is_url, remote
from glimpse.sources.volume.unpacked import unpacked_folder
from glimpse.tasks import Classification
from tests.checks import listed
from tests.predictions import untrained_run, write_slide
from tests.volume_files import write

OWN = ("experiment=smoke", "env.make.glimpse_size=64", "env.make.glimpse_extents=[64um]")


@pytest.fixture
def store() -> Iterator[fsspec.AbstractFileSystem]:
    """A store in memory, empty."""
    system = fsspec.filesystem("memory")
    system.store.clear()
    yield system
    system.store.clear()


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are fetched."""
    names: list[str] = []
    inner = fsspec.implementations.memory.MemoryFileSystem.get_file

    def noting(self: object, address: str, *rest: object, **options: object) -> None:
        names.append(Path(address).name)
        inner(self, address, *rest, **options)

    monkeypatch.setattr(fsspec.implementations.memory.MemoryFileSystem, "get_file", noting)
    return names


def put(store: fsspec.AbstractFileSystem, path: Path, name: str) -> Path:
    store.pipe(f"/{name}", path.read_bytes())
    return path


# ---------------------------------------------------------------------------------------------- addresses
def test_an_address_stays_what_it_is(tmp_path: Path) -> None:
    path = RemotePath("s3://bucket/a/b.svs")
    assert (str(path), os.fspath(path), path.name, path.suffix) == ("s3://bucket/a/b.svs",) * 2 + ("b.svs", ".svs")
    assert pickle.loads(pickle.dumps(path)) == path and str(pickle.loads(pickle.dumps(path))) == str(path)
    assert path.absolute() is path and not path.exists() and not path.is_dir()
    assert str(located(tmp_path / "cohort.csv", "https://host:8000/b.svs")) == "https://host:8000/b.svs"
    signed = remote("HTTPS://me:secret@host/a//b.svs?path=/q//c.svs&sig=a//b")
    assert signed is not None and str(signed) == "https://me:secret@host/a//b.svs?path=/q//c.svs&sig=a//b"
    assert signed.shown == "https://host/a//b.svs" and str(pickle.loads(pickle.dumps(signed))) == str(signed)
    assert f"{signed}" == signed.shown  # in messages
    assert not any(map(is_url, ("C:\\a.svs", "a/b.svs", "/a//b.svs", "x:/a.svs", "s3:/a.svs")))


def test_an_address_of_a_file_here_is_its_path(tmp_path: Path) -> None:
    path = write_slide(tmp_path / "an image.svs")
    for address in (path.as_uri(), path.as_uri().replace("file:", "FILE:"), f"file://localhost{path}"):
        assert open_source(address).path == located(tmp_path / "cohort.csv", address) == path
        assert [item.path for item in find_items([address], find_modality("wsi"))] == [path]


# ---------------------------------------------------------------------------------------------- reading
def test_an_image_is_fetched_when_it_is_read(store, fetched: list[str], tmp_path: Path) -> None:
    path = put(store, write_slide(tmp_path / "s.svs"), "slides/s.svs")
    source = open_source("memory://slides/s.svs", reader="slide", stage=tmp_path / "stage")
    assert not fetched and isinstance(source, RemoteSource)
    assert np.array_equal(source.overview((32, 32)), open_source(path).overview((32, 32)))
    again = pickle.loads(pickle.dumps(open_source("memory://slides/s.svs", reader="slide", stage=tmp_path / "stage")))
    assert again.spacing == (0.5, 0.5) and again.identity == source.identity and fetched == ["s.svs"]
    put(store, write_slide(tmp_path / "t.svs", 1, side=1024), "slides/s.svs")
    assert open_source("memory://slides/s.svs", reader="slide", stage=tmp_path / "stage").shape == (1024, 1024)
    assert (
        str(source.path) == source.name == "memory://slides/s.svs" and source.file.parent.parent == tmp_path / "stage"
    )


def test_what_belongs_to_an_image_is_fetched_with_it(store, fetched: list[str], tmp_path: Path) -> None:
    for name in ("a.mrxs", "a/Slidedat.ini", "a/Data0000.dat", "b.svs"):
        store.pipe(f"/slides/{name}", b"content")
    with pytest.raises(ImageReadError, match=r"memory://slides/a\.mrxs") as told:
        open_source("memory://slides/a.mrxs", reader="slide", stage=tmp_path).check()
    assert sorted(fetched) == ["Data0000.dat", "Slidedat.ini", "a.mrxs"] and str(tmp_path) not in str(told.value)
    store.pipe("/dicom/1.dcm", bytes(128) + b"DICM")
    with pytest.raises(UnsupportedImageError, match=r"dicom/1\.dcm: a slide in DICOM is several files"):
        open_source("memory://dicom/1.dcm", reader="slide", stage=tmp_path).check()


def test_without_a_stage_images_lie_in_the_cache(store, tmp_path: Path) -> None:
    path = put(store, write(tmp_path / "v.nii", np.arange(60, dtype=np.int16).reshape(3, 4, 5)), "v.nii")
    source = open_source("memory://v.nii", reader="volume")
    assert source.shape == open_source(path).shape
    assert source.file.parent.parent == unpacked_folder().parent / "staged"


@pytest.mark.parametrize(
    ("address", "kind", "said"),
    [
        ("memory://none.svs", ImageReadError, "memory://none.svs: there is nothing at this address"),
        ("nothing://a.svs", UnsupportedImageError, "nothing://a.svs: no address that can be read"),
        ("s3://bucket/a.svs", MissingExtraError, r"glimpse-rl\[remote\]"),
        ("zip://a.svs", UnsupportedImageError, "zip://a.svs: no address that can be read"),
        ("file://a.svs", UnsupportedImageError, "file://a.svs: this is a file of this machine. Give its path"),
        ("file:///a.svs", ImageReadError, "^/a.svs: "),
    ],
)
def test_what_cannot_be_fetched(store, address: str, kind: type[Exception], said: str, monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    with pytest.raises(kind, match=said):
        open_source(address, reader="slide").check()


def test_without_fsspec(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ImportError("No module named 'fsspec'")

    monkeypatch.setattr(module, "import_module", missing)
    with pytest.raises(MissingExtraError, match=r"https://host/a\.svs: .* need the extra `remote`.*pip install"):
        open_source("https://host/a.svs", reader="slide").check()


def test_an_image_that_does_not_fit_is_an_error(store, tmp_path: Path) -> None:
    put(store, write_slide(tmp_path / "s.svs"), "s.svs")
    with pytest.raises(ImageReadError, match=r"memory://s\.svs: cannot be fetched\. .* Raise stage_gigabytes"):
        open_source("memory://s.svs", reader="slide", stage=tmp_path / "stage", stage_gigabytes=1e-6).check()


# ---------------------------------------------------------------------------------------------- commands
def test_a_cohort_lists_addresses(store, fetched: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remembered, "LEAST", 2)
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))
    for i in range(2):
        put(store, write_slide(tmp_path / f"s{i}.svs", i), f"s{i}.svs")
    path = listed(tmp_path / "cohort.csv", *(f"p{i},s{i},memory://s{i}.svs,{i},train" for i in range(2)))
    options = {"reader": "slide", "stage": tmp_path / "stage"}
    cohort = Cohort.from_csv(path, Classification((0, 1)), source_options=options)
    assert [str(case.source.path) for case in cohort] == ["memory://s0.svs", "memory://s1.svs"]
    assert sorted(fetched) == ["s0.svs", "s1.svs"]
    Cohort.from_csv(path, Classification((0, 1)), source_options={**options, "stage": tmp_path / "other"})
    assert len(fetched) == 2  # what was checked is remembered, wherever copies lie
    lines = ["p0,s0,memory://s0.svs,0,train", "p1,s1,memory://s0.svs,1,test", "p2,s2,memory://none.svs,1,test"]
    with pytest.raises(CohortError) as told:
        Cohort.from_csv(listed(tmp_path / "wrong.csv", *lines), Classification((0, 1)), source_options=options)
    assert "'s0' (train) and 's1' (test) are the same image" in str(told.value)
    assert "memory://none.svs: there is nothing at this address" in str(told.value)


def test_predictions_of_addresses(store, fetched: list[str], tmp_path: Path, tiny_slides: Path) -> None:
    run = untrained_run(tmp_path / "run", *OWN, f"env.cohort.path={tiny_slides}")
    here = put(store, write_slide(tmp_path / "s.svs"), "deep/s.svs")
    out, stage = tmp_path / "out", tmp_path / "stage"
    assert predict(run, "memory://deep/s.svs", out, stage=stage).done.read == 1
    assert predict(run, "memory://deep/s.svs", out, stage=stage).done.known == 1 and fetched == ["s.svs"]
    predict(run, here, tmp_path / "here")
    (far,), (near,) = (list(csv.DictReader((one / "predictions.csv").open())) for one in (out, tmp_path / "here"))
    assert far.pop("path") == "memory://deep/s.svs" and near.pop("path") == str(here)
    different = {name for name in far if far[name] != near[name]}
    assert far["slide_id"] == "s" and different <= {"seconds", "fingerprint"}
    with pytest.raises(EvaluationError, match="a list of images is read from a disk only"):
        predict(run, "memory://deep/list.csv", out)


def test_what_a_store_does_not_tell_the_size_of_must_fit_as_well(store, tmp_path: Path, monkeypatch) -> None:
    put(store, write_slide(tmp_path / "s.svs"), "s.svs")
    monkeypatch.setattr(module.RemoteSource, "_listed", {"s.svs": -1})
    with pytest.raises(ImageReadError, match=r"memory://s\.svs: cannot be fetched\. .* Raise stage_gigabytes"):
        open_source("memory://s.svs", reader="slide", stage=tmp_path / "stage", stage_gigabytes=1e-6).check()
    assert not list((tmp_path / "stage").glob("[0-9a-f]*"))


def test_copies_of_unknown_size_take_no_more_than_the_stage_has(store, tmp_path: Path, monkeypatch) -> None:
    path = put(store, write_slide(tmp_path / "s.svs"), "s.svs")
    put(store, path, "t.svs")
    room = 1.5 * path.stat().st_size / 2**30
    for name in ("s.svs", "t.svs"):
        monkeypatch.setattr(module.RemoteSource, "_listed", {name: -1})
        open_source(f"memory://{name}", reader="slide", stage=tmp_path / "stage", stage_gigabytes=room).check()
    assert [one.name for one in (tmp_path / "stage").glob("[0-9a-f]*/*.svs")] == ["t.svs"]
