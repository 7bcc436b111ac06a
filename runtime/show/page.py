"""What a network sees, as one self-contained web page."""

from collections.abc import Callable, Mapping

import numpy as np

from capsnet.errors import counted
from capsnet.runtime.markup import document, figure, fold, picture, table, text, tiles
from capsnet.runtime.show.drawing import coupling_pictures, strip
from capsnet.runtime.show.results import Example, Shown

__all__ = ["render"]

_STYLE = """
.pair { display: grid; grid-template-columns: repeat(auto-fill, minmax(8.2rem, 1fr)); gap: .6rem; }
.pair .pictures img { width: 3.2rem; }
.steps { min-width: 24rem; max-width: 46rem; }
.steps > div { display: grid; grid-template-columns: 4.2rem 1fr; align-items: center; }
.steps img { width: 100%; }
.steps .heads { display: grid; grid-template-columns: repeat(auto-fit, minmax(0, 1fr));
  grid-auto-flow: column; grid-auto-columns: 1fr; font-size: .7rem; text-align: center; }
.maps { grid-template-columns: repeat(auto-fill, minmax(min(100%, 24rem), 1fr)); }
.maps .pictures { flex-wrap: nowrap; } .maps .pictures > div { flex: 1; }
.maps .pictures img { width: 100%; }
.confusion td, .confusion th { padding: .15rem .3rem; text-align: center; min-width: 1.1rem; }
@media (max-width: 34rem) { .confusion table { font-size: .75rem; }
  .confusion td, .confusion th { padding: .15rem; min-width: .9rem; }
  .steps { font-size: .8rem; min-width: 0; } .steps .heads { font-size: .55rem; } }
.more { color: #d62728; } .less { color: #1f77c8; }
"""


def render(shown: Shown) -> str:
    """The page.

    Args:
        shown: what was collected.

    Returns:
        HTML.
    """
    parts: Mapping[str, tuple[str, Callable[[Shown], str]]] = {
        "confusions": ("What it takes for what", _confusions),
        "reconstructions": ("Reconstructions beside the images", _reconstructions),
        "tweaks": ("What the values of a capsule stand for", _tweaks),
        "couplings": ("Where the class capsules look", _couplings),
    }
    body = [_head(shown)]
    if "classes" in shown.missing:
        body.append(f"<p class=note>Classes: {text(shown.missing['classes'])}.</p>")
    for name, (title, draw) in parts.items():
        drawn = draw(shown) if name not in shown.missing else _reason(shown.missing[name])
        body.append(f"<section id={name}><h2>{title}</h2>{drawn}</section>")
    return document(f"{shown.network}: what it sees", "".join(body), _STYLE)


def _reason(why: str) -> str:
    return f"<p class=note>Not shown: {text(why)}.</p>"


def _head(shown: Shown) -> str:
    of = "" if shown.total == shown.images else f"of {shown.total:,}, "
    facts = [
        ("images", f"{shown.images:,}", f"{of}{shown.source}"),
        ("classes", str(len(shown.names)), "a capsule each"),
    ]
    if shown.right is not None:
        wrong = shown.images - shown.right
        facts.append(("classified right", f"{shown.right / shown.images:.2%}", f"{wrong:,} wrong"))
    return (
        f"<header><h1>{text(shown.network)}</h1>{tiles(facts)}</header>"
        f"<p class=note>Images are numbered as in {text(shown.source)}, from 0.</p>"
    )


def _reconstructions(shown: Shown) -> str:
    drawn = "".join(_pair(shown, example) for example in shown.examples)
    return (
        "<p class=note>Left the image, right what the decoder makes of the longest class capsule."
        f"</p><div class=pair>{drawn}</div>"
    )


def _pair(shown: Shown, example: Example) -> str:
    pictures = [(picture(example.image, f"image {example.index}"), "")]
    if example.reconstruction is not None:
        pictures.append((picture(example.reconstruction, "its reconstruction"), ""))
    return figure(pictures, f"{_class(shown, example)}<br>image {example.index}")


def _class(shown: Shown, example: Example) -> str:
    """The class, and the true one where it is another; how long the capsules are."""
    found, length = shown.names[example.predicted], example.lengths[example.predicted]
    if example.label is None or example.label == example.predicted:
        return f"<b>{text(found)}</b> {length:.2f}"
    true = shown.names[example.label]
    return (
        f"<b>{text(true)}</b> {example.lengths[example.label]:.2f}, "
        f"taken for <b>{text(found)}</b> {length:.2f}"
    )


