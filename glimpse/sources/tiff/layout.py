"""How the images of a TIFF lie in its pages: levels, channels, and planes of which one has to be chosen."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from glimpse.errors import MissingExtraError, UserError
from glimpse.settings.nearest import suggestion
from glimpse.sources.base import ImageReadError, UnsupportedImageError, missing_file, one_frame
from glimpse.sources.quiet import quiet
from glimpse.sources.tiff.facts import OmeImage, directory_end, imagej_names, ome_images, qpi_name, tagged_spacing
from glimpse.sources.tiff.segments import INSTALL, Plane, StoredPage

REMEDY = (
    "Copy the file again and compare its size with the original's, or leave the case out (env.cohort.on_error=skip)."
)
_CONVERT = "Convert it, e.g. with 'vips tiffsave --tile --pyramid'"
_RIVAL = 4  # an image with at least so small a part of the largest one's pixels is no label or thumbnail of it
_LARGEST_SEGMENT = 1 << 26  # pixels that are decoded at once
_WHITE_IS_ZERO, _RGB, _YCBCR = 0, 2, 6
_NO_NAME = re.compile(r"(channel[ :_]*)?\d+(:\d+)*|r|g|b|red|green|blue")
_JPEGS = (6, 7, 34892, 33007)


@dataclass(frozen=True, eq=False)
class Level:
    """One level of a pyramid.

    Attributes:
        shape: rows and columns.
        scale: level-0 pixels (y, x) per pixel.
        planes: one per stored channel.
    """

    shape: tuple[int, int]
    scale: tuple[float, float]
    planes: tuple[Plane, ...]


@dataclass(frozen=True, eq=False)
class Layout:
    """What a file says of the image that is read; it holds no open file.

    Attributes:
        levels: from fine to coarse.
        dtype: of the values in memory.
        names: of the channels, one each.
        spacing: micrometres per pixel (y, x), or None.
        colours: whether the channels are red, green and blue.
        inverted: whether the least value is white.
    """

    levels: tuple[Level, ...]
    dtype: np.dtype
    names: tuple[str, ...]
    spacing: tuple[float, float] | None
    colours: bool
    inverted: bool

    @property
    def perhaps_colours(self) -> bool:
        """Whether three channels of 8 bits may be red, green and blue: they are called so, or have no names."""
        plain = all(_NO_NAME.fullmatch(name.casefold()) for name in self.names)
        return len(self.names) == 3 and self.dtype == np.uint8 and plain

    @property
    def end(self) -> int:
        """The byte that the pixels reach to."""
        return max(plane.page.end for level in self.levels for plane in level.planes if plane.page is not None)


def describe(path: Path, frame: int | None = None, image: str | int | None = None, pages: bool = False) -> Layout:
    """Reads the directories of a TIFF, not its pixels.

    Args:
        path: the file.
        frame: which plane is read of a stack of depths or times, from 0.
        image: name or number of the image, where the file holds several.
        pages: whether equal pages that nothing is said of are channels.

    Raises:
        ImageReadError: the file is missing or damaged.
        UnsupportedImageError: it is not what can be read, or holds several images or planes and none is chosen.
        MissingExtraError: its compression needs a package that is not installed.
    """
    with opened(path) as tiff:
        _refuse_cut(path)
        series = [one for one in tiff.series if {"Y", "X"} <= set(one.get_axes(False)) and one.dtype is not None]
        if not series:
            raise UnsupportedImageError(f"{path}: a TIFF without an image of rows and columns. Correct the path.")
        described = _described(series, ome_images(tiff.ome_metadata if tiff.is_ome else None))
        number = _chosen_image(path, series, described, image)
        return _Images(path, tiff, series[number], described[number]).layout(frame, pages)


def _refuse_cut(path: Path) -> None:
    """Refuses a file that ends before what it says of itself: what is left may look like a file of another kind.

    Raises:
        ImageReadError: it is truncated.
    """
    needed, size = directory_end(path), path.stat().st_size
    if needed > size:
        raise cut_short(path, needed, "directory", size)


def cut_short(path: Path, needed: int, what: str, size: int) -> ImageReadError:
    """Returns the error for a file that ends before its pixels or its directory do."""
    verb = "reach" if what.endswith("s") else "reaches"
    return ImageReadError(
        f"{path}: the file is truncated: its {what} {verb} to byte {needed:,}, it ends at byte {size:,}. {REMEDY}"
    )


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Opens a TIFF; whatever tifffile raises is an error that names the file."""
    try:
        with quiet(tifffile.logger()), tifffile.TiffFile(path) as tiff:
            yield tiff
    except UserError:
        raise
    except FileNotFoundError as error:
        raise missing_file(path) from error
    except Exception as error:  # tifffile raises many kinds on damaged files
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ImageReadError(
            f"{path}: cannot be read as TIFF ({reason}). It is probably truncated or damaged. {REMEDY}"
        ) from error


