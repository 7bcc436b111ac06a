"""What the HTML pages share: their style, tables, folds and pictures. No script, no network."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

__all__ = [
    "document",
    "figure",
    "fold",
    "mark",
    "picture",
    "png",
    "table",
    "text",
    "tiles",
    "to_rgb",
]

Rgb = npt.NDArray[np.uint8]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --soft: #8882; --bad: #c62828; --good: #2e7d32;
  --own: #9e9e9e; --artifact: #1565c0; }
@media (prefers-color-scheme: dark) { :root { --bad: #ef6c6c; --good: #66bb6a;
  --artifact: #64a6f0; } }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 62rem;
  overflow-wrap: anywhere; }
h1 { font-size: 1.3rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .3rem; }
p { margin: .3rem 0; max-width: 46rem; }
.pass { color: var(--good); } .fail { color: var(--bad); }
header { border: 1px solid var(--line); border-left: .4rem solid; border-radius: .4rem;
  padding: .8rem 1rem; margin: 1rem 0; }
header:not([class]) { border-left-color: var(--artifact); }
header.pass { border-left-color: var(--good); } header.fail { border-left-color: var(--bad); }
header.pass > *, header.fail > * { color: CanvasText; }
header .verdict { font-size: 1.15rem; font-weight: 600; text-wrap: balance; }
header.pass .verdict { color: var(--good); } header.fail .verdict { color: var(--bad); }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(9rem, 1fr)); gap: .6rem;
  margin-top: .8rem; }
.tiles > div { background: var(--soft); border-radius: .3rem; padding: .3rem .6rem; }
.tiles b { display: block; font-size: 1.1rem; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; margin: .4rem 0; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
@media (max-width: 34rem) { table { font-size: .85rem; } th, td { padding: .2rem .3rem; } }
summary { cursor: pointer; padding: .3rem 0; }
svg { width: 100%; height: auto; display: block; }
.two { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr));
  gap: 0 1.5rem; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 15rem), 1fr));
  gap: .8rem; margin-top: .5rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .4rem; margin-bottom: .4rem; }
.pictures > div { font-size: .75rem; text-align: center; }
img { image-rendering: pixelated; display: block; }
.pictures img { width: 5.5rem; background: #000; }
figcaption, .note { font-size: .85rem; }
"""


def document(title: str, body: str, style: str = "") -> str:
    """A page.

    Args:
        title: plain text.
        body: HTML.
        style: CSS of its own, after what all pages have.

    Returns:
        HTML, complete in itself.
    """
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>{text(title)}</title><style>{_STYLE}{style}</style>{body}</html>\n"
    )


def text(value: object) -> str:
    """Plain text as HTML."""
    return html.escape(str(value))


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls where the screen is too narrow; all cells are HTML."""
    head = "".join(f"<th>{cell}" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"


def tiles(facts: Sequence[tuple[str, str, str]]) -> str:
    """Small boxes: what it is, its value, and a note on it; plain text."""
    boxes = "".join(
        f"<div>{text(name)}<b>{text(value)}</b><span class=note>{text(note)}</span></div>"
        for name, value, note in facts
    )
    return f"<div class=tiles>{boxes}</div>"


def fold(summary: str, body: str, *, opened: bool = False) -> str:
    """A part that is seen when it is asked for; both are HTML."""
    return f"<details{' open' * opened}><summary>{summary}</summary>{body}</details>"


def mark(passed: bool) -> str:
    """A verdict in a table's cell."""
    return "<span class=pass>pass</span>" if passed else "<span class=fail>FAIL</span>"


def figure(pictures: Sequence[tuple[str, str]], caption: str) -> str:
    """Pictures side by side, each with its name below, and a caption; all HTML."""
    drawn = "".join(f"<div>{image}{name}</div>" for image, name in pictures)
    return f"<figure><div class=pictures>{drawn}</div><figcaption>{caption}</figcaption></figure>"


def picture(image: npt.ArrayLike, name: str) -> str:
    """An image element that holds its data.

    Args:
        image: as of :func:`to_rgb`.
        name: said in place of the image where it cannot be seen; plain text.
    """
    data = base64.b64encode(png(to_rgb(image))).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{text(name)}">'


def to_rgb(image: npt.ArrayLike) -> Rgb:
    """An image as uint8 ``[height, width, 3]``.

    Args:
        image: ``[channels, height, width]``, values 0..1: of three channels in colour, else the
            first of them in grey; or what is uint8 already.
    """
    array = np.asarray(image)
    if array.dtype == np.uint8:
        return array
    shown = array[:3] if len(array) >= 3 else np.repeat(array[:1], 3, axis=0)
    values: Rgb = np.clip(np.moveaxis(shown, 0, -1) * 255, 0, 255).round().astype(np.uint8)
    return values


def png(image: Rgb) -> bytes:
    """The bytes of a PNG file: grey where the image ``[height, width, 3]`` has no colour."""
    from PIL import Image  # slow to import, and needed for nothing but pages

    grey = bool((image == image[..., :1]).all())
    file = io.BytesIO()
    Image.fromarray(image[..., 0] if grey else image).save(file, "PNG", optimize=True)
    return file.getvalue()
