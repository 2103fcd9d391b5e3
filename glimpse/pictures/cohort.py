"""Makes pictures of a whole cohort: the cases that were answered best and worst, and what its most telling looks show.

    readings = reader.each(cases, trace=True)
    best_and_worst(readings).save("best_and_worst.png")

Readings may come from an iterator: of most of them nothing is kept (see `glimpse.reading.standing_out`).
"""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from PIL import Image, ImageColor, ImageDraw
from PIL.PngImagePlugin import PngInfo

from glimpse.atomic import replacing
from glimpse.pictures.charts import COLOURS
from glimpse.pictures.drawing import (
    DARK,
    WHITE,
    Colour,
    below,
    beside,
    draw_scanpath,
    framed,
    on_canvas,
    one_line,
    through_the_middle,
    write,
)
from glimpse.pictures.labels import letters
from glimpse.reading.records import Reading
from glimpse.reading.standing_out import (
    CASES,
    LOOKS,
    PER_CASE,
    TellingLook,
    halves,
    outermost,
    score_of,
    telling,
)

BEST_AND_WORST, TELLING = "best_and_worst.png", "telling_glimpses.png"
"""The files of both pictures in a run folder."""
DESCRIPTION = "Description"  # the name that PNG has for the text that tells what a picture shows
_HEADING, _TEXT, _LEADING = 17, 15, 4  # heights of letters, and what a line is higher, in pixels
_CASE = {1: 320, 2: 320, 3: 460}  # width of a case in pixels, by the number of axes: volumes have three planes
_LOOK = {1: 150, 2: 150, 3: 324}  # of a look
_SHEET = 670  # width in pixels of a sheet of looks
_LINES = 3  # that the text of a case has at most for target and answer
_FOR, _AGAINST, _NOTHING = (ImageColor.getrgb(colour) for colour in (COLOURS[0], COLOURS[1], "#767676"))
_GAP = 12
_ZERO = 5e-5  # what a look has added, below which it has added nothing


