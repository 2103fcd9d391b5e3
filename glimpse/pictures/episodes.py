"""Makes pictures of readings: scanpaths, strips of glimpses, heat maps and animations.

    (reading,) = reader.read([case], trace=True)
    Image.fromarray(scanpath_picture(reading)).save("scanpath.png")

All of them need readings with a trace. Pictures are uint8 arrays (height, width, 3), in true physical proportions.
Volumes are shown in three planes, in the layout that radiologists use (see `glimpse.pictures.planes`).
"""

import math
import os
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

from glimpse.atomic import replacing
from glimpse.errors import MissingExtraError
from glimpse.geometry import CellGrid
from glimpse.pictures.drawing import (
    DARK,
    WHITE,
    below,
    beside,
    draw_scanpath,
    glimpse_strip,
    heat_map,
    on_canvas,
    one_line,
    write,
)
from glimpse.pictures.labels import fitting, letters
from glimpse.pictures.planes import Picture
from glimpse.pictures.zooming import zoom_tree
from glimpse.reading.records import Reading

__all__ = [
    "agreement_picture",
    "check_can_write_video",
    "common_heat_map",
    "draw_scanpath",
    "episode_frames",
    "glimpse_strip",
    "heat_map",
    "looked_at",
    "scanpath_picture",
    "to_gif",
    "to_video",
    "zoom_tree",
]

_RATE = 10  # frames per second of a video; players stumble over slower ones
_STRIP = {1: 96, 2: 96, 3: 82}  # height of glimpses in pixels, by the number of axes: three volumes stand in a row
_RECENT = 6  # glimpses that a frame of an animation shows
_TITLE, _SUBTITLE = 15, 12  # heights of letters in pixels
_LEAST = 640  # pixels that a title may take, even over narrower pictures
_LAST = 3  # for how many steps the last frame of an animation stays


