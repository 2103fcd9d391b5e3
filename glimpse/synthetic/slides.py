"""The embedded cohort of whole-slide images: real SVS files of stained tissue, some with small tumour foci.

A slide is positive if 3 to 6 of its 6 to 10 dark blobs are tumour (large, pleomorphic, crowded nuclei) rather than
lymphoid aggregates (small, round, dark, uniform ones). In the overview the two look the same; a glimpse tells them
apart. Glands, folds and ink are on slides of both classes alike. Slides of less than 3,072 pixels a side have room for
less: 3 or 4 blobs, of which 1 or 2 are tumour in a positive one.

Made once per machine, about three minutes on two cores, into a folder named after what was asked for. Every slide is
painted from its own seed, so the cohort does not depend on the number of processes, and an interrupted making goes on
where it stopped.
"""

import csv
import errno
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import platformdirs
from PIL import Image
from tqdm import tqdm

from glimpse.synthetic.atlas import GLANDS, atlas
from glimpse.synthetic.layout import lay_out
from glimpse.synthetic.svs import write_svs
from glimpse.synthetic.tissue import paint

VERSION = 3
"""Raised whenever the painting changes, so that cohorts of different painting never mix."""

MPP = 0.5
"""Size of a full-resolution pixel in micrometres."""

SHARES = {"test": 1 / 4, "val": 1 / 6}
"""Shares of the slides in each split; the rest is for training."""

_ALONE_PIXELS = 40 * 1024**2  # a cohort below this many pixels isn't worth starting processes for
_STALE_SECONDS = 3600.0
_FACTS = "made_from.json"


@dataclass(frozen=True)
class SlideRecord:
    """One row of the cohort, before its pixels exist."""

    index: int
    case_id: str
    slide_id: str
    target: int
    split: str

    @property
    def path(self) -> str:
        """Path of the slide relative to the cohort's folder."""
        return f"slides/{self.slide_id}.svs"


