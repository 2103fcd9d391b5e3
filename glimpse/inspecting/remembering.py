"""What a check has found to be as it should is remembered, so that a training on the same cohort begins at once."""

from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from glimpse.cohort.fingerprints import fingerprint
from glimpse.cohort.preflight import SIZES, SPACING, first_of
from glimpse.cohort.remembered import Remembered
from glimpse.errors import UserError
from glimpse.inspecting.findings import KILLED, MEMORY, SIZE, SLOW, TILES, UNREADABLE
from glimpse.inspecting.fitting import Network
from glimpse.inspecting.inputs import Candidate
from glimpse.inspecting.outputs import Listed
from glimpse.sources import ImageSource, open_source
from glimpse.sources.staged.remote import RemotePath

_OF_READING = (UNREADABLE, TILES, KILLED, SLOW, MEMORY)  # an image with one of these is opened again

Options = Callable[[Candidate], Mapping[str, Any]]
"""Returns the options with which `glimpse.open_source` opens an image in a training."""


def remember(cases: Sequence[Listed], networks: Mapping[str, Network], options: Options, began: float) -> None:
    """Keeps what trainings would otherwise ask of the images of each CSV (see `glimpse.cohort.remembered`).

    Args:
        cases: all cases, each with what was seen of its image and what is wrong with it.
        networks: the network of each environment.
        options: with which options a training opens an image.
        began: when the first image was looked at, as `time.time()` says it; what was changed since is not kept.
    """
    tables: dict[tuple[Path, str], list[Listed]] = {}
    for case in cases:
        if case[0].csv is not None:
            tables.setdefault((case[0].csv, case[0].env), []).append(case)
    for (csv, env), listed in tables.items():
        if Remembered.keeps(len(listed)) and env in networks:
            _remember_table(csv, networks[env], listed, options, began)


def _remember_table(csv: Path, network: Network, listed: Sequence[Listed], options: Options, began: float) -> None:
    good = [one for one in listed if one[1].opened and not _has(one, *_OF_READING)]
    with ThreadPoolExecutor(4) as pool:
        opened = list(pool.map(lambda one: _source(one[0], options), good))
    sources = [source for source in opened if source is not None]
    whole = Remembered(("whole", str(csv.absolute())), len(listed))
    first = first_of([source.name for source in sources])
    spacing = Remembered((SPACING, first), len(sources))
    policy, views = network.policy, network.views
    sizes = Remembered(
        (SIZES, first, repr(views), *(repr(policy and getattr(policy, name)) for name in ("grid", "view_grid"))),
        len(sources),
    )

    def asked(one: tuple[Listed, ImageSource | None]) -> None:
        (candidate, seen, _), source = one
        key = None if source is None else whole.key(source)
        if source is None or key is None:
            return
        path = candidate.path or Path(source.name)
        try:
            if _changed_since(path, source, began):
                return
            whole.keep(key, fingerprint(path))
        except OSError:  # it is gone since
            return
        if seen.spacing is not None:
            spacing.keep(key, "stated")
        if policy is not None and not _has(one[0], SIZE):
            sizes.keep(key, "fits")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(asked, zip(good, opened, strict=True)))
    for kept in (whole, spacing, sizes):
        kept.save()


def _changed_since(path: Path, source: ImageSource, moment: float) -> bool:
    """Tells whether any file of an image of this machine was written after a moment."""
    files = () if isinstance(path, RemotePath) else source.files or (path,)
    return any(file.stat().st_mtime > moment for file in files)


def _has(one: Listed, *rules: str) -> bool:
    return any(finding.rule in rules and not finding.note for finding in one[2])


def _source(candidate: Candidate, options: Options) -> ImageSource | None:
    try:
        return None if candidate.path is None else open_source(candidate.path, **options(candidate))
    except (UserError, OSError, TypeError, ValueError):  # a training says what is wrong
        return None