# ---------------------------------------------------------------------------------------------- which image
def _plane_shape(series: Any) -> tuple[int, int]:
    sizes = dict(zip(series.get_axes(False), series.get_shape(False), strict=True))
    return int(sizes["Y"]), int(sizes["X"])


def _described(series: Sequence[Any], images: Sequence[OmeImage]) -> list[OmeImage | None]:
    """Returns what OME-XML says of each series: they come in one order, but images without pixels are left out."""
    left, found = list(images), list[OmeImage | None]()
    for one in series:
        fits = next((image for image in left if image.shape == _plane_shape(one)), None)
        if fits is not None:
            del left[: left.index(fits) + 1]
        found.append(fits)
    return found


def _chosen_image(
    path: Path, series: Sequence[Any], described: Sequence[OmeImage | None], given: str | int | None
) -> int:
    """Returns the number of the image that is read: the one that is given, else the largest where that is clear."""
    names = [(image.name if image else "") or str(one.name or "") for one, image in zip(series, described, strict=True)]
    sizes = [math.prod(_plane_shape(one)) for one in series]
    if given is not None:
        text = str(given).strip()
        same = [index for index, name in enumerate(names) if name == text]
        if not same and text.isdecimal() and int(text) < len(names):
            same = [int(text)]
        if len(same) == 1:
            return same[0]
        rule = f"{len(same)} of its images are called {text!r}" if same else f"it has no image {text!r}"
        hint = "" if same else suggestion(text, filter(None, names))
        raise UnsupportedImageError(f"{path}: {rule}{hint}. Correct env.cohort.image; {_listed(series, names)}.")
    largest = int(np.argmax(sizes))
    if sum(size * _RIVAL >= sizes[largest] for size in sizes) > 1:
        raise UnsupportedImageError(
            f"{path}: it holds several images, a case is one: {_listed(series, names)}. Choose one by its number or "
            f"name with env.cohort.image={largest}; in Python with image={largest}."
        )
    return largest


def _listed(series: Sequence[Any], names: Sequence[str]) -> str:
    shapes = ["{} x {} pixels".format(*_plane_shape(one)) for one in series]
    named = [f"{name}, {shape}" if name else shape for name, shape in zip(names, shapes, strict=True)]
    return "there are " + ", ".join(f"{index} ({text})" for index, text in enumerate(named))


