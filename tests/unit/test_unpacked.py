"""Compressed volumes are unpacked once, into a cache that is bounded and shared by threads and processes."""

import gzip
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from glimpse.sources import ImageReadError, VolumeSource, open_source
from glimpse.sources.volume.unpacked import open_unpacked, unpacked_folder
from tests.volume_files import greys, whole, write


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path / "cache"))


def test_packed_files_are_unpacked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    values = greys((12, 13, 14))
    plain, packed = write(tmp_path / "a.nii", values), write(tmp_path / "a.nii.gz", values)
    source = open_source(packed, windows=[0, 255])
    assert source.shape == (14, 13, 12)
    assert not list(unpacked_folder().glob("*.nii")), "the header needs no unpacking"
    np.testing.assert_array_equal(whole(source), whole(open_source(plain, windows=[0, 255])))
    (cached,) = unpacked_folder().glob("*.nii")
    assert cached.read_bytes() == plain.read_bytes()
    monkeypatch.setattr("glimpse.sources.volume.nifti.unpack", lambda *_: pytest.fail("unpacked a second time"))
    np.testing.assert_array_equal(whole(open_source(packed, windows=[0, 255])), whole(source))


def test_content_decides_and_not_the_name(tmp_path: Path):
    values = greys((3, 4, 5))
    write(tmp_path / "a.nii.gz", values).rename(tmp_path / "a.nii")
    write(tmp_path / "b.nii", values).rename(tmp_path / "b.img")
    for name in ("a.nii", "b.img"):
        np.testing.assert_array_equal(whole(open_source(tmp_path / name, windows=[0, 255]))[0], values.T)


def test_the_cache_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    size = 352 + 2 * 20**3
    monkeypatch.setenv("GLIMPSE_VOLUME_CACHE_GB", str(2.5 * size / 2**30))
    values = [greys((20, 20, 20)) for _ in range(3)]
    a, b, c = (
        open_source(write(tmp_path / f"{n}.nii.gz", one), windows=[0, 255]) for n, one in enumerate(values)
    )  # fmt: skip
    files = {}
    for source in (a, b):
        source.check()
        files[source] = next(path for path in unpacked_folder().glob("*.nii") if path not in files.values())
    os.utime(files[a], (1, 1))
    os.utime(files[b], (2, 2))
    open_source(a.path).check()  # a is used again, so b was used longest ago
    c.check()
    assert files[a].exists()
    assert not files[b].exists()
    assert len(list(unpacked_folder().glob("*.nii"))) == 2
    np.testing.assert_array_equal(whole(b)[0], values[1].T)  # still mapped
    b.close()
    np.testing.assert_array_equal(whole(b)[0], values[1].T)  # unpacked again
    monkeypatch.setenv("GLIMPSE_VOLUME_CACHE_GB", "0")
    a.close()
    files[a].unlink(missing_ok=True)
    np.testing.assert_array_equal(whole(a)[0], values[0].T)
    assert len(list(unpacked_folder().glob("*.nii"))) == 1, "what is being opened stays"


def test_abandoned_files_are_removed_and_fresh_ones_kept():
    open_unpacked("a", lambda file: None).close()
    old, fresh = unpacked_folder() / ".a.nii.1.unfinished", unpacked_folder() / ".b.nii.2.unfinished"
    old.touch()
    fresh.touch()
    os.utime(old, (1, 1))
    open_unpacked("b", lambda file: None).close()
    assert (old.exists(), fresh.exists()) == (False, True)


_CHILD = """
import sys, numpy
from glimpse.sources.volume.source import VolumeSource
from glimpse.sources.volume import nifti, unpacked
calls, original = [], nifti.unpack
nifti.unpack = lambda *a: (calls.append(1), original(*a))
source = VolumeSource(sys.argv[1], windows=[0, 255])
sys.stdin.readline()
print(len(calls), int(source.overview(source.shape).sum(dtype=numpy.int64)), len(calls))
"""


def test_processes_may_unpack_at_once(tmp_path: Path):
    values = greys((60, 60, 60))
    path = write(tmp_path / "a.nii.gz", values)
    command = [sys.executable, "-c", _CHILD, str(path)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    children = [subprocess.Popen(command, **pipes) for _ in range(2)]
    for child in children:
        child.stdin.write("go\n")
        child.stdin.flush()
    said = [child.communicate(timeout=60)[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0]
    assert {int(total) for _, total, _ in said} == {int(values.sum())}
    assert sum(int(after) for *_, after in said) == 1, "one unpacks, the other waits"
    assert len(list(unpacked_folder().iterdir())) == 2, "the volume and its lock; nothing unfinished"


def test_threads_may_unpack_at_once(tmp_path: Path):
    values = greys((30, 30, 30))
    path = write(tmp_path / "a.nii.gz", values)
    with ThreadPoolExecutor(8) as pool:
        for got in pool.map(lambda _: whole(VolumeSource(path, windows=[0, 255])), range(8)):
            np.testing.assert_array_equal(got[0], values.T)


@pytest.mark.parametrize("keep", [5000, 353, 200, 20])
@pytest.mark.parametrize("name", ["a.nii", "a.nii.gz"])
def test_truncated_files_say_so(tmp_path: Path, name: str, keep: int):
    path = write(tmp_path / name, greys((30, 30, 30)))
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(ImageReadError, match=rf"{name}: .*(truncated|damaged).*on_error=skip"):
        open_source(path).check()
    assert not unpacked_folder().exists() or not [*unpacked_folder().glob("*.nii"), *unpacked_folder().glob("*.unf*")]


def test_damaged_files_say_so(tmp_path: Path):
    path = write(tmp_path / "a.nii.gz", greys((30, 30, 30)))
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(ImageReadError, match=r"a\.nii\.gz: cannot be unpacked"):
        open_source(path).check()
    cut = write(tmp_path / "b.nii", greys((30, 30, 30)))
    with gzip.open(tmp_path / "b.nii.gz", "wb") as file:
        file.write(cut.read_bytes()[:4000])  # whole for gzip, short for NIfTI
    with pytest.raises(ImageReadError, match=r"b\.nii\.gz: the file is truncated: its values reach to byte 54,352"):
        open_source(tmp_path / "b.nii.gz").check()
    (tmp_path / "c.nii").write_bytes(b"")
    with pytest.raises(ImageReadError, match=r"c\.nii"):
        open_source(tmp_path / "c.nii").check()
    with pytest.raises(ImageReadError, match="no such file"):
        _ = VolumeSource(tmp_path / "nowhere.nii").shape


def test_a_full_disk_names_the_variable(tmp_path: Path):
    def full(file: object) -> None:
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match=r"volumes: a volume cannot be unpacked here .*GLIMPSE_CACHE") as caught:
        open_unpacked("key", full)
    assert not isinstance(caught.value, ImageReadError), "a full disk must not pass for a damaged case"
