"""Looks at one image: opens it, reads its overview and a few places, and says what is wrong. It imports no PyTorch."""

import base64
import hashlib
import io
import math
import os
import stat
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from glimpse.geometry import MissingSpacingError
from glimpse.inspecting.findings import FOREGROUND, MASK, REMARK, SIZE, SPACING, TILES, Finding, of_error
from glimpse.inspecting.headers import contradictions, unpacked_bytes
from glimpse.inspecting.tiles import cut_short, damaged_tiles
from glimpse.plugins import load_plugins
from glimpse.sources import ImageReadError, ImageSource, RegionReadError, UnsupportedImageError, open_source
from glimpse.sources.base import check_readable, missing_file
from glimpse.sources.blank import is_blank, is_ground
from glimpse.sources.registry import reader_names
from glimpse.sources.staged.remote import is_url
from glimpse.sources.tolerant import TolerantSource
from glimpse.views import Views

WHOLE = 1 << 24  # a plane of at most so many pixels is read whole, at full resolution
_PART = 1024  # pixels per axis of the parts in which it is read
_UNIFORM = 2.0  # an overview that varies less, of 255, shows nothing
_SLIDE = "slide"  # the reader whose files have tiles and state an objective's power
_READERS = Path(__file__).parents[1] / "sources"


@dataclass
class Seen:
    """What looking at an image has told; plain values, which pass between processes as JSON.

    Attributes:
        findings: of each finding, its rule, what was found, the remedy, and whether it is only a note.
        opened: whether the image can be read at all, damaged parts aside.
        shape: pixels per axis at full resolution.
        channels: number of channels.
        spacing: size of a pixel per axis in `unit`, or None.
        unit: "um", "mm" or None.
        foreground: share of the overview that is foreground.
        patches: how many glimpses cover the foreground, for each field of view; empty where that is not known.
        overview_seconds: how long reading the overview took.
        glimpse_seconds: how long reading each place took.
        pixels: a digest of the overview and the places; "" where the image shows nothing.
        unpacked: bytes that the image takes in the cache of unpacked volumes.
        thumbnail: a PNG in base64; "" where nothing can be shown.
    """

    findings: list[tuple[str, str, str, bool]] = field(default_factory=list)
    opened: bool = False
    shape: list[int] = field(default_factory=list)
    channels: int = 0
    spacing: list[float] | None = None
    unit: str | None = None
    foreground: float | None = None
    patches: list[float] = field(default_factory=list)
    overview_seconds: float | None = None
    glimpse_seconds: list[float] = field(default_factory=list)
    pixels: str = ""
    unpacked: int = 0
    thumbnail: str = ""

    def add(self, finding: Finding) -> None:
        """Adds a finding."""
        self.findings.append((finding.rule, finding.what, finding.remedy, finding.note))


def seen_of(record: Mapping[str, Any]) -> Seen:
    """Returns what `look` has returned in another process, where tuples have become lists."""
    findings = [(str(rule), str(what), str(remedy), bool(note)) for rule, what, remedy, note in record["findings"]]
    return Seen(**{**record, "findings": findings})


def look(
    path: str,
    options: Mapping[str, Any],
    sizes: Mapping[str, Any],
    mask: str | None = None,
    places: int = 8,
    seed: int = 0,
    thumbnail: int = 192,
) -> dict[str, Any]:
    """Looks at an image; whatever is wrong with it is a finding.

    Args:
        path: the file, or the folder that is one image.
        options: of `open_source`, the reader among them.
        sizes: `overview_size`, `glimpse_size` and `glimpse_extents` of the environment.
        mask: the path of its mask.
        places: how many random places of the foreground are read.
        seed: of these places.
        thumbnail: pixels of the longer side of the thumbnail; 0 for none.

    Returns:
        The attributes of `Seen`.
    """
    seen = Seen()
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            _look(seen, path, options, sizes, mask, (places, seed), thumbnail)
        except Exception as error:
            seen.add(_explained(error, path))
    _add_remarks(seen, said, path)
    return vars(seen)


def _add_remarks(seen: Seen, said: Sequence[warnings.WarningMessage], path: str) -> None:
    """Makes findings of what readers have warned of: contradictory sizes of pixels are wrong, all else is a note."""
    own = ((" ".join(str(one.message).split()), one.filename) for one in said if one.category is UserWarning)
    for text, file in dict.fromkeys(own):
        if "a pixel is" in text or "pixel size" in text:
            seen.add(of_error(UnsupportedImageError(text), path, SPACING))
        elif Path(file).is_relative_to(_READERS) or text.startswith(path):
            seen.add(replace(of_error(UnsupportedImageError(text), path, REMARK), note=True))


