"""Verification as one self-contained web page: no script, no network, readable on a telephone."""

import base64
import html
import io
from collections.abc import Sequence

import numpy as np

from capsnet.runtime.proof.results import (
    Certificate,
    Details,
    HardInput,
    Histogram,
    ParityResult,
    Pixels,
    Proof,
    WorstImage,
)

__all__ = ["render"]

_STYLE = """
:root { color-scheme: light dark; --line: #8884; --bad: #c62828; --good: #2e7d32; --own: #9e9e9e;
  --artifact: #1565c0; }
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


def render(proofs: Sequence[Proof]) -> str:
    """The page for one or more verified artifacts.

    Args:
        proofs: of the artifacts; those with details are drawn.

    Returns:
        HTML.
    """
    body = "".join(_artifact(proof) for proof in proofs)
    return (
        "<!doctype html><html lang=en><meta charset=utf-8>"
        '<meta name=viewport content="width=device-width, initial-scale=1">'
        f"<title>CapsNet parity report</title><style>{_STYLE}</style>{body}</html>\n"
    )


def _artifact(proof: Proof) -> str:
    certificate = proof.certificate
    parity = certificate.parity
    verdict = "computes the same numbers" if certificate.passed else "computes WRONG numbers"
    parts = [
        f"<h1>{_text(certificate.artifact.file)} "
        f"<span class={certificate.verdict}>{verdict}</span></h1>",
        f"<ul>{''.join(f'<li class=note>{_text(fact)}' for fact in _facts(certificate))}</ul>",
    ]
    if certificate.failures:
        items = "".join(f"<li>{_text(failure)}" for failure in certificate.failures)
        parts.append(f"<h2 class=fail>What is wrong</h2><ul>{items}</ul>")
    parts += ["<h2>Errors against the float64 model</h2>", _checks(parity)]
    parts += ["<h2>Hard inputs</h2>", _hard_inputs(certificate.hard_inputs)]
    if proof.details is not None:
        parts.append(_details(proof.details))
    return "".join(parts)


def _facts(certificate: Certificate) -> list[str]:
    artifact, parity = certificate.artifact, certificate.parity
    compared = f"{parity.images} images ({certificate.images.source})"
    if parity.agreement is not None:
        compared += f", class agreement {parity.agreement:.2%}, {len(parity.flips)} flips"
    facts = [
        f"{artifact.format}, {artifact.bytes / 1e6:.1f} MB, SHA-256 {artifact.sha256}",
        f"run on {certificate.device}: "
        + ", ".join(f"{count} nodes on {name}" for name, count in certificate.providers.items()),
        compared,
    ]
    if parity.accuracy is not None:
        facts += [
            f"accuracy of the float64 model: {parity.accuracy.golden:.2%}",
            f"accuracy of the eager float32 model: {parity.accuracy.baseline:.2%}",
            f"accuracy of the artifact: {parity.accuracy.candidate:.2%}",
        ]
    facts += parity.not_judged
    versions = ", ".join(f"{name} {version}" for name, version in certificate.environment.items())
    return [*facts, f"environment: {versions}"]


def _checks(parity: ParityResult) -> str:
    rows = [
        (
            _text(check.output),
            str(check.batch_size),
            str(check.images),
            *(f"{error:.2e}" for error in (check.errors.max, check.errors.p99, check.errors.rms)),
            f"{parity.baseline[check.output].max:.2e}",
            f"{check.allowed['max']:.2e}",
            f"{check.used:.0%}",
            f"{check.errors.cosine:.9f}",
            _verdict(check.passed),
        )
        for check in parity.checks
    ]
    errors = ("max", "p99", "RMS", "eager's max", "max allowed", "budget used", "cosine", "")
    heads = ("output", "batch", "images", *errors)
    return _table(heads, rows)


def _hard_inputs(results: Sequence[HardInput]) -> str:
    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2e}"

    rows = [
        (
            _text(result.name),
            str(result.images),
            number(result.max_error),
            number(result.allowed),
            _verdict(result.passed),
        )
        for result in results
    ]
    return _table(("input", "images", "max error", "allowed", ""), rows)


def _details(details: Details) -> str:
    histograms = "".join(
        f"<h2>Errors of {_text(name)}</h2>{_histogram(histogram)}"
        for name, histogram in details.histograms.items()
    )
    figures = "".join(_figure(image) for image in details.worst)
    return f"{histograms}<h2>Worst images</h2><div class=images>{figures}</div>"


def _histogram(histogram: Histogram) -> str:
    """Bars of the artifact's errors over those of the eager float32 model."""
    width, height, base = 640, 150, 120
    edges = histogram.edges
    step = width / (len(edges) - 1)
    highest = max(*histogram.baseline, *histogram.artifact, 1)
    bars = []
    for offset, name, counts, colour in (
        (0.05, "baseline", histogram.baseline, "--own"),
        (0.5, "artifact", histogram.artifact, "--artifact"),
    ):
        for index, count in enumerate(counts):
            bar = base * count / highest
            bars.append(
                f'<rect x="{(index + offset) * step:.1f}" y="{base - bar:.1f}" '
                f'width="{0.45 * step:.1f}" height="{bar:.1f}" fill="var({colour})">'
                f"<title>{name}: {count}</title></rect>"
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


def _figure(image: WorstImage) -> str:
    largest = sorted(range(len(image.golden)), key=lambda label: -image.golden[label])[:3]
    rows = [
        (str(label), f"{image.golden[label]:.6f}", f"{image.artifact[label]:.6f}")
        for label in largest
    ]
    scores = _table(("class", "float64", "artifact"), rows) if rows else ""
    pictures = {"image": image.pixels, **image.pictures}
    drawn = " ".join(_image(pixels, name) for name, pixels in pictures.items())
    return (
        f"<figure>{drawn}<figcaption>image {image.index}, error {image.error:.2e}{scores}"
        "</figcaption></figure>"
    )


def _image(pixels: Pixels, name: str) -> str:
    from PIL import Image  # slow to import, and needed for nothing but pages

    array = np.clip(np.array(pixels) * 255, 0, 255).round().astype(np.uint8)
    shown = array[0] if len(array) in (1, 2) else np.moveaxis(array[:3], 0, -1)
    file = io.BytesIO()
    Image.fromarray(shown).save(file, "PNG")
    data = base64.b64encode(file.getvalue()).decode()
    return f'<img src="data:image/png;base64,{data}" alt="{_text(name)}">'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}" for cell in heads)
    body = "".join("<tr>" + "".join(f"<td>{cell}" for cell in row) for row in rows)
    return f"<div class=scroll><table><tr>{head}{body}</table></div>"


def _verdict(passed: bool) -> str:
    return "<span class=pass>pass</span>" if passed else "<span class=fail>FAIL</span>"


def _text(value: object) -> str:
    return html.escape(str(value))
