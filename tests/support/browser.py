"""Pages in a browser, where there is one: what they measure there."""

import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest

__all__ = ["Layout", "layout_of", "needs_browser"]

BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)

needs_browser = pytest.mark.skipif(not BROWSER, reason="no Chromium on this machine")

# The browser fills in the title.
_MEASURE = """<script>onload = () => { const images = [...document.images];
document.title = [innerWidth, document.documentElement.scrollWidth,
  images.filter(i => i.complete && i.naturalWidth > 0).length,
  Math.ceil(document.querySelector("header").getBoundingClientRect().bottom)].join(" ")
}</script>"""


@dataclass(frozen=True)
class Layout:
    """A page as it was laid out, in pixels.

    Attributes:
        window: its width.
        page: how wide the page became.
        pictures: how many could be drawn.
        header: where the first one ends.
    """

    window: int
    page: int
    pictures: int
    header: int


def layout_of(page: str, folder: Path, width: int) -> Layout:
    """Lay a page out in a window; browsers have a least width for theirs, up to 500 pixels."""
    file = folder / "page.html"
    file.write_text(page + _MEASURE, encoding="utf-8")
    found = subprocess.run(
        [
            BROWSER,
            *("--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={folder / 'p'}"),
            *(f"--window-size={width},900", "--virtual-time-budget=2000", "--dump-dom"),
            file.as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    layout = Layout(*map(int, re.search(r"<title>([\d ]+)</title>", found.stdout)[1].split()))
    assert layout.window <= max(width, 500)
    return layout
