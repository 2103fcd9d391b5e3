"""Making of embedded cohorts of any kind: the plan of cases, folders in the cache, processes, and `cohort.csv` last.

A `Recipe` says how one case is made; `embedded` makes all of them, once per machine. Every case is made from its own
seed, so a cohort does not depend on the number of processes, and an interrupted making goes on where it stopped.
"""

import csv
import errno
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from tqdm import tqdm

from glimpse.settings.options import at_least
from glimpse.settings.progress import silent
from glimpse.synthetic.processes import function_named, in_processes

SHARES = {"test": 1 / 4, "val": 1 / 6}
"""Shares of the cases in each split; the rest is for training."""

Rows = dict[str, list[list[Any]]]
"""Rows of one case, by the name of the table."""

_ALONE_MEGABYTES = 6.3  # a cohort below this isn't worth starting processes for
_STALE_SECONDS = 3600.0
_FACTS = "made_from.json"


@dataclass(frozen=True)
class CaseRecord:
    """One row of a cohort, before its pixels exist.

    Attributes:
        index: place in the cohort, from 0 on.
        patient: the patient, who may have two images.
        id: the image.
        target: 0 or 1.
        split: "train", "val" or "test".
        path: of the image, relative to the cohort's folder.
        mask: of the mask of what matters, likewise; empty where the case has none.
    """

    index: int
    patient: str
    id: str
    target: int
    split: str
    path: str
    mask: str = ""


@dataclass(frozen=True)
class Table:
    """A CSV beside `cohort.csv` that tells of the same cases, for pictures and tests.

    Attributes:
        header: names of the columns.
        rows: "module:function", importable in another process, called as ``rows(record, seed, size)``; gives the rows
            of one case, made of what JSON knows. It may also be the function itself; see `Recipe.make`.
    """

    header: Sequence[str]
    rows: str | Callable[..., Iterable[Sequence[Any]]]


@dataclass(frozen=True)
class Recipe:
    """How a kind of cohort is made.

    Attributes:
        kind: names the cohort in the cache, such as "wsi".
        version: raised whenever the images change, so that cohorts of different making never mix.
        noun: what one image is called, such as "slide"; begins the `slide_id`.
        folder: of the images within the cohort's.
        suffix: of the images, such as ".svs".
        make: "module:function", importable in another process, called as ``make(record, folder, seed, size)``. It
            draws from `generator` and writes ``folder / record.path`` with `write_whole`; where ``record.mask`` names
            one, it writes that mask first, since an image that is there counts as finished. It may also be the function
            itself, such as a method of an object that holds a template; all cases are then made in this process.
        check: raises a `ValueError` for an impossible size.
        megabytes: room that an image of a size takes on disk, roughly.
        mask: suffix of the masks of positive cases (".png" for planes, ".nii.gz" for volumes); None for no masks.
        columns: further columns of `cohort.csv`: a value that is the same for all cases, such as ``{"mpp": 0.5}``, or a
            function, called as ``column(record, seed)``, that gives the value of a case.
        tables: further tables by file name.
    """

    kind: str
    version: int
    noun: str
    folder: str
    suffix: str
    make: str | Callable[..., object]
    check: Callable[[int], None]
    megabytes: Callable[[int], float]
    mask: str | None = None
    columns: Mapping[str, object] = field(default_factory=dict)
    tables: Mapping[str, Table] = field(default_factory=dict)