# ---------------------------------------------------------------------------------------------- its levels and planes
class _Images:
    """One image of a TIFF with its levels.

    Args:
        path: the file.
        tiff: the open file.
        series: the image, as tifffile has found it.
        described: what OME-XML says of it.
    """

    def __init__(self, path: Path, tiff: Any, series: Any, described: OmeImage | None) -> None:
        self._path, self._tiff, self._series, self._described = path, tiff, series, described
        self._page = series.keyframe
        self._pages: dict[Any, StoredPage] = {}

    def layout(self, frame: int | None, pages: bool) -> Layout:
        """Returns how it lies in the file (see `describe`)."""
        page, series = self._page, self._series
        self._refuse_other_kinds()
        colours = int(page.photometric) in (_RGB, _YCBCR) and page.samplesperpixel in (3, 4)
        channel_axes, frames = self._axes(series, frame, pages)
        chosen = one_frame(self._path, frames, frame, "plane")
        levels, full = list[Level](), _plane_shape(series)
        for level in series.levels:
            shape = _plane_shape(level)
            planes = self._planes(level, chosen, channel_axes, 3 if colours else None)
            if levels and len(planes) != len(levels[0].planes):
                break  # a level that lacks channels is none of this image
            levels.append(Level(shape, (_factor(full[0], shape[0]), _factor(full[1], shape[1])), tuple(planes)))
        imagej = self._tiff.imagej_metadata if self._tiff.is_imagej else None
        spacing = self._described.spacing if self._described else None
        return Layout(
            tuple(levels),
            np.dtype(series.dtype).newbyteorder("="),
            tuple(self._names(len(levels[0].planes), colours, imagej)),
            spacing or tagged_spacing(page, imagej),
            colours,
            int(page.photometric) == _WHITE_IS_ZERO,
        )

    def _refuse_other_kinds(self) -> None:
        page, path = self._page, self._path
        if self._series.dtype.kind not in "uif" or page.bitspersample < 8:
            raise UnsupportedImageError(
                f"{path}: expected pixels of 8 bits or more, got {self._series.dtype} of {page.bitspersample} bits: it "
                "is a mask rather than an image. Correct the path."
            )
        if int(page.photometric) not in (_WHITE_IS_ZERO, 1, _RGB, _YCBCR) or (
            int(page.photometric) == _YCBCR and int(page.compression) not in _JPEGS
        ):
            raise UnsupportedImageError(
                f"{path}: its pixels are {getattr(page.photometric, 'name', page.photometric)}; grey, many channels, "
                f"and red, green and blue can be read. {_CONVERT} after converting its colours to RGB."
            )
        if any(one is not None and one.parent is not self._tiff for one in self._series._pages):
            raise UnsupportedImageError(
                f"{path}: its planes lie in several files. Put them into one, e.g. with 'bfconvert {path.name} "
                "whole.ome.tiff'."
            )
        _check_codec(path, page)
        if page.imagedepth > 1:
            raise UnsupportedImageError(f"{path}: a page of it holds several depths. {_CONVERT}, one page for each.")

    def _axes(self, level: Any, frame: int | None, pages: bool) -> tuple[str, int]:
        """Returns which axes of the pages are channels, and how many planes there are to choose from.

        Pages of which the file does not say what they are can be either; the user has to say it.
        """
        lead = _lead(level)
        unclear = "".join(axis for axis, n in lead.items() if axis in "IQ" and n > 1)
        if unclear and frame is None and not pages:
            count = math.prod(lead[axis] for axis in unclear)
            raise UnsupportedImageError(
                f"{self._path}: it holds {count} equal pages and does not say what they are. If they are channels, "
                f"choose them with env.cohort.channels=[{','.join(map(str, range(min(count, 3))))}]; if a case is one "
                f"of them, choose it, 0 to {count - 1}, with env.cohort.frame=0 or in a column 'frame' of the CSV (for "
                "predict, of input=<CSV>)."
            )
        channels = "C" + (unclear if frame is None or pages else "")
        return channels, math.prod(n for axis, n in lead.items() if axis not in channels)

    def _planes(self, level: Any, chosen: int, channel_axes: str, colours: int | None) -> list[Plane]:
        """Returns the channels of a level for the chosen plane."""
        lead = _lead(level)
        count = math.prod(lead.values())
        shown = [axis for axis in lead if axis not in channel_axes]
        at = dict(zip(shown, np.unravel_index(chosen, [lead[axis] for axis in shown] or [1]), strict=False))
        page, planes = level.keyframe, []
        separate = page.planarconfig != 1 and page.samplesperpixel > 1  # what is neither counts as 2, as for tifffile
        for index in np.ndindex(*lead.values()):
            if any(at.get(axis, place) != place for axis, place in zip(lead, index, strict=True)):
                continue
            number = int(np.ravel_multi_index(index, list(lead.values()))) if lead else 0
            stored = self._stored(level, number, count)
            for sample in range(colours or page.samplesperpixel):
                planes.append(Plane(stored, sample, 0) if separate else Plane(stored, 0, sample))
        return planes

    def _stored(self, level: Any, number: int, count: int) -> StoredPage | None:
        """Returns a page of a level; of files that describe one page only, the part that a plane takes."""
        key = (id(level), number)
        if key not in self._pages:
            page = level.keyframe
            if len(level._pages) < count and level.dataoffset is not None:  # as ImageJ writes large stacks
                self._pages[key] = _stored_in_one(self._tiff, page, level.dataoffset + number * page.nbytes)
                return self._pages[key]
            one = level[number] if number < len(level) else None
            if one is None:
                return None
            self._pages[key] = _stored_page(self._path, self._tiff, page, one)
        return self._pages[key]

    def _names(self, count: int, colours: bool, imagej: Any) -> list[str]:
        if colours:
            return ["red", "green", "blue"]
        names: Sequence[str] = self._described.channels if self._described else ()
        if len(names) != count:
            names = imagej_names(imagej, count)
        if len(names) != count and self._tiff.is_qpi:
            names = [qpi_name(one) if one is not None else "" for one in self._series]
        if len(names) != count:
            names = [""] * count
        return [name or str(index) for index, name in enumerate(names)]