def scanpath_picture(reading: Reading, height: int = 512) -> Picture:
    """Shows a reading in one picture: scanpath, where the policy wanted to look first, and glimpses with answers.

    Where it zoomed, there is the tree of its looks, too (see `glimpse.pictures.zooming`). A volume is cut through the
    glimpse that changed the answer most.

    Args:
        reading: a reading with a trace.
        height: largest height of the scanpath in pixels. Letters keep their size.

    Raises:
        ValueError: the reading has no trace.
    """
    trace = reading.traced
    at = None if reading.decisive is None else reading.scanpath[reading.decisive]
    both = _scanpath_and_heat(reading, len(reading.scanpath), height, at)
    strip = glimpse_strip(
        trace.glimpses,
        reading.probabilities,
        trace.task.names,
        trace.overview,
        min(_STRIP[len(trace.sides)], max(48, height // 4)),
        width=both.width,
        captions=reading.captions,
        sides=trace.sides,
        glimpse_sides=trace.look_sides,
        unit=trace.frame.unit,
    )
    tree = [Image.fromarray(zoom_tree(reading))] if (trace.parents >= 0).any() else []
    parts = [both, *tree, Image.fromarray(strip)]
    return np.array(below([_title(reading, max(_LEAST, *(part.width for part in parts))), *parts]))


def _title(reading: Reading, width: int) -> Image.Image:
    """Writes what was read and answered in one line; the name gives way where there is no room for all of it."""
    task = reading.traced.task
    target = "" if reading.target is None else f"target {task.describe_target(reading.target)}, "
    answer = f"{target}answered {task.describe(reading.prediction)}"
    rest = f": {one_line(answer)} after {reading.glimpses} glimpses"
    if len(reading.traced.sides) == 3 and reading.decisive is not None:
        rest += f"; cut through glimpse {reading.decisive + 1}"
    room = max(width / 4, width - letters(_TITLE).getlength(rest) - 4)
    text = fitting(fitting(one_line(reading.id), _TITLE, int(room)) + rest, _TITLE, width - 4)
    title = Image.new("RGB", (math.ceil(letters(_TITLE).getlength(text)) + 4, 22), WHITE)
    write(ImageDraw.Draw(title), (0, 0), text, DARK, size=_TITLE)
    return title


def _scanpath_and_heat(reading: Reading, glimpses: int, height: int, at: np.ndarray | None = None) -> Image.Image:
    """Draws the first glimpses of the scanpath, and a heat map of where the policy wanted to look.

    The heat map shows the choice of the next glimpse; if all glimpses are drawn, that of the first one.
    """
    trace = reading.traced
    volume, sides = len(trace.sides) == 3, trace.sides
    height = round(0.65 * height) if volume else height  # three planes side by side, and three more below them
    path, extents = reading.scanpath[:glimpses], trace.extents[:glimpses]
    step = 0 if glimpses == len(reading.scanpath) else glimpses
    unit, cells = trace.frame.unit, trace.cells[step]
    drawn = draw_scanpath(trace.overview, path, extents, height, sides, at, count=len(reading.scanpath), unit=unit)
    heat = heat_map(trace.overview, cells, height, sides, unit)
    title = f"Where it wanted to look {'next' if step else 'first'} (brightest: p = {cells.max():.2g})"
    pair = [_under("Where it looked", drawn), _under(title, heat)]
    return below(pair) if volume else beside(pair)


def _under(title: str, picture: Picture) -> Image.Image:
    """Puts a title above a picture."""
    wide = math.ceil(letters(_SUBTITLE).getlength(title)) + 1
    line = Image.new("RGB", (max(wide, picture.shape[1]), 18), WHITE)
    write(ImageDraw.Draw(line), (0, 0), title, DARK, size=_SUBTITLE)
    return below([line, Image.fromarray(picture)], gap=2)


def looked_at(readings: Sequence[Reading]) -> Float[np.ndarray, "*grid"]:
    """Returns the share of readings in which each cell was looked at.

    A cell counts as looked at if a glimpse contains its centre, or if it contains the centre of a glimpse.
    """
    grid = readings[0].traced.cells.shape[1:]
    centres = CellGrid(grid, (1,) * len(grid)).locations()[:, None].astype(np.float64)
    seen = np.zeros(len(centres))
    for reading in readings:
        reach = np.maximum(reading.traced.extents, 1 / np.array(grid)) + 1e-6
        seen += (np.abs(centres - reading.scanpath) <= reach).all(2).any(1)
    return (seen / len(readings)).reshape(grid)


def common_heat_map(readings: Sequence[Reading], height: int = 512) -> Picture:
    """Shows where many readings looked, over the mean of their overviews, in the proportions of the first image.

    Raises:
        ValueError: there are no readings, one has no trace, or their overviews have different sizes.
    """
    traces = [reading.traced for reading in readings]
    units = {trace.frame.unit for trace in traces}
    sizes = {trace.overview.shape for trace in traces}
    if len(sizes) != 1:
        raise ValueError(
            f"Expected readings with overviews of one size, got {len(sizes)} sizes; take those of one run."
        )
    mean = np.mean([trace.overview for trace in traces], axis=0)
    return heat_map(
        np.rint(mean).astype(np.uint8),
        looked_at(readings),
        height,
        traces[0].sides,
        units.pop() if len(units) == 1 else None,
    )


def agreement_picture(readings: Sequence[Reading], height: int = 512) -> Picture:
    """Shows how far several rollouts of one image agree on where to look: a heat map of the share that looked there.

    Args:
        readings: rollouts with traces, such as those of `glimpse.load(run).rollouts("slide.svs")`.
        height: largest height of the heat map in pixels.

    Raises:
        ValueError: there are no readings, or one has no trace.
    """
    if not readings:
        raise ValueError("expected at least one rollout, got none.")
    most = 100 * looked_at(readings).max()
    title = f"{one_line(readings[0].id)}: where {len(readings)} rollouts looked (brightest: {most:.0f} % of them)"
    return np.array(_under(title, common_heat_map(readings, height)))


def episode_frames(reading: Reading, height: int = 360) -> list[Image.Image]:
    """Draws one frame per step: the scanpath so far, where to look next, the last glimpses, and the answers after them.

    Args:
        reading: a reading with a trace.
        height: largest height of the scanpath in pixels.

    Returns:
        Pictures of one size: before the first glimpse, and after each one.

    Raises:
        ValueError: the reading has no trace.
    """
    trace, most = reading.traced, _RECENT if len(reading.traced.sides) < 3 else 1  # those of volumes are wide
    frames = []
    for step in range(len(reading.probabilities)):
        recent = slice(max(0, step - most), step)
        answers = slice(recent.start + 1 if step else 0, step + 1)
        both = _scanpath_and_heat(reading, step, height)
        strip = glimpse_strip(
            trace.glimpses[recent],
            reading.probabilities[answers],
            trace.task.names,
            trace.overview if step == 0 else None,
            width=both.width,
            captions=reading.captions[answers],
            sides=trace.sides,
            glimpse_sides=trace.look_sides[recent],
            unit=trace.frame.unit,
            before=recent.start,
            count=len(reading.scanpath),
        )
        frames.append(below([both, Image.fromarray(strip)]))
    size = (max(frame.width for frame in frames), max(frame.height for frame in frames))
    return [on_canvas(frame, size) for frame in frames]


def to_gif(reading: Reading, path: str | os.PathLike[str], seconds: float = 0.8, height: int = 360) -> None:
    """Writes `episode_frames` as a GIF; each step stays for `seconds`, the last one three times as long.

    Raises:
        WriteError: the file cannot be written.
    """
    frames = [frame.quantize(128, Image.Quantize.FASTOCTREE) for frame in episode_frames(reading, height)]
    durations = [round(1000 * seconds)] * (len(frames) - 1) + [round(1000 * _LAST * seconds)]
    with replacing(path) as unfinished:
        frames[0].save(unfinished, "GIF", save_all=True, append_images=frames[1:], duration=durations, loop=0)


def to_video(reading: Reading, path: str | os.PathLike[str], seconds: float = 0.8, height: int = 360) -> None:
    """Writes the animation of `to_gif` as an MP4 (H.264, which browsers and slides of talks play).

    Raises:
        MissingExtraError: the extra `video` is not installed.
        WriteError: the file cannot be written.
    """
    library = check_can_write_video()
    with replacing(path) as unfinished:
        unfinished.touch()  # says why it cannot be written, where ffmpeg would only end
        _write_video(library, reading, unfinished, seconds, height)


def _write_video(library: Any, reading: Reading, path: Path, seconds: float, height: int) -> None:
    frames = [_even(frame) for frame in episode_frames(reading, height)]
    stays = max(1, round(_RATE * seconds))
    quiet = ["-f", "mp4"]  # whatever the name of an unfinished file ends with
    writer = library.write_frames(
        os.fspath(path), frames[0].size, fps=_RATE, macro_block_size=2, output_params=quiet, ffmpeg_log_level="error"
    )
    writer.send(None)
    try:
        for index, frame in enumerate(frames):
            content = np.ascontiguousarray(frame)
            for _ in range(stays * (_LAST if index == len(frames) - 1 else 1)):
                writer.send(content)
    finally:
        writer.close()


def _even(frame: Image.Image) -> Image.Image:
    """Adds a white row or column where a side is odd, which H.264 does not take."""
    return on_canvas(frame, (frame.width + frame.width % 2, frame.height + frame.height % 2))


def check_can_write_video() -> Any:
    """Returns the library that writes videos.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return import_module("imageio_ffmpeg")
    except ImportError as error:
        raise MissingExtraError(
            "Videos need imageio-ffmpeg, which is not installed: pip install 'glimpse-rl[video]'. "
            "to_gif needs nothing else."
        ) from error
