"""Paints one slide, reads it with the policy that comes with the package, and writes everything that shows how."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glimpse.atomic import write_error
from glimpse.demo.folder import take
from glimpse.errors import EvaluationError, SettingsError
from glimpse.pictures.episodes import check_can_write_video, to_gif, to_video
from glimpse.predict import predict
from glimpse.predicting.agent import load
from glimpse.predicting.claims import Claims
from glimpse.predicting.readings import CaseReading
from glimpse.report.html.writing import REPORT, write_report
from glimpse.runs.file_names import file_names
from glimpse.settings.kinds import check_kind
from glimpse.settings.paths import folder_for
from glimpse.settings.terminal import printable
from glimpse.sources import ImageReadError, UnsupportedImageError
from glimpse.synthetic.making import CaseRecord
from glimpse.synthetic.slides.recipe import VERSION, make_slides, plan_cohort, regions

POLICY = Path(__file__).parent / "policy"
"""The run folder that comes with the package, without what only training needs; see `SOURCE.md` in it."""

FOLDER = "glimpse-demo"
_SLIDES, _SEED, _SIZE = 270, 0, 3072  # the embedded cohort by which the policy was trained; it saw no test slide
_FACTS = {"of": "glimpse demo", "slides": _SLIDES, "seed": _SEED, "size": _SIZE, "version": VERSION}
_FOCUS = "tumour focus"


@dataclass(frozen=True)
class Asked:
    """A demo that was asked for, and can begin.

    Attributes:
        folder: the folder for all of it, which is marked as a demo's own.
        record: the slide.
        video: whether an MP4 is written, too.
    """

    folder: Path
    record: CaseRecord
    video: bool

    @property
    def slide(self) -> Path:
        """The file of the slide."""
        return self.folder / self.record.path

    @property
    def beginning(self) -> str:
        """A line that says what is done first."""
        return "Reading a slide ..." if self.slide.exists() else "Painting a slide, and reading it ..."


@dataclass(frozen=True)
class Shown:
    """What a demo has written.

    Attributes:
        slide: the slide.
        spots: how many dark spots it has.
        foci: how many of them are foci of tumour.
        found: at how many of the foci the policy has looked.
        answer: its answer: 1 for tumour, 0 for none.
        reading: the reading.
        overlay: the scanpath, where the policy wanted to look first, and what it saw.
        animation: the episode as a GIF.
        video: the episode as an MP4; None where none was asked for.
        report: the page to click through.
        predictions: what `glimpse predict` writes about a folder of images.
        seconds: how long it took.
    """

    slide: Path
    spots: int
    foci: int
    found: int
    answer: int
    reading: CaseReading
    overlay: Path
    animation: Path
    video: Path | None
    report: Path
    predictions: Path
    seconds: float

    @property
    def right(self) -> bool:
        """Whether the answer is right: there is tumour where there are foci."""
        return bool(self.answer) == bool(self.foci)

    @property
    def told(self) -> str:
        """Lines that say what was painted, what was seen, and where to look at it."""
        reading = self.reading
        spots = (
            f"{self.spots} dark spots, {self.foci or 'none'} of them {_plural(self.foci, 'a focus', 'foci')} of tumour"
        )
        said = reading.traced.task.describe(reading.prediction)
        means = f"{'tumour' if self.answer else 'no tumour'} and is {'right' if self.right else 'wrong'}"
        answer = f"{said}, which means {means}, after {reading.glimpses} glimpses"
        found = f"; it looked at {self.found} of {self.foci} foci" if self.foci else ""
        lines = [
            ("Slide", f"{self.slide} ({spots})"),
            ("Answer", f"{answer}, {100 * reading.share_read:.0f} % of the tissue{found}"),
            ("Overlay", self.overlay),
            ("Animation", self.animation),
            *([("Video", self.video)] if self.video is not None else []),
            ("Predictions", f"{self.predictions} (what glimpse predict writes)"),
            ("Report", f"{self.report} (open it in a browser)"),
        ]
        return (
            "\n".join(printable(f"{name + ':':<13}{text}") for name, text in lines) + f"\n{self.seconds:.0f} seconds."
        )


def demo(output: str | os.PathLike[str] = FOLDER, slide: int = 6, video: bool = False) -> Shown:
    """Paints a test slide of the embedded cohort, reads it, and writes pictures, predictions and a report.

    What is there already is not made again. Of several demos in one folder at once, one begins when another has ended.

    Args:
        output: the folder for all of it: new, empty, or of an earlier demo.
        slide: which of the 68 test slides, from 1 on; half of them have no tumour.
        video: whether to write the animation as an MP4, too.

    Raises:
        SettingsError: an argument is impossible.
        MissingExtraError: `video` needs the extra `video`, which is not installed.
        EvaluationError: the folder is not empty and no demo's, the slide in it is damaged, or its predictions are of
            another policy.
        WriteError: a file cannot be written.
    """
    return show(ask(output, slide, video))


def ask(output: str | os.PathLike[str] = FOLDER, slide: int = 6, video: bool = False) -> Asked:
    """Checks what was asked for, and takes the folder (see `demo`)."""
    check_kind("slide", slide, int)
    check_kind("video", video, bool)
    if video:
        check_can_write_video()
    folder, record = folder_for("output", output), _record(slide)
    take(folder, _FACTS)
    return Asked(folder, record, video)


def show(asked: Asked) -> Shown:
    """Does what was asked for (see `demo`)."""
    with Claims(asked.folder / ".claims").awaited("demo"):
        return _shown(asked)


def _shown(asked: Asked) -> Shown:
    began = time.monotonic()
    folder, record, path = asked.folder, asked.record, asked.slide
    _paint(asked)
    agent = load(POLICY)
    try:
        reading = agent.read(path, name=record.id)
    except (ImageReadError, UnsupportedImageError) as error:
        raise EvaluationError(f"{path}: this slide is damaged. Remove it: glimpse demo paints it anew.") from error
    predicted = predict(POLICY, path, folder / "predictions")
    if predicted.done.failed:
        raise EvaluationError(f"{predicted.folder}: the slide failed; failures.csv there says why. Remove the folder.")
    (name,) = file_names([record.id])
    animation, film = folder / f"{record.id}.gif", folder / f"{record.id}.mp4" if asked.video else None
    to_gif(reading, animation)
    if film is not None:
        to_video(reading, film)
    report = write_report(predicted.folder, folder / REPORT).file
    overlay = predicted.folder / "overlays" / f"{name}.png"
    spots = list(regions(record, _SEED, _SIZE))
    foci = [row[2:4] for row in spots if row[1] == _FOCUS]
    return Shown(
        path,
        len(spots),
        len(foci),
        found_of(reading, foci),
        int(reading.traced.task.probabilities(reading.prediction).argmax()),
        reading,
        overlay,
        animation,
        film,
        report,
        predicted.folder,
        time.monotonic() - began,
    )


def found_of(reading: CaseReading, places: Sequence[Sequence[float]]) -> int:
    """Returns how many places (y, x), in level-0 pixels of the file, lie within a glimpse."""
    boxes = [(look.low, look.high) for look in reading.looks]
    return sum(
        any(all(a <= at < b for a, at, b in zip(low, place, high, strict=True)) for low, high in boxes)
        for place in places
    )


def _record(slide: int) -> CaseRecord:
    records = [record for record in plan_cohort(_SLIDES, _SEED) if record.split == "test"]
    if not 1 <= slide <= len(records):
        raise SettingsError(f"slide={slide}: expected the number of a test slide, 1 to {len(records)}.")
    return records[slide - 1]


def _paint(asked: Asked) -> None:
    """Paints the slide, unless it is there."""
    try:
        asked.slide.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(asked.slide.parent, error) from error
    for _ in make_slides(asked.folder, [asked.record], _SEED, _SIZE):
        pass


def _plural(count: int, one: str, several: str) -> str:
    return one if count == 1 else several