def _lead(level: Any) -> dict[str, int]:
    """Returns the axes along which pages follow each other, with their lengths."""
    axes, shape = level.get_axes(False), level.get_shape(False)
    return {axis: int(n) for axis, n in zip(axes, shape, strict=True) if axis not in "YXS"}


def _factor(full: int, reduced: int) -> float:
    """Returns how many pixels one of a level stands for: a whole number where rounding explains the difference."""
    whole = round(full / reduced)
    return float(whole) if reduced in (full // whole, -(-full // whole)) else full / reduced


def _check_codec(path: Path, page: Any) -> None:
    """Refuses compressions that cannot be decoded here.

    Raises:
        MissingExtraError: the package for it is not installed.
        UnsupportedImageError: nobody knows it.
    """
    name = getattr(page.compression, "name", str(page.compression))
    try:
        if int(page.compression) != 1:
            tifffile.TIFF.DECOMPRESSORS[page.compression]
        if int(page.predictor) != 1:
            tifffile.TIFF.UNPREDICTORS[page.predictor]
    except KeyError as error:
        if "imagecodecs" in str(error):
            raise MissingExtraError(
                f"{path}: its pixels are compressed as {name}, which needs the package imagecodecs; it is not "
                f"installed. Run: {INSTALL}"
            ) from error
        raise UnsupportedImageError(
            f"{path}: its pixels are compressed in a way that cannot be read ({name}). {_CONVERT}."
        ) from error


def _stored_page(path: Path, tiff: Any, page: Any, one: Any) -> StoredPage:
    segment = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    raw = (
        int(page.compression) == 1
        and int(page.predictor) == 1
        and int(page.fillorder) == 1
        and page.bitspersample == 8 * page.dtype.itemsize
    )
    segment = min(segment[0], page.imagelength) if not page.is_tiled else segment[0], segment[1]
    if not raw and math.prod(segment) > _LARGEST_SEGMENT:
        raise UnsupportedImageError(
            f"{path}: {segment[0]} x {segment[1]} pixels of it are compressed in one piece, which every glimpse would "
            f"have to unpack. {_CONVERT}."
        )
    tables = {} if one.jpegtables is None else {"jpegtables": one.jpegtables}
    if page.jpegheader is not None:
        tables["jpegheader"] = page.jpegheader
    return StoredPage(
        one.offset,
        (page.imagelength, page.imagewidth),
        segment,
        page.samplesperpixel if page.planarconfig == 1 else 1,
        page.dtype.newbyteorder(tiff.byteorder),
        one.dataoffsets,
        one.databytecounts,
        bool(page.is_tiled),
        raw,
        page.decode,
        tables,
    )


def _stored_in_one(tiff: Any, page: Any, offset: int) -> StoredPage:
    """A page whose values follow each other in the file without directories of their own."""
    return StoredPage(
        offset,
        (page.imagelength, page.imagewidth),
        (page.imagelength, page.imagewidth),
        page.samplesperpixel,
        page.dtype.newbyteorder(tiff.byteorder),
        (offset,),
        (page.nbytes,),
        False,
        True,
        page.decode,
        {},
    )
