"""Opens and checks the images that the CSV of a cohort lists, and finds those that are listed twice."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from glimpse.cohort.fingerprints import fingerprint, repeated_images
from glimpse.cohort.marks import read_marks
from glimpse.cohort.remembered import Remembered
from glimpse.cohort.skipped import Skipped
from glimpse.cohort.table import CohortError, Row
from glimpse.errors import UserError
from glimpse.settings.progress import silent
from glimpse.sources import ImageReadError, ImageSource, RegionReadError, UnsupportedImageError, open_source
from glimpse.sources.base import unopened
from glimpse.sources.staged.remote import local, remote
from glimpse.sources.tolerant import unread

_MANY = 50  # with at most so many cases, no progress bar is shown
_TOLD = 5  # so many images that are listed twice are named in a warning
_OF_SCALE = ("mpp", "spacing")  # options of a source that do not say which image of a file is meant
_OF_PART = ("frame", "series")  # options that say it, also where they hold for all images


@dataclass(frozen=True)
class Opened:
    """An image that can be read.

    Attributes:
        source: reads its pixels.
        marks: boxes around what matters in it, or None.
        key: what two rows with the same image have in common: the fingerprint of the file, and which part of the file
            they name, such as "9f86d081884c7d65 frame=1".
    """

    source: ImageSource
    marks: np.ndarray | None
    key: str


def open_images(
    path: Path,
    rows: Sequence[Row],
    given: Sequence[Mapping[str, Any]],
    options: Mapping[str, Any],
    tolerant: bool,
    progress: bool,
) -> list[Opened | Skipped | None]:
    """Opens, checks and closes the image of each row; one that was checked before, and has not changed, is not opened.

    Args:
        path: the CSV.
        rows: its rows.
        given: for each row, options of `open_source` that hold for this image only.
        options: options of `open_source` for all images.
        tolerant: whether an image with damaged parts can be read; what is damaged is noted then.
        progress: whether to show a bar, on a terminal (for more than 50 cases).

    Returns:
        For each row its image, or a message about its files; None if the row names no image.

    Raises:
        CohortError: the options are wrong.
    """
    found: list[Opened | Skipped | None] = []
    remembered = Remembered(("whole", str(path.absolute())), len(rows))
    for row, extra in tqdm(
        zip(rows, given, strict=True),
        desc=f"checking {path.name}",
        unit="case",
        total=len(rows),
        disable=silent(progress and len(rows) > _MANY),
    ):
        named = row.cells.get("path")
        found.append(_open_checked(path, row, options, extra, tolerant, remembered) if named else None)
    remembered.save()
    return found


def located(csv: Path, cell: str) -> Path:
    """Returns the absolute path, or the URL, that a cell of a CSV names; relative ones begin in the folder of the CSV.

    Raises:
        ImageReadError: it begins with the home folder of a user who does not exist.
    """
    cell = local(cell)
    address = remote(cell)
    if address is not None:
        return address
    try:
        return csv.absolute().parent / Path(cell).expanduser()
    except RuntimeError as error:
        raise ImageReadError(
            f"{cell}: '~' at its beginning means a home folder, and there is none of that name. Correct the path, or "
            f"write ./{cell} if the file is called so."
        ) from error


def _open_checked(
    path: Path, row: Row, options: Mapping[str, Any], extra: Mapping[str, Any], tolerant: bool, remembered: Remembered
) -> Opened | Skipped:
    image = Path(row.cells["path"])
    damage: RegionReadError | None = None
    try:
        image = located(path, row.cells["path"])
        source = _opened(path, row, image, {**options, **extra})
        mask = row.cells.get("mask")
        known = remembered.key(source)
        if not mask and (mark := remembered.found(known)) is not None:
            return Opened(source, None, _key(mark, options, extra))
        try:
            source.check()
        except RegionReadError as error:
            if not tolerant:
                raise
            damage = error  # the rest can be read
        marks = read_marks(located(path, mask), source) if mask else None
        source.close()
        mark = fingerprint(image)
    except (ImageReadError, UnsupportedImageError) as error:
        return _skipped(row, error)
    except UserError:  # of the options or the machine, not of the image
        raise
    except ValueError as error:  # of an option that is used only now, such as window=[1,2,3]
        return _skipped(row, error)
    except OSError as error:
        return _skipped(row, unopened(Path(error.filename or image), error))
    if damage is not None:  # only now, since what is left out is not shown
        unread.add(row.cells.get("slide_id", ""), damage)
    else:
        remembered.keep(known, mark)
    return Opened(source, marks, _key(mark, options, extra))


def _skipped(row: Row, error: Exception) -> Skipped:
    return Skipped(f"{row.where}: {error}", row.cells.get("slide_id", ""), row.cells["path"], type(error).__name__)


def _key(mark: str, options: Mapping[str, Any], extra: Mapping[str, Any]) -> str:
    """Returns the fingerprint of a file, followed by the options that say which of its images is meant."""
    part = {name: options[name] for name in _OF_PART if options.get(name) is not None}
    part |= {name: value for name, value in extra.items() if name not in _OF_SCALE}
    return " ".join([mark, *(f"{name}={value}" for name, value in sorted(part.items()))])


def _opened(path: Path, row: Row, image: Path, options: Mapping[str, Any]) -> ImageSource:
    """Makes the source; what it says of its options holds for all images, so it is an error at once."""
    try:
        return open_source(image, **options)
    except (ImageReadError, UnsupportedImageError):
        raise
    except (TypeError, ValueError) as error:
        raise CohortError(
            f"{path}, {row.where}: {image} cannot be opened with options {dict(options)}: {error}"
        ) from error


# ---------------------------------------------------------------------------------------------- listed twice
@dataclass(frozen=True)
class Listed:
    """One of several rows that show the same image."""

    line: int
    case: str
    patient: str
    split: str | None
    target: str


def listed_twice(
    rows: Sequence[Row], parsed: Sequence[Mapping[str, Any]], opened: Sequence[Opened | Skipped | None]
) -> list[list[Listed]]:
    """Returns the rows that show the same image, for every image that several rows show.

    Args:
        rows: the rows of the CSV.
        parsed: of each row, its "split" and its "target".
        opened: of each row, its image.
    """
    images = [
        (row, values, one) for row, values, one in zip(rows, parsed, opened, strict=True) if isinstance(one, Opened)
    ]
    groups = repeated_images([(one.key, one.source) for _, _, one in images])
    listed = [
        Listed(
            row.line,
            row.cells.get("slide_id", ""),
            row.cells.get("case_id", ""),
            values["split"],
            str(values["target"]),
        )
        for row, values, _ in images
    ]
    return [[listed[index] for index in group] for group in groups]


def leak(group: Sequence[Listed]) -> str | None:
    """Returns a message about an image that is in several splits; None if it is in one only."""
    splits = {one.split: one for one in reversed(group) if one.split}
    if len(splits) < 2:
        return None
    shown = sorted(splits.values(), key=lambda one: one.line)
    names = " and ".join(f"{one.case!r} ({one.split})" for one in shown)
    return (
        f"lines {', '.join(str(one.line) for one in shown)}: {names} are the same image, so what is tested would have "
        "been learned; remove one of them, or put both into one split"
    )


def repetition(groups: Sequence[Sequence[Listed]]) -> str:
    """Returns a message about images that several rows of one split show."""
    groups = sorted(groups, key=lambda group: not _differ(group))  # what is wrong for certain is told first
    shown = [
        f"{group[0].case!r} (lines {', '.join(str(one.line) for one in group)}"
        f"{', with different targets' if _differ(group) else ''})"
        for group in groups[:_TOLD]
    ]
    more = f"; and {len(groups) - _TOLD} more" if len(groups) > _TOLD else ""
    count = "1 image is" if len(groups) == 1 else f"{len(groups)} images are"
    return (
        f"{count} listed several times: {'; '.join(shown)}{more}. Remove the copies, unless they are meant to "
        "count several times."
    )


def _differ(group: Sequence[Listed]) -> bool:
    return len({one.target for one in group}) > 1