def embedded(
    recipe: Recipe,
    folder: str | Path | None = None,
    n: int = 270,
    seed: int = 0,
    size: int = 256,
    progress: bool = False,
    workers: int | None = None,
) -> Path:
    """Makes a cohort unless it is there already.

    Args:
        recipe: What to make.
        folder: Where to keep it; by default a folder of its own in `GLIMPSE_CACHE`, else in the user's cache folder.
        n: Number of images, at least 6.
        seed: Seed of everything drawn.
        size: Of an image, in the recipe's own measure.
        progress: Whether to show a progress bar, on a terminal.
        workers: Number of processes; by default one per core, and only this one for a small cohort.

    Returns:
        Path of `cohort.csv`.

    Raises:
        ValueError: If `n`, `size` or `workers` is out of range, or the folder holds another cohort.
        OSError: If the folder cannot be written to or its disk is full.
    """
    _check(recipe, n, seed, size, workers)
    folder = cache_folder(recipe, n, seed, size) if folder is None else Path(folder)
    manifest = folder / "cohort.csv"
    facts = {"version": recipe.version, "n": n, "seed": seed, "size": size, "kind": recipe.kind}
    _refuse_another(folder, facts)
    if manifest.exists():
        return manifest
    records = plan(n, seed, recipe)
    with _readable_errors(folder, n * recipe.megabytes(size)):
        for name in {recipe.folder, *(["masks"] if recipe.mask else [])}:
            (folder / name).mkdir(parents=True, exist_ok=True)
        write_whole(folder / _FACTS, lambda path: path.write_text(json.dumps(facts), encoding="utf-8"))
        rows = _make_all(recipe, folder, records, seed, size, progress, workers)
        for name, table in recipe.tables.items():
            _write_csv(folder / name, table.header, (row for case in rows for row in case[name]))
        _write_manifest(manifest, recipe, records, seed)
    return manifest


def cache_folder(recipe: Recipe, n: int, seed: int, size: int) -> Path:
    """Folder of a cohort in the cache; another kind, version, number, seed or size has another folder."""
    root = os.environ.get("GLIMPSE_CACHE") or platformdirs.user_cache_dir("glimpse")
    key = hashlib.sha256(f"{recipe.kind} {recipe.version} {n} {seed} {size}".encode()).hexdigest()[:12]
    return Path(root) / f"{recipe.kind}-{key}"