def _tweaks(shown: Shown) -> str:
    heads = "".join(f"<span>{step:+.2f}</span>" for step in shown.steps)
    parts = []
    for number, tweaks in enumerate(shown.tweaks):
        name = text(shown.names[tweaks.example.predicted])
        rows = "".join(
            f"<div>value {value}{picture(strip(images), f'{name}, value {value}')}</div>"
            for value, images in enumerate(tweaks.images, start=1)
        )
        grid = f"<div class=scroll><div class=steps><div><span></span><div class=heads>{heads}"
        parts.append(
            fold(
                f"<b>{name}</b>, from image {tweaks.example.index}",
                f"{grid}</div></div>{rows}</div></div>",
                opened=number == 0,
            )
        )
    return (
        "<p>Each row changes one value of the class capsule of an image, by as much as its column "
        "says, and decodes the result (arXiv:1710.09829, figure 4). The middle column is the "
        f"reconstruction as it is.</p>{''.join(parts)}"
    )


def _couplings(shown: Shown) -> str:
    assert shown.places is not None
    uniform, (height, width) = 1 / len(shown.names), shown.places.field
    drawn = []
    for couplings in shown.couplings:
        example = couplings.example
        pictures = [
            (
                picture(drawn_map, f"iteration {n}"),
                f"iteration {n}<br>{values.min():.3f} to {values.max():.3f}",
            )
            for n, (drawn_map, values) in enumerate(
                zip(coupling_pictures(shown, couplings), couplings.maps, strict=True), start=1
            )
        ]
        caption = f"{_class(shown, example)}, image {example.index}"
        drawn.append(figure(pictures, caption))
    rows, columns = couplings.maps.shape[1:]
    return (
        f"<p>How strongly each of the {rows}x{columns} positions is coupled to the capsule of the "
        "class, in each iteration of routing: the mean over the capsules of a position. "
        "<span class=more>Red</span> is more than the uniform "
        f"{uniform:.3f} that routing starts with, <span class=less>blue</span> less; the colour is "
        "full at the largest difference of an image. A position sees "
        f"{height}x{width} pixels, and is drawn at their middle.</p>"
        f"<div class='images maps'>{''.join(drawn)}</div>"
    )


def _confusions(shown: Shown) -> str:
    assert shown.counts is not None
    names = shown.names
    rows = [
        (
            f"{text(names[pair.label])} taken for {text(names[pair.predicted])}",
            f"{pair.count:,}",
            ", ".join(map(str, pair.indices)) + (", ..." * (pair.count > len(pair.indices))),
        )
        for pair in shown.confusions
    ]
    parts = [_matrix(shown)]
    if rows:
        parts.append(f"<h3>The worst confusions</h3>{table(('', 'count', 'images'), rows)}")
        drawn = "".join(_pair(shown, example) for example in shown.mistakes)
        parts.append(
            f"<h3>The surest mistakes</h3><p class=note>Image"
            f"{' and reconstruction' * ('reconstructions' not in shown.missing)}, the true class "
            "and the one that it was taken for, with the lengths of their capsules.</p>"
            f"<div class=pair>{drawn}</div>"
        )
    else:
        parts.append(f"<p>All {counted(shown.images, 'image')} are right.</p>")
    return "".join(parts)


def _matrix(shown: Shown) -> str:
    """The confusion matrix, with the accuracy of each class at the end of its row."""
    assert shown.counts is not None
    counts = shown.counts
    totals = counts.sum(axis=1)
    shares = counts / np.maximum(totals, 1)[:, None]
    rows = []
    for true, name in enumerate(shown.names):
        cells = [
            f"<td style='background:{_shade(shares[true, found], true == found)}'>"
            f"{counts[true, found] or ''}"
            for found in range(len(shown.names))
        ]
        right = f"{shares[true, true]:.1%}" if totals[true] else "-"
        rows.append(f"<tr><th>{text(name)}{''.join(cells)}<td>{right}<td>{totals[true]:,}")
    heads = "".join(f"<th>{text(name)}" for name in shown.names)
    return (
        "<p class=note>Rows: the true class; columns: the class with the longest capsule.</p>"
        f"<div class='scroll confusion'><table><tr><th>{heads}<th>right<th>of{''.join(rows)}"
        "</table></div>"
    )


def _shade(share: float, right: bool) -> str:
    """Green on the diagonal, red beside it; small shares of mistakes are seen, too."""
    colour = "46,125,50" if right else "198,40,40"
    strength = 0.45 * share if right else 0.7 * share**0.5
    return f"rgba({colour},{strength:.2f})"