def embedded_cohort(
    folder: str | Path | None = None,
    n: int = 270,
    seed: int = 0,
    size: int = 4096,
    progress: bool = True,
    workers: int | None = None,
) -> Path:
    """Makes the embedded cohort unless it is there already.

    Beside `cohort.csv` (case_id, slide_id, path, target, split, mpp) lies `regions.csv` (slide_id, kind, y, x, radius
    in level-0 pixels): where the blobs are, for pictures and tests, never for training.

    Args:
        folder: Where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: Number of slides, at least 6.
        seed: Seed of everything drawn.
        size: Side of a slide in pixels at full resolution, a multiple of 256 of at least 1024.
        progress: Whether to show a progress bar.
        workers: Number of processes; by default one per core, and only this one for a small cohort.

    Returns:
        Path of `cohort.csv`.

    Raises:
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    _check(n, size, workers)
    folder = cache_folder(n, seed, size) if folder is None else Path(folder)
    manifest = folder / "cohort.csv"
    _refuse_another(folder, n, seed, size)
    if manifest.exists():
        return manifest
    records = plan_cohort(n, seed)
    with _readable_errors(folder, n, size):
        (folder / "slides").mkdir(parents=True, exist_ok=True)
        _replace(folder / _FACTS, lambda path: path.write_text(_facts(n, seed, size), encoding="utf-8"))
        _make_all(folder, records, seed, size, progress, workers)
        _write_csv(folder / "regions.csv", ("slide_id", "kind", "y", "x", "radius"), _regions(records, seed, size))
        rows = [(r.case_id, r.slide_id, r.path, r.target, r.split, MPP) for r in records]
        _write_csv(manifest, ("case_id", "slide_id", "path", "target", "split", "mpp"), rows)
    return manifest


def cache_folder(n: int, seed: int, size: int) -> Path:
    """Folder of a cohort in the cache; another version, number, seed or size has another folder."""
    root = os.environ.get("GLIMPSE_CACHE") or platformdirs.user_cache_dir("glimpse")
    key = hashlib.sha256(f"wsi {VERSION} {n} {seed} {size}".encode()).hexdigest()[:12]
    return Path(root) / f"wsi-{key}"


def plan_cohort(n: int, seed: int) -> list[SlideRecord]:
    """Draws targets, splits and patients: both targets in equal numbers in each split, 1 or 2 slides per patient."""
    rng = np.random.default_rng([VERSION, seed, 0xC0403])
    patients: list[tuple[int, str, int]] = []  # target, split, slides
    for target, total in ((0, n - n // 2), (1, n // 2)):
        counts = {split: max(1, round(share * total)) for split, share in SHARES.items()}
        counts["train"] = total - sum(counts.values())
        for split, left in counts.items():
            while left:
                slides = min(left, 1 + int(rng.random() < 0.25))
                patients.append((target, split, slides))
                left -= slides
    records: list[SlideRecord] = []
    for number, position in enumerate(rng.permutation(len(patients)), start=1):
        target, split, slides = patients[position]
        for _ in range(slides):
            index = len(records)
            records.append(SlideRecord(index, f"case-{number:03d}", f"slide-{index + 1:03d}", target, split))
    return records


def make_slides(folder: Path, records: Iterable[SlideRecord], seed: int, size: int) -> Iterator[SlideRecord]:
    """Paints those of the slides that are not there yet; yields each record once its file is complete."""
    for record in records:
        path = folder / record.path
        if not path.exists():
            slide = Image.fromarray(_paint(record, seed, size))
            quarter = slide.reduce(4)
            levels = [np.asarray(level) for level in (slide, quarter, quarter.reduce(4))]
            _replace(path, partial(write_svs, levels=levels, mpp=MPP))
        yield record


def _paint(record: SlideRecord, seed: int, size: int) -> np.ndarray:
    layout = lay_out(_generator(record, seed, 0), size, record.target, GLANDS)
    return paint(_generator(record, seed, 1), layout, atlas(VERSION, seed))


def _generator(record: SlideRecord, seed: int, stage: int) -> np.random.Generator:
    return np.random.default_rng([VERSION, seed, record.index, stage])


def _regions(records: Iterable[SlideRecord], seed: int, size: int) -> Iterator[tuple[object, ...]]:
    for record in records:
        for blob in lay_out(_generator(record, seed, 0), size, record.target, GLANDS).blobs:
            yield record.slide_id, blob.kind, round(blob.y, 1), round(blob.x, 1), round(blob.radius, 1)


def _make_all(
    folder: Path, records: Sequence[SlideRecord], seed: int, size: int, progress: bool, workers: int | None
) -> None:
    """Paints all slides that are missing, in this process or in several."""
    _sweep(folder)
    workers = workers or (1 if len(records) * size**2 <= _ALONE_PIXELS else os.cpu_count() or 1)
    bar = tqdm(total=len(records), desc="Painting the embedded cohort (once)", unit="slide", disable=not progress)
    with bar:
        if workers == 1:
            for _ in make_slides(folder, records, seed, size):
                bar.update()
            return
        # Processes of their own rather than a pool: a pool would import the user's script again, and runs from neither
        # a notebook nor a script without a main guard.
        parts = [_start_part(folder, len(records), seed, size, f"{part}/{workers}") for part in range(workers)]
        try:
            _wait(parts, lambda: bar.update(sum((folder / r.path).exists() for r in records) - bar.n))
        finally:
            for part in parts:
                part.terminate()
                part.communicate()


def _start_part(folder: Path, n: int, seed: int, size: int, part: str) -> "subprocess.Popen[str]":
    root = Path(__file__).resolve().parents[2]
    paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}
    options = {"folder": folder.resolve(), "n": n, "seed": seed, "size": size, "part": part}
    words = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    command = [sys.executable, "-m", "glimpse.synthetic", *words]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True)


def _wait(parts: Sequence["subprocess.Popen[str]"], update: Callable[[], object]) -> None:
    """Waits for all parts; raises what the first failing one said."""
    while any(part.poll() is None for part in parts):
        update()
        failed = next((part for part in parts if part.poll()), None)
        if failed:
            break
        time.sleep(0.25)
    for part in parts:
        if part.poll():
            message = part.communicate()[1].strip()
            if f"[Errno {errno.ENOSPC}]" in message:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            raise RuntimeError(f"Painting the embedded cohort failed in process {part.pid}:\n{message}")
    update()


def _replace(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it and moves it into place, so that `path` is never half a file."""
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    _replace(path, write)


def _sweep(folder: Path) -> None:
    """Removes what a killed process left behind long ago; younger files may be another process's work."""
    for leftover in [*folder.glob(".*.part"), *(folder / "slides").glob(".*.part")]:
        if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
            leftover.unlink(missing_ok=True)


def _facts(n: int, seed: int, size: int) -> str:
    return json.dumps({"version": VERSION, "n": n, "seed": seed, "size": size})


def _refuse_another(folder: Path, n: int, seed: int, size: int) -> None:
    """Keeps the slides of two cohorts apart when the user names the folder."""
    path, wanted = folder / _FACTS, _facts(n, seed, size)
    found = path.read_text(encoding="utf-8") if path.exists() else wanted
    if found != wanted:
        raise ValueError(
            f"{folder} holds another cohort: {found}, asked for {wanted}; name another folder, or empty this one."
        )


def _check(n: int, size: int, workers: int | None) -> None:
    if n < 6:
        raise ValueError(f"n={n}: the embedded cohort needs at least 6 slides, one per target and split; ask for more.")
    if size < 1024 or size % 256:
        raise ValueError(f"size={size}: a slide's side is a multiple of 256 of at least 1024; try 1024 or 4096.")
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: expected at least one process, or None for one per core.")


@contextmanager
def _readable_errors(folder: Path, n: int, size: int) -> Iterator[None]:
    """Says what to do when the disk is full or the folder is read-only."""
    remedy = "Set GLIMPSE_CACHE to a folder with more room, or pass `folder`; finished slides are kept."
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            megabytes = n * size**2 * 0.15 / 1e6
            rule = f"no room on the disk of {folder}: the embedded cohort takes about {megabytes:.0f} MB. {remedy}"
            raise OSError(error.errno, rule) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OSError(error.errno, f"cannot write to {folder}. {remedy}") from error
        raise
