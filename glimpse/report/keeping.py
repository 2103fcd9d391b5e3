"""What pictures and pages of a report need of the agent's own readings, whose numbers are reported."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from PIL import Image

from glimpse.atomic import replacing, write_atomically
from glimpse.cohort import Case
from glimpse.pictures.cohort import BEST_AND_WORST, TELLING, best_and_worst, telling_glimpses
from glimpse.pictures.episodes import scanpath_picture
from glimpse.pictures.pages import PAGES, page_record, page_text
from glimpse.ranks.group import everyones
from glimpse.ranks.sharing import share_of
from glimpse.reading.calibration import calibrated
from glimpse.reading.readers import PolicyReader
from glimpse.reading.records import Reading
from glimpse.reading.standing_out import TellingLook, candidates, outermost
from glimpse.runs.file_names import file_names


class Kept:
    """Keeps what pictures and pages need of the agent's own readings.

    Args:
        pictures: of how many readings the traces are kept, to draw them in the end. If it is above 0, those of the few
            cases that were answered best and worst are kept, too, and the most and least telling glimpses.
        pages: of how many readings records are made, which are a hundredth as large as traces.
    """

    def __init__(self, pictures: int, pages: int) -> None:
        self._pictures, self._pages = pictures, pages
        self._names: list[str] = []
        self._drawn: list[Reading] = []
        self._records: list[str] = []
        self._outermost: list[Reading] = []
        self._looks: list[TellingLook] = []

    def of(self, reader: PolicyReader, cases: Sequence[Case], temperature: float | None) -> list[Reading]:
        """Reads the cases; the readings have no traces any more, and are not calibrated as pictures are.

        Processes that train together all call it; each reads its share.
        """
        self._names = file_names([case.id for case in cases])
        share = share_of(len(cases))
        part = range(share.start, share.stop)
        read = zip(part, reader.each(cases, trace=True, part=part), strict=True)
        own = [self._seen(number, one, calibrated(one, temperature), cases[number]) for number, one in read]
        found = everyones(own)
        self._drawn = [drawn for _, drawn, _ in found if drawn is not None]
        self._records = [record for _, _, record in found if record is not None]
        looks: list[TellingLook] = everyones(self._looks)
        self._outermost, self._looks = outermost(everyones(self._outermost)), candidates(looks)
        return [reading for reading, _, _ in found]

    def _seen(
        self, number: int, reading: Reading, shown: Reading, case: Case
    ) -> tuple[Reading, Reading | None, str | None]:
        """Returns a reading without its trace, and what is kept of it for its picture and its page."""
        record = page_text(page_record([shown], tuple(case.source.offset))) if number < self._pages else None
        if self._pictures:
            self._outermost, self._looks = outermost([*self._outermost, shown]), candidates([*self._looks, shown])
        return replace(reading, trace=None), shown if number < self._pictures else None, record

    def write(self, folder: Path) -> None:
        """Writes pictures and records, each under the name of its case.

        Raises:
            WriteError: a file cannot be written.
        """
        for name, record in zip(self._names, self._records, strict=False):
            path = folder / PAGES / f"{name}.json"
            with suppress(OSError):  # which is told when the file is written
                path.parent.mkdir(exist_ok=True)
            write_atomically(path, record)
        for name, reading in zip(self._names, self._drawn, strict=False):
            with replacing(folder / "scanpaths" / f"{name}.png") as unfinished:
                unfinished.parent.mkdir(exist_ok=True)
                Image.fromarray(scanpath_picture(reading)).save(unfinished, "PNG")
        sheets = {
            BEST_AND_WORST: best_and_worst(self._outermost) if self._outermost else None,
            TELLING: telling_glimpses(self._looks) if self._looks else None,
        }
        for name, sheet in sheets.items():
            if sheet is None:
                (folder / name).unlink(missing_ok=True)  # of an earlier report
            else:
                sheet.save(folder / name)
