"""What is shown as one picture a part, with labels in it: for PNG files."""

from collections.abc import Mapping, Sequence

import numpy as np

from capsnet.runtime.markup import Rgb
from capsnet.runtime.show.drawing import coupling_pictures, strip
from capsnet.runtime.show.results import Shown

__all__ = ["SHEETS", "sheets"]

SHEETS = ("confusions", "reconstructions", "tweaks", "couplings")
"""The parts that can be a picture."""

_TILE = 56  # pixels: images are enlarged to at least that
_LINE = 16  # height of a line of text
_MARGIN = 4


def sheets(shown: Shown) -> Mapping[str, Rgb]:
    """The pictures of the parts that are there, uint8 ``[height, width, 3]``, by name."""
    found = {}
    if "reconstructions" not in shown.missing:
        found["reconstructions"] = _reconstructions(shown)
    if shown.tweaks:
        found["tweaks"] = _tweaks(shown)
    if shown.couplings:
        found["couplings"] = _couplings(shown)
    if shown.counts is not None:
        found["confusions"] = _confusions(shown)
    return found


def _reconstructions(shown: Shown) -> Rgb:
    pairs = [
        (f"{shown.names[e.predicted]}  {e.index}", _enlarged(strip([e.image, e.reconstruction])))
        for e in shown.examples
        if e.reconstruction is not None
    ]
    return _stacked([pairs[at : at + 4] for at in range(0, len(pairs), 4)])


def _tweaks(shown: Shown) -> Rgb:
    """For each class a block: a row for each value, a column for each step."""
    steps = f"{shown.steps[0]:+.2f} to {shown.steps[-1]:+.2f}"
    blocks = [
        (
            f"{shown.names[tweaks.example.predicted]}  {tweaks.example.index}: {steps}",
            np.concatenate([strip(images) for images in tweaks.images]),
        )
        for tweaks in shown.tweaks
    ]
    return _stacked([blocks[at : at + 5] for at in range(0, len(blocks), 5)])


def _couplings(shown: Shown) -> Rgb:
    return _stacked(
        [
            [
                (f"{shown.names[c.example.predicted]}  {c.example.index}, iteration {n}", picture)
                for n, picture in enumerate(coupling_pictures(shown, c), start=1)
            ]
            for c in shown.couplings
        ]
    )


def _confusions(shown: Shown) -> Rgb:
    """Counts as cells, white for none: rows are true classes, columns the predicted ones."""
    from PIL import Image, ImageDraw

    assert shown.counts is not None
    counts, side, left = shown.counts, 44, 100
    size = left + side * len(counts)
    image = Image.new("RGB", (size, size - left + _LINE + _MARGIN), "white")
    draw = ImageDraw.Draw(image)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    for true, found in np.ndindex(*counts.shape):
        x, y = left + side * found, _LINE + _MARGIN + side * true
        faded = round(255 * (1 - 0.5 * float(shares[true, found]) ** 0.5))
        shade = (faded, 255, faded) if true == found else (255, faded, faded)
        draw.rectangle((x, y, x + side - 1, y + side - 1), fill=shade, outline=(210, 210, 210))
        if counts[true, found]:
            draw.text((x + 6, y + side // 3), str(counts[true, found]), fill="black")
    for number, name in enumerate(shown.names):
        draw.text((left + side * number + 6, 2), _written(name[:6]), fill="black")
        draw.text(
            (4, _LINE + _MARGIN + side * number + side // 3), _written(name[:14]), fill="black"
        )
    return np.asarray(image)


def _written(name: str) -> str:
    """What any font that pillow comes with can draw."""
    return name.encode("latin-1", "replace").decode("latin-1")


def _enlarged(picture: Rgb) -> Rgb:
    times = max(1, -(-_TILE // picture.shape[0]))
    return picture.repeat(times, axis=0).repeat(times, axis=1)


def _stacked(rows: Sequence[Sequence[tuple[str, Rgb]]]) -> Rgb:
    """Rows of named pictures, each with its name above it, on white."""
    from PIL import Image, ImageDraw

    def width(row: Sequence[tuple[str, Rgb]]) -> int:
        return sum(picture.shape[1] + _MARGIN for _, picture in row)

    heights = [max(picture.shape[0] for _, picture in row) + _LINE + _MARGIN for row in rows]
    image = Image.new("RGB", (max(map(width, rows)) + _MARGIN, sum(heights) + _MARGIN), "white")
    draw, top = ImageDraw.Draw(image), _MARGIN
    for row, height in zip(rows, heights, strict=True):
        left = _MARGIN
        for name, picture in row:
            draw.text((left, top), _written(name), fill="black")
            image.paste(Image.fromarray(picture), (left, top + _LINE))
            left += picture.shape[1] + _MARGIN
        top += height
    return np.asarray(image)
