"""The store of features on disk gives back what was kept or nothing: after kills and damage, and beside others."""

import multiprocessing
import os
import re
import signal
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest

from glimpse.errors import SettingsError
from glimpse.networks import feature_store, segments
from glimpse.networks.feature_store import FeatureStore, store_in_use, using
from glimpse.networks.segments import DamagedError, Layout, Segment


def key(number: int) -> bytes:
    return number.to_bytes(8, "big") + b"a second half"[:8]


def array(number: int, length: int = 20) -> np.ndarray:
    return np.random.default_rng(number).normal(size=length).astype(np.float16)


def keep(store: FeatureStore, numbers: range, shelf: str = "one", length: int = 20) -> None:
    store.shelf(shelf).keep([key(number) for number in numbers], [array(number, length) for number in numbers])


def found(store: FeatureStore, numbers: range, shelf: str = "one", length: int = 20) -> list[bool]:
    """Tells which arrays are there; those that are must be right."""
    arrays = store.shelf(shelf).find([key(number) for number in numbers])
    for number, one in zip(numbers, arrays, strict=True):
        if one is not None:
            assert one.dtype == np.float16 and np.array_equal(one, array(number, length)) and not one.flags.writeable
    return [one is not None for one in arrays]


def files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.features"))


def opened(folder: Path, gigabytes: float = 1.0) -> FeatureStore:
    return FeatureStore(str(folder), gigabytes)


@pytest.mark.parametrize(
    ("dtype", "axes", "lengths"),
    [
        (b"|O8", 1, (20,)),
        (b"\xff\xfe", 1, (20,)),
        (b"<V8", 1, (20,)),
        (b"<f2", 9, (20,)),
        (b"<f2", 4, (2**31, 2**31, 2**31, 2**31)),
    ],
    ids=["objects", "no text", "no number", "too many axes", "too large"],
)
def test_a_crafted_head_is_damage(tmp_path: Path, dtype: bytes, axes: int, lengths: tuple[int, ...]) -> None:
    keep(opened(tmp_path), range(3))
    (file,) = files(tmp_path)
    head = segments._HEAD.pack(segments._MAGIC, dtype, axes, *lengths, *[0] * (8 - len(lengths)))
    file.write_bytes(head + zlib.crc32(head).to_bytes(4, "little") + file.read_bytes()[len(head) + 4 :])
    with pytest.raises(DamagedError):
        Segment.open(file, b"")
    with pytest.warns(UserWarning, match=re.escape(file.name)):
        assert found(opened(tmp_path), range(3)) == [False] * 3


def test_what_was_kept_is_found_by_this_store_and_the_next(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert found(store, range(5)) == [False] * 5
    keep(store, range(3))
    keep(store, range(3, 5))
    assert found(store, range(6)) == [True] * 5 + [False]
    assert found(store, range(5), "another shelf") == [False] * 5
    store.close()
    again = opened(tmp_path)
    assert found(again, range(6)) == [True] * 5 + [False]
    assert again.shelf("one").find([]) == []


def test_a_store_that_goes_on_appends_to_the_file_that_is_there(tmp_path: Path) -> None:
    for start in range(0, 12, 3):
        store = opened(tmp_path)
        keep(store, range(start, start + 3))
        store.close()
    assert len(files(tmp_path)) == 1 and found(opened(tmp_path), range(12)) == [True] * 12


def test_many_records_are_found_after_they_were_sorted_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "_RECENT", 10)
    store = opened(tmp_path)
    for start in range(0, 100, 4):
        keep(store, range(start, start + 4))
        assert all(found(store, range(start + 4)))
    assert store.shelf("one").find([key(3)[:8] + b"other he"]) == [None]


def test_arrays_of_several_shapes_and_kinds_share_a_shelf(tmp_path: Path) -> None:
    store = opened(tmp_path)
    half, single = np.ones((2, 3), np.float16), np.full((2, 3), 1e6, np.float32)
    arrays = [half, single, np.arange(16, dtype=np.uint8), np.array(3, np.float32)]
    store.shelf("one").keep([key(i) for i in range(4)], arrays)
    store.close()
    for before, after in zip(arrays, opened(tmp_path).shelf("one").find([key(i) for i in range(4)]), strict=True):
        assert after is not None and after.dtype == before.dtype and np.array_equal(after, before)


