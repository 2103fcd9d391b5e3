"""Makes the pictures of README.md and of the quick start: an episode as a GIF, and a case of a report.

python docs/pictures.py <run folder>

The episode is that of `glimpse demo`; the report is that of a run of `glimpse train env=wsi agent=ppo`. Needs Chromium.
"""

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from PIL import Image

from glimpse.demo.showing import POLICY, demo
from glimpse.pictures.episodes import to_gif
from glimpse.predicting.agent import load

HERE = Path(__file__).resolve().parent
EPISODE, REPORT = HERE / "episode.gif", HERE / "report.jpg"
_WINDOW = (1200, 960)
_HEIGHT = 360  # of the scanpath in the GIF
_CASE, _QUALITY = "page-5", 75


def episode(folder: Path) -> None:
    """Writes the GIF."""
    shown = demo(folder)
    to_gif(load(POLICY).read(shown.slide, name=shown.reading.id), EPISODE, height=_HEIGHT)


def report(run: Path, folder: Path) -> None:
    """Takes a screenshot of a case of a report."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
    if browser is None:
        sys.exit("docs/pictures.py: Chromium is not installed.")
    shot = folder / "report.png"
    size = f"--window-size={_WINDOW[0]},{_WINDOW[1]}"
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=5000"]
    address = f"{(run / 'report.html').resolve().as_uri()}#{_CASE}"
    subprocess.run([browser, *options, size, f"--screenshot={shot}", address], check=True, capture_output=True)
    Image.open(shot).convert("RGB").save(REPORT, quality=_QUALITY, optimize=True)


def main() -> None:
    """Makes both."""
    if len(sys.argv) != 2:
        sys.exit("usage: python docs/pictures.py <run folder>")
    with tempfile.TemporaryDirectory() as folder:
        episode(Path(folder))
        report(Path(sys.argv[1]), Path(folder))
    for path in (EPISODE, REPORT):
        print(f"{path}: {path.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