def _look(
    seen: Seen,
    path: str,
    options: Mapping[str, Any],
    sizes: Mapping[str, Any],
    mask: str | None,
    places: tuple[int, int],
    thumbnail: int,
) -> None:
    if not is_url(path):
        _check_file(Path(path))
    if options.get("reader") is not None and options["reader"] not in reader_names():
        load_plugins()  # another package's
    with closing(open_source(path, **options)) as source:
        damage = _Damage(path)
        damage.trying(source.check)
        seen.shape, seen.channels = list(source.shape), source.channels
        seen.opened = True
        file = source.file or Path(path)  # a copy, where there is one
        views = _views(sizes, source.ndim)
        _check_spacing(seen, source, views, options, path)
        if options.get("reader") == _SLIDE:
            damage.noted(damaged_tiles(file))
        overview = _overview(seen, source, views, damage)
        _check_foreground(seen, source, views, overview)
        if thumbnail:
            seen.thumbnail = _thumbnail(overview, source.frame.sides, thumbnail)
        shown = _places(seen, source, views, overview, places, damage)
        if source.ndim == 2 and math.prod(source.shape) <= WHOLE:
            _read_whole(source, damage)
        damage.add_to(seen)
        if overview.std() >= _UNIFORM and not damage.count:
            seen.pixels = _digest(source, overview, shown)
        seen.unpacked = unpacked_bytes(file)
        if mask is not None:
            _check_mask(seen, mask, source)


def _explained(error: Exception, path: str) -> Finding:
    """Returns the finding for an error; where a library only says that it cannot, the file may say why."""
    finding = of_error(error, path)
    if not isinstance(error, ImageReadError) or not os.path.isfile(path) or "truncated:" in finding.what:
        return finding
    with suppress(OSError):
        finding = replace(finding, what=cut_short(Path(path)) or finding.what)
    return finding


def _check_file(path: Path) -> None:
    """Refuses what is no file or folder, such as a pipe, before anything waits for it.

    Raises:
        ImageReadError: it is missing, empty, may not be read, or is none.
    """
    try:
        status = os.stat(path)
    except FileNotFoundError as error:
        raise missing_file(path) from error
    if stat.S_ISREG(status.st_mode) and not status.st_size:
        raise ImageReadError(f"{path}: the file is empty (0 bytes). Copy it again, or leave the case out.")
    check_readable(path)


def _views(sizes: Mapping[str, Any], ndim: int) -> Views:
    def per_axis(size: Any) -> tuple[int, ...]:
        return tuple(size) if isinstance(size, Sequence) else (int(size),) * ndim

    extents = sizes["glimpse_extents"]
    listed = extents if isinstance(extents, list | tuple) else [extents]
    return Views(per_axis(sizes["overview_size"]), per_axis(sizes["glimpse_size"]), tuple(listed))


class _Damage:
    """Gathers the parts of an image that cannot be read.

    Args:
        path: the file.
    """

    def __init__(self, path: str) -> None:
        self.path, self.count, self.first = path, 0, ""

    def trying(self, read: Callable[[], Any]) -> Any:
        """Returns what a read returns; None where it fails because a part is damaged."""
        try:
            return read()
        except RegionReadError as error:
            self.noted(of_error(error, self.path).what)
            return None

    def noted(self, what: str) -> None:
        """Notes a damaged part; an empty text is none."""
        self.count += bool(what)
        self.first = self.first or what

    def add_to(self, seen: Seen) -> None:
        """Makes one finding of all of them."""
        if self.count:
            more = f"; {self.count} reads failed, this is the first" if self.count > 1 else ""
            seen.add(Finding(TILES, self.first + more))


# ---------------------------------------------------------------------------------------------- spacing and sizes
def _check_spacing(seen: Seen, source: ImageSource, views: Views, options: Mapping[str, Any], path: str) -> None:
    """Notes the spacing of an image, and says whether it is unknown, contradictory, or too coarse for the glimpses."""
    seen.spacing, seen.unit = None if source.spacing is None else list(source.spacing), source.unit
    if source.spacing is None:
        pixels = all(extent.unit == "px" for extent in views.glimpse_extents)
        more = "" if pixels else f", but glimpses are {', '.join(map(str, views.glimpse_extents))} wide"
        seen.add(Finding(SPACING, f"the file does not state the size of a pixel{more}", note=pixels))
    given = "mpp" in options or "spacing" in options
    for what in contradictions(
        source.file or Path(path), source.ndim, given, options.get("series"), options.get("frame")
    ):
        seen.add(Finding(SPACING, what))
    if source.ndim != views.ndim:
        raise UnsupportedImageError(views.problems(source)[0])
    for problem in views.problems(source) if source.spacing is not None or _in_pixels(views) else ():
        seen.add(of_error(UnsupportedImageError(problem.removeprefix(f"{source.name}: ")), path, SIZE))


def _in_pixels(views: Views) -> bool:
    return all(extent.unit == "px" for extent in views.glimpse_extents)


