"""Verification as one self-contained web page: no script, no network, readable on a telephone."""

import base64
import html
import io
from collections.abc import Sequence
from typing import Any

import numpy as np

from capsnet.errors import DataError

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; --own: #9e9e9e;
  --it: #1565c0; }
body { font: 15px/1.5 system-ui, sans-serif; margin: 0 auto; padding: 1rem; max-width: 60rem; }
h1 { font-size: 1.4rem; } h2 { font-size: 1.1rem; margin-top: 2rem; }
.pass { color: var(--good); } .fail { color: var(--bad); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; white-space: nowrap; }
th, td { padding: .2rem .6rem; border-bottom: 1px solid var(--line); text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { max-width: 100%; height: auto; display: block; }
.images { display: grid; grid-template-columns: repeat(auto-fill, minmax(16rem, 1fr)); gap: 1rem; }
figure { margin: 0; border: 1px solid var(--line); border-radius: .4rem; padding: .6rem; }
figure img { width: 5.5rem; image-rendering: pixelated; background: #000; }
figcaption, .note { font-size: .85rem; overflow-wrap: anywhere; }
"""


def render(documents: Sequence[dict[str, Any]]) -> str:
    """The page for one or more verified artifacts.

    Args:
        documents: what ``verification.verify`` returned for requests with ``details``.

    Returns:
        HTML.

    Raises:
        DataError: if Pillow is not installed.
    """
    body = "".join(_artifact(document) for document in documents)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>CapsNet parity report</title><style>{_STYLE}</style>{body}</html>\n"
    )


def _artifact(document: dict[str, Any]) -> str:
    artifact, parity = document["artifact"], document["parity"]
    passed = document["verdict"] == "pass"
    verdict = "computes the same numbers" if passed else "computes WRONG numbers"
    accuracy = parity["accuracy"] or {}
    facts = [
        f"{artifact['format']}, {artifact['bytes'] / 1e6:.1f} MB, SHA-256 {artifact['sha256']}",
        f"run on {document['device']}: "
        + ", ".join(f"{count} nodes on {name}" for name, count in document["providers"].items()),
        f"{parity['images']} images ({document['images']['source']}), class agreement "
        f"{parity['agreement']:.2%}, {len(parity['flips'])} flips",
        *(f"accuracy of the {who}: {value:.2%}" for who, value in accuracy.items()),
        "environment: " + ", ".join(f"{k} {v}" for k, v in document["environment"].items()),
    ]
    failures = [*parity["failures"], *(f for h in document["hard_inputs"] for f in h["failures"])]
    parts = [
        f"<h1>{_text(artifact['file'])} "
        f"<span class={'pass' if passed else 'fail'}>{verdict}</span></h1>",
        "<ul>" + "".join(f"<li class=note>{_text(fact)}" for fact in facts) + "</ul>",
    ]
    if failures:
        items = "".join(f"<li>{_text(failure)}" for failure in failures)
        parts.append(f"<h2 class=fail>What is wrong</h2><ul>{items}</ul>")
    parts += ["<h2>Errors against the float64 model</h2>", _checks(parity)]
    parts += ["<h2>Hard inputs</h2>", _hard_inputs(document["hard_inputs"])]
    if "details" in document:
        for name, histogram in document["details"]["histograms"].items():
            parts.append(f"<h2>Errors of {_text(name)}</h2>{_histogram(histogram)}")
        figures = "".join(_figure(image) for image in document["details"]["worst"])
        parts.append(f"<h2>Worst images</h2><div class=images>{figures}</div>")
    return "".join(parts)


def _checks(parity: dict[str, Any]) -> str:
    rows = [
        (
            check["output"],
            str(check["batch_size"]),
            *(f"{check['errors'][key]:.2e}" for key in ("max", "p99", "rms")),
            f"{parity['baseline'][check['output']]['max']:.2e}",
            f"{check['allowed']['max']:.2e}",
            f"{check['errors']['cosine']:.9f}",
            _verdict(check["passed"]),
        )
        for check in parity["checks"]
    ]
    heads = ("output", "batch", "max", "p99", "RMS", "eager's max", "allowed", "cosine", "")
    return _table(heads, rows)


def _hard_inputs(results: Sequence[dict[str, Any]]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2e}"

    rows = [
        (
            _text(result["name"]),
            str(result["images"]),
            number(result["max_error"]),
            number(result["allowed"]),
            _verdict(not result["failures"]),
        )
        for result in results
    ]
    return _table(("input", "images", "max error", "allowed", ""), rows)


def _histogram(histogram: dict[str, Any]) -> str:
    """Bars of the artifact's errors over those of the eager float32 model."""
    width, height, base = 640, 150, 120
    edges = histogram["edges"]
    step = width / (len(edges) - 1)
    highest = max(*histogram["baseline"], *histogram["candidate"], 1)
    bars = []
    for offset, key, colour in ((0.05, "baseline", "--own"), (0.5, "candidate", "--it")):
        for index, count in enumerate(histogram[key]):
            bar = base * count / highest
            bars.append(
                f'<rect x="{(index + offset) * step:.1f}" y="{base - bar:.1f}" '
                f'width="{0.45 * step:.1f}" height="{bar:.1f}" fill="var({colour})">'
                f"<title>{key}: {count}</title></rect>"
            )
    ticks = "".join(
        f'<text x="{index * step:.1f}" y="{base + 18}" font-size="11" fill="currentColor" '
        f'text-anchor="middle">1e{edge:.0f}</text>'
        for index, edge in enumerate(edges)
        if edge == int(edge) and 0 < index < len(edges) - 1
    )
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(bars)}{ticks}</svg>'
        "<div class=note>absolute error of an element; "
        "grey: eager float32 model, blue: artifact</div>"
    )


def _figure(image: dict[str, Any]) -> str:
    longest = sorted(range(len(image["golden"])), key=lambda c: -image["golden"][c])[:3]
    rows = [
        (str(label), f"{image['golden'][label]:.6f}", f"{image['candidate'][label]:.6f}")
        for label in longest
    ]
    pictures = _image(image["pixels"], "image")
    if image["reconstruction"] is not None:
        pictures += " " + _image(image["reconstruction"], "reconstruction")
    return (
        f"<figure>{pictures}<figcaption>image {image['index']}, error {image['error']:.2e}"
        f"{_table(('class', 'float64', 'artifact'), rows)}</figcaption></figure>"
    )


def _image(pixels: Any, alternative: str) -> str:
    try:
        from PIL import Image
    except ImportError as error:
        raise DataError(
            'the report draws images with Pillow: pip install "capsnet-export[images]"'
        ) from error
    array = np.clip(np.array(pixels) * 255, 0, 255).round().astype(np.uint8)
    shown = array[0] if len(array) == 1 else np.moveaxis(array[:3], 0, -1)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{alternative}">'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"


def _verdict(passed: bool) -> str:
    return "<span class=pass>pass</span>" if passed else "<span class=fail>FAIL</span>"


def _text(value: object) -> str:
    return html.escape(str(value))