def test_features_are_rounded_unless_they_are_too_large(tmp_path: Path) -> None:
    store = opened(tmp_path)
    small, large = np.array([1 / 3, 65504], np.float32), np.array([1 / 3, 70000], np.float32)
    half = store.rounded(small)
    assert half.dtype == np.float16 and half.tolist() == [0.333251953125, 65504]  # 1365 / 4096
    assert store.rounded(large) is large
    assert FeatureStore(str(tmp_path), precision="float32").rounded(small) is small


# ---------------------------------------------------------------------------------------------- several processes
def _keep_slowly(folder: str, start: int) -> None:
    store = FeatureStore(folder)
    for number in range(start, start + 400, 4):
        keep(store, range(number, number + 4))


def test_two_processes_write_at_the_same_time(tmp_path: Path) -> None:
    context = multiprocessing.get_context("spawn")
    both = [context.Process(target=_keep_slowly, args=(str(tmp_path), start)) for start in (0, 300)]  # 100 are the same
    for one in both:
        one.start()
    for one in both:
        one.join(120)
    assert [one.exitcode for one in both] == [0, 0]
    assert found(opened(tmp_path), range(701)) == [True] * 700 + [False]


def test_a_file_has_one_writer_and_others_see_what_it_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feature_store, "_FRESH", 0.0)
    first, second = opened(tmp_path), opened(tmp_path)
    keep(first, range(2))
    keep(second, range(2, 4))
    keep(first, range(4, 6))
    assert len(files(tmp_path)) == 2
    assert all(found(first, range(6))) and all(found(second, range(6)))


def test_a_forked_process_writes_a_file_of_its_own(tmp_path: Path) -> None:
    store = opened(tmp_path)
    keep(store, range(2))
    child = multiprocessing.get_context("fork").Process(target=keep, args=(store, range(2, 4)))
    child.start()
    child.join(60)
    keep(store, range(4, 6))
    assert child.exitcode == 0 and len(files(tmp_path)) == 2
    assert all(found(opened(tmp_path), range(6)))


KILLED = """
import sys
sys.path.insert(0, {root!r})
from tests.unit.test_feature_store import FeatureStore, keep
store = FeatureStore({folder!r})
print("begun", flush=True)
for start in range(0, 10**7, 500):
    keep(store, range(start, start + 500), length=2000)
"""


@pytest.mark.parametrize("after", [0.05, 0.2, 0.5])
def test_a_killed_process_leaves_nothing_wrong(tmp_path: Path, after: float) -> None:
    root = str(Path(__file__).resolve().parents[2])
    code = KILLED.format(root=root, folder=str(tmp_path))
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=root)
    assert process.stdout is not None and process.stdout.readline() == b"begun\n"
    time.sleep(after)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    (file,) = files(tmp_path) or [None]
    if file is None:  # it was killed before the first record
        return
    store = opened(tmp_path)
    count = sum(found(store, range(20_000), length=2000))
    assert found(store, range(count), length=2000) == [True] * count  # those that it wrote first
    keep(store, range(count, count + 5), length=2000)
    store.close()
    assert found(opened(tmp_path), range(count + 6), length=2000) == [True] * (count + 5) + [False]
    assert files(tmp_path) == [file]


@pytest.mark.parametrize("cut", [1, 3, 30, 59])
def test_an_unfinished_record_is_cut_off_by_the_next_writer(tmp_path: Path, cut: int) -> None:
    store = opened(tmp_path)
    keep(store, range(3))
    store.close()
    (file,) = files(tmp_path)
    os.truncate(file, file.stat().st_size - cut)  # a record has 16 + 40 + 4 bytes
    store = opened(tmp_path)
    assert found(store, range(3)) == [True, True, False]
    keep(store, range(2, 4))
    store.close()
    assert found(opened(tmp_path), range(4)) == [True] * 4 and files(tmp_path) == [file]


# ---------------------------------------------------------------------------------------------- damage
@pytest.mark.parametrize("offset", [2, 20, -1, -30, -59])
def test_a_damaged_file_is_named_once_and_replaced(tmp_path: Path, offset: int) -> None:
    """A byte of the head, or of the last record: of its checksum, its array or its key."""
    store = opened(tmp_path)
    keep(store, range(3))
    store.close()
    (file,) = files(tmp_path)
    content = bytearray(file.read_bytes())
    content[offset] ^= 0x10
    file.write_bytes(content)
    store = opened(tmp_path)
    if offset == -59:  # the last record is found by no key any more, and nobody asks for another one
        assert found(store, range(3)) == [True, True, False]
        return
    with pytest.warns(UserWarning, match=rf"{file.name}: this file of kept features is damaged. It is removed") as said:
        assert found(store, range(3)) in ([False] * 3, [True, True, False])
        assert found(store, range(3)) == [False] * 3
    assert len(said) == 1 and not file.exists()
    keep(store, range(3))
    store.close()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(found(opened(tmp_path), range(3)))