# ---------------------------------------------------------------------------------------------- reading
def _overview(seen: Seen, source: ImageSource, views: Views, damage: _Damage) -> np.ndarray:
    began = time.perf_counter()
    overview = damage.trying(lambda: source.overview(views.overview_size))
    if overview is None:
        with warnings.catch_warnings():  # of the damage, which is a finding already
            warnings.simplefilter("ignore")
            return TolerantSource(source, source.name).overview(views.overview_size)
    seen.overview_seconds = time.perf_counter() - began
    return overview


def _check_foreground(seen: Seen, source: ImageSource, views: Views, overview: np.ndarray) -> None:
    mask = source.foreground(overview)
    seen.foreground = float(mask.mean())
    if overview.std() < _UNIFORM or is_blank(overview, source.background, mask):
        shown = "background only" if is_ground(overview, source.background) else "one value only"
        seen.add(Finding(FOREGROUND, f"there is nothing to look at: the overview shows {shown}"))
        seen.foreground = 0.0
    pixels = float(mask.mean()) * math.prod(source.shape)
    with suppress(MissingSpacingError, ValueError):
        seen.patches = [pixels / float(extent.prod()) for extent in views.extents(source)]


def _places(
    seen: Seen, source: ImageSource, views: Views, overview: np.ndarray, places: tuple[int, int], damage: _Damage
) -> list[np.ndarray]:
    """Reads random places of the foreground, and returns what can be read of them."""
    count, seed = places
    rng, mask = np.random.default_rng(seed), source.foreground(overview)
    cells = np.argwhere(mask)
    chosen = cells[rng.choice(len(cells), count, replace=len(cells) < count)] if count else cells[:0]
    shown = []
    for index, cell in enumerate(chosen):
        location = (cell + 0.5) / np.asarray(mask.shape) * 2 - 1
        began = time.perf_counter()
        found = damage.trying(partial(_read_place, source, views, location, index))
        if found is not None:
            seen.glimpse_seconds.append(time.perf_counter() - began)
            shown.append(found)
    return shown


def _read_place(source: ImageSource, views: Views, location: np.ndarray, index: int) -> np.ndarray:
    zoom = index % len(views.glimpse_extents)
    try:
        return views.glimpse(source, location, zoom)
    except MissingSpacingError:  # which is a finding already
        return source.read(source.frame.to_pixels(location), views.glimpse_size, views.glimpse_size)


def _read_whole(source: ImageSource, damage: _Damage) -> None:
    """Reads all pixels of a plane, part by part."""
    height, width = source.shape
    for top in range(0, height, _PART):
        for left in range(0, width, _PART):
            size = min(_PART, height - top), min(_PART, width - left)
            center = np.array([top + size[0] / 2, left + size[1] / 2])
            damage.trying(partial(source.read, center, size, size))


def _digest(source: ImageSource, overview: np.ndarray, shown: Sequence[np.ndarray]) -> str:
    digest = hashlib.sha256(repr((source.shape, overview.shape)).encode())
    for part in (overview, *shown):
        digest.update(np.ascontiguousarray(part).tobytes())
    return digest.hexdigest()[:32]


def _check_mask(seen: Seen, mask: str, source: ImageSource) -> None:
    from glimpse.cohort.marks import read_marks  # imports PyTorch, and few cohorts have masks

    try:
        _check_file(Path(mask))
        read_marks(Path(mask), source)
    except Exception as error:
        finding = of_error(error, mask, MASK)
        seen.add(Finding(finding.rule, f"mask {mask}: {finding.what}", finding.remedy))


# ---------------------------------------------------------------------------------------------- thumbnails
def _thumbnail(overview: np.ndarray, sides: Sequence[float], longest: int) -> str:
    """Draws an overview in true proportions; of a volume, the three cuts through its middle, beside each other."""
    middle = [n // 2 for n in overview.shape[1:]]
    cuts = [overview] if overview.ndim == 3 else [overview.take(middle[axis], axis + 1) for axis in range(3)]
    spans = [tuple(sides)] if overview.ndim == 3 else [tuple(np.delete(sides, axis)) for axis in range(3)]
    scale = longest / max(max(span) for span in spans)
    tiles = []
    for cut, (high, wide) in zip(cuts, spans, strict=True):
        pixels = cut if overview.ndim == 3 else cut[:, ::-1]  # z grows to superior, y to anterior
        colours = pixels[:3] if len(pixels) >= 3 else np.repeat(pixels[:1], 3, axis=0)
        size = max(1, round(wide * scale)), max(1, round(high * scale))
        tiles.append(Image.fromarray(np.ascontiguousarray(colours.transpose(1, 2, 0))).resize(size))
    canvas = Image.new("RGB", (sum(one.width for one in tiles), max(one.height for one in tiles)))
    left = 0
    for tile in tiles:
        canvas.paste(tile, (left, 0))
        left += tile.width
    content = io.BytesIO()
    canvas.save(content, "PNG")
    return base64.b64encode(content.getvalue()).decode("ascii")
