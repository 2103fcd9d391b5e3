"""Tells which environment reads a file, where nobody has said it: by the reader that its content calls for."""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from glimpse.errors import EvaluationError
from glimpse.modalities import ModalityError, find_modality
from glimpse.predicting.inputs import Found, is_dicom_file, walked, without_companions
from glimpse.settings.nearest import suggestion
from glimpse.sources import ImageReadError
from glimpse.sources.dicom import sop_class
from glimpse.sources.registry import Reader, known_readers, knows_nothing, reader_of

_SLICES = {f"1.2.840.10008.5.1.4.1.1.{end}" for end in ("2", "2.1", "2.2", "4", "4.1", "4.4", "128", "130", "20")}
"""SOP classes of CT, MR, PET and nuclear medicine: their files are slices, and a folder of them is one image."""


@dataclass(frozen=True)
class Kept:
    """An image, and the environment that reads it."""

    found: Found
    env: str


def env_of(path: Path) -> str | None:
    """Returns the environment that reads a file or folder; None if there is none.

    Of several environments with one reader, it is the first that the reader names.
    """
    reader = _reader_of(path)
    return None if reader is None or not reader.kind.environments else reader.kind.environments[0]


def most_common_env(paths: Iterable[Path]) -> str:
    """Returns the environment that reads most of some files.

    Raises:
        EvaluationError: none of them is read by any.
    """
    counts = Counter(filter(None, map(env_of, paths)))
    if not counts:
        known = "; ".join(str(reader.kind) for reader in known_readers() if reader.kind.environments)
        raise EvaluationError(
            f"input: none of these files is of a kind that is read. Known are: {known}. Say which it is with env=."
        )
    return counts.most_common(1)[0][0]


def images_below(top: Path, without: Path) -> Iterator[Kept]:
    """Yields all images below a folder, of whatever kind; hidden ones are left out.

    Args:
        top: the folder.
        without: a folder that is left out, since results lie there.

    Raises:
        ImageReadError: a folder may not be read.
    """
    for folder, files in walked(top, without):
        slices = {file for file in files if is_dicom_file(file) and sop_class(file) in _SLICES}
        of_series = next((one for one in known_readers() if one.sniff_folder is not knows_nothing), None)
        if slices and of_series is not None and of_series.kind.environments:
            below = folder.relative_to(top).as_posix()
            yield Kept(Found(folder, top.name if below == "." else below), of_series.kind.environments[0])
        yield from _files([file for file in files if file not in slices], top)


def _files(files: list[Path], top: Path) -> Iterator[Kept]:
    by_reader: dict[str, tuple[Reader, list[Path]]] = {}
    for file in files:
        reader = _reader_of(file)
        if reader is not None and reader.kind.environments:
            by_reader.setdefault(reader.name, (reader, []))[1].append(file)
    for reader, own in by_reader.values():
        for file in without_companions(own, reader):
            yield Kept(Found(file, file.relative_to(top).as_posix()), reader.kind.environments[0])


def _reader_of(path: Path) -> Reader | None:
    """Returns the reader of a file: where one only claims its suffix it is that one, and the file is not opened."""
    by_suffix = [reader for reader in known_readers() if reader.has_suffix(path)]
    if len(by_suffix) == 1 and not is_dicom_file(path):
        return by_suffix[0]
    try:
        if path.is_file() or path.is_dir():
            return reader_of(path)
    except (OSError, ImageReadError):  # it may not be read; looking at it says why
        pass
    return by_suffix[0] if by_suffix else None


def check_env(name: str) -> None:
    """Refuses an environment that reads no files.

    Raises:
        EvaluationError: its images are drawn, or there is no such environment.
    """
    try:
        drawn = find_modality(name).source is None
    except ModalityError as error:
        known = [env for reader in known_readers() for env in reader.kind.environments]
        near = suggestion(name, known)
        raise EvaluationError(f"There is no env={name}{near}. {', '.join(known)} read files.") from error
    if drawn:
        raise EvaluationError(f"env={name}: its images are drawn, so there are no files to check. Choose another env=.")