@dataclass(frozen=True, eq=False)
class Sheet:
    """A picture of a cohort.

    Attributes:
        image: the picture.
        description: what it shows, for those who do not see it.
    """

    image: Image.Image
    description: str

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes it as PNG, with its description in it.

        Raises:
            WriteError: the file cannot be written.
        """
        told = PngInfo()
        told.add_itxt(DESCRIPTION, self.description)
        with replacing(path) as unfinished:
            self.image.save(unfinished, "PNG", pnginfo=told, optimize=True)


# ---------------------------------------------------------------------------------------------- cases
def best_and_worst(readings: Iterable[Reading], count: int = CASES, height: int = 280) -> Sheet:
    """Shows the cases that were answered best, on the left, and worst, on the right: scanpath, target and answer.

    Cases are ranked by the task's score (see `Task.score`), and at equal scores by its loss. Of few cases, half of them
    are the best ones. Cases without a target are left out.

    Args:
        readings: readings with traces, also from an iterator.
        count: how many cases of each.
        height: largest height of a scanpath in pixels.

    Raises:
        ValueError: no case has a target, a reading has no trace, or `count` is below 1.
    """
    kept = outermost(readings, count)
    if not kept:
        raise ValueError("no case has a target with which its answer can be compared: none can be best or worst.")
    first, last = halves(len(kept), count)
    columns = [("Answered best", kept[:first]), ("Answered worst", kept[len(kept) - last :][::-1])]
    columns = [column for column in columns if column[1]]
    width = max(_CASE[len(reading.traced.sides)] for reading in kept)
    rows = [
        beside([_case(chosen[row], width, height) for _, chosen in columns if row < len(chosen)], _GAP)
        for row in range(first)
    ]
    heads = beside([_lines([name], width, _HEADING) for name, _ in columns], _GAP)
    note = "The score is 1 for a perfect answer, and 0 for a blind guess."
    told = [f"{name}: {'; '.join(', '.join(_told(reading)) for reading in chosen)}." for name, chosen in columns]
    image = below([heads, _wrapped(note, heads.width), *rows], _GAP)
    return Sheet(image, f"Scanpaths of cases. {' '.join(told)}")


def _told(reading: Reading) -> list[str]:
    """Returns name, target and score, and answer of a case as texts."""
    task, scored = reading.traced.task, score_of(reading)
    assert scored is not None
    score = f"{scored[0]:.2f}".replace("-", "−")
    target = f"target {task.describe_target(reading.target)}, score {score}"
    return [one_line(reading.id), target, f"answered {task.describe(reading.prediction)}"]


def _case(reading: Reading, width: int, height: int) -> Image.Image:
    """Draws the scanpath of a case, and below it what was to be answered, and what was."""
    trace, high = reading.traced, height
    at = None if reading.decisive is None else reading.scanpath[reading.decisive]
    while True:
        drawn = draw_scanpath(
            trace.overview, reading.scanpath, trace.extents, high, trace.sides, at, unit=trace.frame.unit
        )
        if drawn.shape[1] <= width or high <= 1:
            break
        high = min(high - 1, int(high * width / drawn.shape[1]))
    name, target, answer = _told(reading)
    texts = [_lines([_shortened(name, width)], width), _wrapped(target, width), _wrapped(answer, width)]
    return below([on_canvas(Image.fromarray(drawn), (width, drawn.shape[0])), below(texts, 0)], 4)


# ---------------------------------------------------------------------------------------------- looks
def telling_glimpses(
    seen: Iterable[Reading | TellingLook], count: int = LOOKS, per_case: int = PER_CASE, width: int = _SHEET
) -> Sheet:
    """Shows the most and the least telling glimpses of a cohort, as the agent saw them.

    A glimpse tells as much as the answer would differ without it (see `Reading.contributions`), up or down: blue
    frames have added to the probability or quantity that is named, orange ones have taken from it, grey ones have not
    changed it. It is the one that changes most, of those that pictures tell of (see `Task.pictured`). Near duplicates
    are left out.

    Args:
        seen: readings with traces, also from an iterator, or looks that `candidates` has chosen from them.
        count: how many of the most telling glimpses, and how many of the least telling ones.
        per_case: how many of each may be of one case.
        width: of the sheet in pixels.

    Raises:
        ValueError: there is no look of which it is known what it added, a reading has no trace, or `count` or
            `per_case` is below 1.
    """
    most, least = telling(seen, count, per_case)
    if not most:
        raise ValueError(
            "there is no look of which it is known what it has added to an answer: nobody has looked anywhere, or the "
            "readings are not those of a policy."
        )
    wide = max(_LOOK[len(look.sides)] for look in (*most, *least))
    across = max(1, (width + _GAP) // (wide + _GAP))
    parts, told = [], []
    for name, chosen in (("Most telling glimpses", most), ("Least telling glimpses", least)):
        if chosen:
            tiles = [_look(look, wide) for look in chosen]
            rows = [beside(tiles[i : i + across], _GAP) for i in range(0, len(tiles), across)]
            parts += [_lines([name], width, _HEADING), *rows]
            told.append(f"{name}: {'; '.join(', '.join((one.id, *_of_look(one))) for one in chosen)}.")
    note = (
        "Ranked by how much the answer would differ without them: blue has raised the number that is named below it, "
        "orange has lowered it; grey: no change."
    )
    image = below([parts[0], _wrapped(note, width), *parts[1:]], _GAP)
    return Sheet(image, f"Glimpses, with what each has added to the answer. {' '.join(told)}")


def _of_look(look: TellingLook) -> tuple[str, str]:
    added = f"{look.added:+.0f}" if look.size >= 10 else f"{look.added:+.2g}" if look.size >= _ZERO else "±0"
    return f"look {look.order} of {look.count}", f"{look.column} {added}".replace("-", "−")


def _look(look: TellingLook, width: int) -> Image.Image:
    """Draws a glimpse in its frame, and below it whose it is, and what it has added."""
    high = width
    while True:
        drawn = through_the_middle(look.glimpse, high, look.sides, unit=look.unit)
        if drawn.width <= width - 6 or high <= 1:
            break
        high = min(high - 1, int(high * (width - 6) / drawn.width))
    place, added = _of_look(look)
    column, _, number = added.rpartition(" ")
    room = width - letters(_TEXT).getlength(f" {number}")
    texts = [_shortened(one_line(look.id), width), place, f"{_shortened(column, room)} {number}"]
    colour: Colour = (_NOTHING if look.size < _ZERO else _FOR if look.added > 0 else _AGAINST)[:3]
    return below([framed(drawn, colour), _lines(texts, width)], 4)


# ---------------------------------------------------------------------------------------------- texts
def _lines(texts: Sequence[str], width: int, size: int = _TEXT) -> Image.Image:
    """Writes lines on a canvas of a width."""
    line = size + _LEADING
    canvas = Image.new("RGB", (width, max(1, line * len(texts))), WHITE)
    for row, text in enumerate(texts):
        write(ImageDraw.Draw(canvas), (0, line * row), text, DARK, size=size)
    return canvas


def _wrapped(text: str, width: int) -> Image.Image:
    """Writes a text in as many lines as it needs, up to a few."""
    lines, words = [""], text.split()
    for index, word in enumerate(words):
        longer = f"{lines[-1]} {word}".strip()
        if letters(_TEXT).getlength(longer) <= width or not lines[-1]:
            lines[-1] = longer
        elif len(lines) == _LINES:
            lines[-1] = " ".join([lines[-1], *words[index:]])
            break
        else:
            lines.append(word)
    return _lines([_shortened(line, width) for line in lines], width)


def _shortened(text: str, width: float) -> str:
    """Returns a text that fits into a width; of a longer one the middle is left out, as names often differ at ends."""
    if letters(_TEXT).getlength(text) <= width:
        return text
    for kept in range(len(text) - 1, 1, -1):
        short = f"{text[: (kept + 1) // 2]}…{text[len(text) - kept // 2 :]}"
        if letters(_TEXT).getlength(short) <= width:
            return short
    return text[:1]
