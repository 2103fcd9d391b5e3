"""Pages in a headless browser, for tests of reports."""

import html
import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
in_a_browser = pytest.mark.skipif(BROWSER is None, reason="no chromium and no google-chrome is installed")


def opened(address: str, *further: str) -> subprocess.CompletedProcess[str]:
    """What a browser prints of a page: in the end the document, and with logging on what its console says."""
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=5000", "--dump-dom"]
    return subprocess.run([str(BROWSER), *options, *further, address], capture_output=True, text=True, timeout=120)


def dumped(address: str, *further: str) -> str:
    """The page as a browser has it in the end."""
    return opened(address, *further).stdout


def said_in(page: str) -> Any:
    """What a script has written into the element `said` of a page, as JSON."""
    found = re.search(r'<pre id="said">(.*?)</pre>', page, re.DOTALL)
    assert found is not None and found[1], page[-2000:]
    return json.loads(html.unescape(found[1]))


def console(address: str) -> list[str]:
    """What the console of a browser says of a page."""
    said = opened(address, "--enable-logging=stderr", "--v=0").stderr
    return [line for line in said.splitlines() if "CONSOLE" in line]


def in_frames(page: str, script: str, frames: Sequence[tuple[int, str]], folder: Path, early: str = "") -> list[Any]:
    """What a script tells of a page in frames; windows of browsers without a screen have a least width.

    Args:
        page: the document; what forbids scripts that are not its own is taken away.
        script: a script that hands a value to `tell`, once the page has loaded.
        frames: of each frame its width in pixels, and the end of the page's address, such as "#page-0".
        folder: where to write the page.
        early: a script that runs before the page's own.
    """
    text = re.sub(r"<meta http-equiv=[^>]*>", "", page)
    teller = "const tell = (value) => parent.postMessage(value, '*');"
    head, rest = text.split("<body>", 1)
    body, end = rest.rsplit("</body>", 1)
    waiting = f"<script>{teller} addEventListener('load', async () => {{ {script} }});</script>"
    (folder / "framed.html").write_text(f"{head}<body><script>{early}</script>{body}{waiting}</body>{end}")
    listening = """
        const told = [];
        onmessage = (event) => {
          const frames = [...document.querySelectorAll("iframe")];
          told[frames.findIndex((one) => one.contentWindow === event.source)] = event.data;
          if (frames.every((_, place) => told[place] !== undefined)) {
            document.getElementById("said").textContent = JSON.stringify(told);
          }
        };
    """
    shown = "".join(
        f'<iframe width="{width}" height="900" style="border: 0" src="framed.html{place}"></iframe>'
        for width, place in frames
    )
    document = f'<!DOCTYPE html><pre id="said"></pre><script>{listening}</script>{shown}'
    (folder / "frame.html").write_text(document)
    return list(said_in(dumped((folder / "frame.html").as_uri(), "--window-size=1600,1000")))


def in_a_frame(page: str, script: str, width: int, folder: Path, place: str = "", early: str = "") -> Any:
    """What a script tells of a page in one frame (see `in_frames`)."""
    (said,) = in_frames(page, script, [(width, place)], folder, early)
    return said