def plan(n: int, seed: int, recipe: Recipe) -> list[CaseRecord]:
    """Draws targets, splits and patients: both targets in equal numbers in each split, 1 or 2 images per patient."""
    rng = np.random.default_rng([recipe.version, seed, 0xC0403])
    patients: list[tuple[int, str, int]] = []  # target, split, images
    for target, total in ((0, n - n // 2), (1, n // 2)):
        counts = {split: max(1, round(share * total)) for split, share in SHARES.items()}
        counts["train"] = total - sum(counts.values())
        for split, left in counts.items():
            while left:
                images = min(left, 1 + int(rng.random() < 0.25))
                patients.append((target, split, images))
                left -= images
    records: list[CaseRecord] = []
    for number, position in enumerate(rng.permutation(len(patients)), start=1):
        target, split, images = patients[position]
        for _ in range(images):
            records.append(_record(recipe, len(records), f"case-{number:03d}", target, split))
    return records


def _record(recipe: Recipe, index: int, case_id: str, target: int, split: str) -> CaseRecord:
    name = f"{recipe.noun}-{index + 1:03d}"
    mask = f"masks/{name}{recipe.mask}" if recipe.mask and target else ""
    return CaseRecord(index, case_id, name, target, split, f"{recipe.folder}/{name}{recipe.suffix}", mask)


def generator(version: int, record: CaseRecord, seed: int, stage: int) -> np.random.Generator:
    """Random numbers of one stage of one case's making."""
    return np.random.default_rng([version, seed, record.index, stage])


def make_cases(
    make: str | Callable[..., object], folder: Path, records: Iterable[CaseRecord], seed: int, size: int
) -> Iterator[CaseRecord]:
    """Makes those of the cases that are not there yet; yields each record once its file is complete."""
    for record in records:
        make_case(asdict(record), str(folder), seed, size, make, {})
        yield record


def make_case(
    record: dict[str, Any],
    folder: str,
    seed: int,
    size: int,
    make: str | Callable[..., object],
    tables: Mapping[str, str | Callable[..., Iterable[Sequence[Any]]]],
) -> Rows:
    """Makes a case unless it is there, and returns its rows of the tables.

    For another process, functions are given by their names; all other arguments are made of what JSON knows.

    The rows come from here rather than from the end of the making, because what they tell of a case has to be drawn
    for its image anyway.
    """
    case = CaseRecord(**record)
    if not (Path(folder) / case.path).exists():
        _function(make)(case, Path(folder), seed, size)
    return {name: list(_function(rows)(case, seed, size)) for name, rows in tables.items()}


def _function(given: str | Callable[..., Any]) -> Callable[..., Any]:
    return function_named(given) if isinstance(given, str) else given


def write_whole(path: Path, write: Callable[[Path], object]) -> None:
    """Writes a file under a temporary name beside it and moves it into place, so that `path` is never half a file.

    The temporary name ends in ".part": writers that choose the format by the suffix must be told it.
    """
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=".part", dir=path.parent)
    os.close(handle)
    temporary = Path(name)
    try:
        write(temporary)
        temporary.chmod(0o644)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _make_all(
    recipe: Recipe,
    folder: Path,
    records: Sequence[CaseRecord],
    seed: int,
    size: int,
    progress: bool,
    workers: int | None,
) -> list[Rows]:
    """Makes all cases that are missing, in this process or in several; returns the rows of every case, in order."""
    _sweep(folder)
    tables = {name: table.rows for name, table in recipe.tables.items()}
    shared = {"folder": str(folder.resolve()), "seed": seed, "size": size, "make": recipe.make, "tables": tables}
    orders: list[dict[str, Any]] = [{"record": asdict(record), **shared} for record in records]
    small = len(records) * recipe.megabytes(size) <= _ALONE_MEGABYTES
    named = all(isinstance(one, str) for one in (recipe.make, *tables.values()))
    workers = (workers or (1 if small else os.cpu_count() or 1)) if named else 1
    made: Iterator[tuple[int, Rows]]
    if workers == 1:
        made = ((position, make_case(**order)) for position, order in enumerate(orders))
    else:
        made = in_processes(f"{__name__}:make_case", orders, workers)
    title = "Painting the embedded cohort (once)"
    rows = dict(tqdm(made, total=len(records), desc=title, unit=recipe.noun, disable=silent(progress)))
    return [rows[position] for position in range(len(orders))]


def _write_manifest(path: Path, recipe: Recipe, records: Iterable[CaseRecord], seed: int) -> None:
    header = ["case_id", "slide_id", "path", "target", "split", *recipe.columns, *(["mask"] if recipe.mask else [])]

    def row(r: CaseRecord) -> list[object]:
        further = [value(r, seed) if callable(value) else value for value in recipe.columns.values()]
        return [r.patient, r.id, r.path, r.target, r.split, *further, *([r.mask] if recipe.mask else [])]

    _write_csv(path, header, map(row, records))


def _write_csv(path: Path, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    def write(temporary: Path) -> None:
        with open(temporary, "w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([header, *rows])

    write_whole(path, write)


def _sweep(folder: Path) -> None:
    """Removes what a killed process left behind long ago; younger files may be another process's work."""
    for leftover in [*folder.glob(".*.part"), *folder.glob("*/.*.part")]:
        if time.time() - leftover.stat().st_mtime > _STALE_SECONDS:
            leftover.unlink(missing_ok=True)


def _refuse_another(folder: Path, wanted: Mapping[str, object]) -> None:
    """Keeps the images of two cohorts apart when the user names the folder."""
    path = folder / _FACTS
    # The first cohorts were of slides, and did not name their kind.
    found = {"kind": "wsi", **json.loads(path.read_text(encoding="utf-8"))} if path.exists() else wanted
    if found != wanted:
        raise ValueError(
            f"{folder} holds another cohort: {found}, asked for {wanted}; name another folder, or empty this one."
        )


def _check(recipe: Recipe, n: int, seed: int, size: int, workers: int | None) -> None:
    for name, value in (("n", n), ("seed", seed), ("size", size), *([] if workers is None else [("workers", workers)])):
        at_least(name, value, 0, whole=True)
    if n < 6:
        raise ValueError(
            f"n={n}: the embedded cohort needs at least 6 {recipe.noun}s, one per target and split; ask for more."
        )
    recipe.check(size)
    if workers is not None and workers < 1:
        raise ValueError(f"workers={workers}: expected at least one process, or None for one per core.")


@contextmanager
def _readable_errors(folder: Path, megabytes: float) -> Iterator[None]:
    """Says what to do when the disk is full or the folder is read-only."""
    remedy = "Set GLIMPSE_CACHE to a folder with more room, or pass `folder`; what is finished is kept."
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            rule = f"no room on the disk of {folder}: the embedded cohort takes about {megabytes:.0f} MB. {remedy}"
            raise OSError(error.errno, rule) from error
        if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
            raise OSError(error.errno, f"cannot write to {folder}. {remedy}") from error
        raise