def test_records_of_another_shelf_are_not_taken_for_these(tmp_path: Path) -> None:
    store = opened(tmp_path)
    keep(store, range(3))
    store.close()
    (file,) = files(tmp_path)
    (tmp_path / "two").mkdir()
    file.rename(tmp_path / "two" / file.name)
    with pytest.warns(UserWarning, match="damaged"):
        assert found(opened(tmp_path), range(3), "two") == [False] * 3


def test_a_file_that_is_none_of_ours_is_damaged(tmp_path: Path) -> None:
    file = tmp_path / "some.features"
    file.write_bytes(b"")
    with pytest.raises(DamagedError):
        Segment.open(file, b"")


# ---------------------------------------------------------------------------------------------- room
def test_the_store_stays_small_and_forgets_what_was_used_longest_ago(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_store, "_FRESH", 0.0)
    monkeypatch.setattr(feature_store, "_TOUCH", 0.0)
    limit, record = 64_000, Layout("<f2", (20,)).record
    store = opened(tmp_path, limit / 2**30)
    for number in range(0, 4000, 20):  # 240 kB in all
        keep(store, range(number, number + 20))
        assert sum(file.stat().st_size for file in files(tmp_path)) <= limit
        assert all(found(store, range(20)))  # in use all the time
        assert all(found(store, range(number, number + 20)))
    here = sum(found(store, range(4000)))
    assert limit / 2 < here * record <= limit
    assert not any(found(store, range(1000, 1500)))
    store.close()
    assert sum(found(opened(tmp_path), range(4000))) == here


def test_arrays_that_would_fill_the_store_are_not_kept(tmp_path: Path) -> None:
    store = opened(tmp_path, 64_000 / 2**30)
    keep(store, range(2), length=8000)
    assert not files(tmp_path) and not any(found(store, range(2), length=8000))


def test_unfinished_files_that_nobody_writes_are_removed(tmp_path: Path) -> None:
    store = opened(tmp_path)
    (tmp_path / "one").mkdir()
    old, new = tmp_path / "one" / ".1-a.features.unfinished", tmp_path / "one" / ".2-b.features.unfinished"
    old.touch(), new.touch()
    os.utime(old, (0, 0))
    keep(store, range(2))
    assert not old.exists() and new.exists()


# ---------------------------------------------------------------------------------------------- what users see
def test_a_folder_that_cannot_be_written_is_named_once_with_the_option(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    store = FeatureStore(str(tmp_path / "file" / "features"))
    with pytest.warns(UserWarning, match=r"file/features: features cannot be kept here \(Not a directory\)") as said:
        keep(store, range(2))
        keep(store, range(2, 4))
    assert len(said) == 1 and "features_cache.folder=<folder>, or type features_cache=null" in str(said[0].message)
    assert not any(found(store, range(4)))


def test_a_full_disk_keeps_what_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = opened(tmp_path)
    keep(store, range(2))
    honest = os.pwrite

    def half(file: int, data: bytes, offset: int) -> int:
        if offset > 200:
            raise OSError(28, "No space left on device")
        return honest(file, data[: max(1, len(data) // 2)], offset)

    monkeypatch.setattr(os, "pwrite", half)
    with pytest.warns(UserWarning, match="No space left on device"):
        keep(store, range(2, 6))
    monkeypatch.undo()
    assert found(store, range(6)) == [True, True, False, False, False, False]
    store.close()
    again = opened(tmp_path)
    keep(again, range(6, 8))
    assert all(found(again, range(2))) and all(found(again, range(6, 8)))


def test_the_folder_is_that_of_the_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("GLIMPSE_CACHE", str(tmp_path))
    assert FeatureStore().folder == tmp_path / "features"
    with pytest.raises(SettingsError, match="gigabytes above 0"):
        FeatureStore(gigabytes=0)


def test_a_store_is_used_inside_only(tmp_path: Path) -> None:
    store = opened(tmp_path)
    assert store_in_use() is None
    with using(store):
        assert store_in_use() is store
        with using(None):
            assert store_in_use() is None
        assert store_in_use() is store
    assert store_in_use() is None
