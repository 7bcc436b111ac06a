"""Verification as one self-contained web page: the verdict and the worst first, the rest folded."""

from collections.abc import Mapping, Sequence

import numpy as np

from capsnet.errors import counted
from capsnet.runtime.markup import document, figure, fold, mark, picture, table, text, tiles
from capsnet.runtime.proof import histogram
from capsnet.runtime.proof.results import (
    Certificate,
    Check,
    Details,
    HardInput,
    ParityResult,
    Proof,
    WorstImage,
)
from capsnet.runtime.proof.words import (
    budget_words,
    causes,
    share_words,
    used_words,
    verdict_words,
    worst_checks,
)

__all__ = ["render"]

_GOLDEN = (
    "Golden is the readable network in float64: the right numbers. The baseline is the same "
    "network in float32, run eagerly by PyTorch: what rounding alone costs."
)
_SCORES = 3  # classes of an image that are listed


def render(proofs: Sequence[Proof]) -> str:
    """The page for one or more verified artifacts.

    Args:
        proofs: of the artifacts; those with details are drawn.

    Returns:
        HTML.
    """
    certificates = [proof.certificate for proof in proofs]
    wrong = [c.artifact.file for c in certificates if not c.passed]
    title = f"FAIL: {', '.join(wrong)}" if wrong else "pass: CapsNet parity report"
    overview = ""
    if len(proofs) > 1:
        rows = [
            f"<li class={c.verdict}><a href=#artifact{n}>{text(c.artifact.file)}</a> "
            f"{text(verdict_words(c))}"
            for n, c in enumerate(certificates)
        ]
        overview = f"<ul>{''.join(rows)}</ul>"
    body = "".join(_artifact(proof, f"artifact{n}") for n, proof in enumerate(proofs))
    return document(title, overview + body)


def _artifact(proof: Proof, anchor: str) -> str:
    certificate = proof.certificate
    parity = certificate.parity
    parts = [
        f"<header id={anchor} class={certificate.verdict}><h1>{text(certificate.artifact.file)}"
        f"</h1><div class=verdict>{text(verdict_words(certificate))}</div>"
        f"{tiles(_summary(certificate))}</header>",
        *(f"<p class=note>{text(note)}</p>" for note in parity.not_judged),
    ]
    wrong = causes(certificate)
    if wrong:
        items = "".join(
            f"<li>{text(cause.text)}"
            + (
                f" <span class=note>({cause.failures} failures of one kind)</span>"
                * (cause.failures > 1)
            )
            for cause in wrong
        )
        parts.append(f"<h2 class=fail>What is wrong</h2><ul>{items}</ul>")
    parts += [_errors(certificate), _flips(certificate), _hard_inputs(certificate.hard_inputs)]
    if proof.details is not None:
        parts += [_histograms(proof.details, parity), _worst_images(proof.details, certificate)]
    facts = "".join(f"<li>{text(fact)}" for fact in _facts(certificate))
    parts.append(fold("The file, and where it was run", f"<ul class=note>{facts}</ul>"))
    return "".join(parts)


def _summary(certificate: Certificate) -> list[tuple[str, str, str]]:
    """The tiles: what decides the verdict."""
    parity, hard = certificate.parity, certificate.hard_inputs
    images = certificate.images
    source = images.source if images.total is None else f"of {images.total:,}, {images.source}"
    found = [("images", f"{parity.images:,}", source)]
    for name, check in list(worst_checks(parity).items())[:1]:
        found.append(("budget used", used_words(check.used), f"{name}, batch {check.batch_size}"))
    if parity.agreement is not None:
        kept = share_words(parity.agreement, parity.images)
        found.append(("class as golden", kept, counted(len(parity.flips), "flip")))
    if parity.accuracy is not None:
        right, golden = (
            share_words(share, parity.images)
            for share in (parity.accuracy.candidate, parity.accuracy.golden)
        )
        found.append(("class right", right, f"golden: {golden}"))
    passed = sum(result.passed for result in hard)
    return [*found, ("hard inputs", f"{passed} of {len(hard)}", "passed")]


def _facts(certificate: Certificate) -> list[str]:
    artifact, accuracy = certificate.artifact, certificate.parity.accuracy
    facts = [
        f"{artifact.format}, {artifact.bytes / 1e6:.1f} MB, SHA-256 {artifact.sha256}",
        f"checkpoint: SHA-256 {certificate.checkpoint_sha256}",
        f"run on {certificate.device} ({certificate.device_reason}): "
        + ", ".join(f"{counted(n, 'node')} on {name}" for name, n in certificate.providers.items()),
    ]
    if accuracy is not None:
        facts.append(
            f"accuracy: golden {accuracy.golden:.2%}, baseline {accuracy.baseline:.2%}, "
            f"artifact {accuracy.candidate:.2%}"
        )
    versions = ", ".join(f"{name} {version}" for name, version in certificate.environment.items())
    return [*facts, f"environment: {versions}"]


def _errors(certificate: Certificate) -> str:
    parity, precision = certificate.parity, certificate.artifact.metadata.precision
    own = "The budget was overridden by --atol and --rtol. " if parity.overridden else ""
    rows = [
        (*_used(check), str(check.batch_size), f"{parity.baseline[name].max:.2e}")
        for name, check in worst_checks(parity).items()
    ]
    checks = sorted(parity.checks, key=lambda check: (-check.used, check.output))
    batches = counted(len({check.batch_size for check in checks}), "batch size")
    return (
        f"<h2>Errors against golden</h2><p>{_GOLDEN} {own}"
        f"{text(budget_words(parity.budget, precision))}</p>"
        + table((*_USED, "batch", "baseline's"), rows)
        + fold(f"All {batches}, the worst first", _all_checks(checks))
    )


_USED = ("output", "", "max error", "limit", "budget used")


def _used(check: Check) -> tuple[str, ...]:
    return (
        text(check.output),
        mark(check.passed),
        f"{check.errors.max:.2e}",
        f"{check.allowed['max']:.2e}",
        used_words(check.used),
    )


def _all_checks(checks: Sequence[Check]) -> str:
    rows = [
        (
            *_used(check),
            str(check.batch_size),
            str(check.images),
            *(
                f"{getattr(check.errors, key):.2e} of {check.allowed[key]:.2e}"
                for key in ("p99", "rms")
            ),
            f"{check.errors.cosine:.9f}",
        )
        for check in checks
    ]
    return table((*_USED, "batch", "images", "p99", "RMS", "cosine"), rows)


def _flips(certificate: Certificate) -> str:
    """The images whose class is another one, those with the largest golden lead first."""
    flips = sorted(certificate.parity.flips.items(), key=lambda flip: -flip[1])
    if not flips:
        return ""
    rows = [(str(certificate.images.index_of(image)), f"{gap:.2e}") for image, gap in flips]
    drawn = table(("image", "golden lead of its class"), rows)
    return fold(f"{counted(len(flips), 'image')} of another class than golden", drawn)


def _hard_inputs(results: Sequence[HardInput]) -> str:
    def used(result: HardInput) -> float:
        return (result.max_error or 0) / result.allowed if result.allowed else 0

    def number(value: float | None) -> str:
        return "-" if value is None else f"{value:.2e}"

    ordered = sorted(results, key=lambda result: (result.passed, -used(result)))
    rows = [
        (
            text(result.name),
            mark(result.passed),
            number(result.max_error),
            number(result.allowed),
            used_words(used(result)) if result.allowed else "-",
            str(result.images),
        )
        for result in ordered
    ]
    passed = sum(result.passed for result in results)
    heads = ("input", *_USED[1:], "images")
    summary = f"Hard inputs: {passed} of {len(results)} passed"
    return fold(summary, table(heads, rows), opened=passed < len(results))


def _histograms(details: Details, parity: ParityResult) -> str:
    drawn = []
    for name, errors in details.histograms.items():
        allowed: Mapping[str, float] = {}
        for check in parity.checks:  # the largest batch, which ran all images, is the last
            if check.output == name and check.images == parity.images:
                allowed = check.allowed
        exact, edge = errors.artifact[0], 10 ** errors.edges[1]
        below = f"; {counted(exact, 'element')} of it exact or below {edge:.0e}"
        drawn.append(
            f"<div><b>{text(name)}</b>{histogram.draw(errors, allowed)}"
            f"<div class=note>grey: baseline, blue: artifact{below if exact else ''}</div></div>"
        )
    lines = "Red lines are limits: solid for the largest error, dashed for 99 % of the elements."
    return (
        f"<h2>How large the errors are</h2><p class=note>{lines} Both axes are logarithmic.</p>"
        f"<div class=two>{''.join(drawn)}</div>"
    )


def _worst_images(details: Details, certificate: Certificate) -> str:
    figures = "".join(_figure(image, certificate) for image in details.worst)
    images = certificate.images
    return (
        f"<h2>Images with the largest errors</h2><p class=note>Numbered as in "
        f"{text(images.source)}, from 0.</p><div class=images>{figures}</div>"
    )


def _figure(image: WorstImage, certificate: Certificate) -> str:
    largest = sorted(range(len(image.golden)), key=lambda label: -image.golden[label])[:_SCORES]
    rows = [
        (str(label), f"{image.golden[label]:.6f}", f"{image.artifact[label]:.6f}")
        for label in largest
    ]
    scores = table(("class", "golden", "artifact"), rows) if rows else ""
    pictures = {"image": image.pixels, **image.pictures}
    drawn = [(picture(np.array(pixels), name), text(name)) for name, pixels in pictures.items()]
    label = "" if image.label is None else f", true class {image.label}"
    caption = (
        f"<b>image {certificate.images.index_of(image.index)}</b>{label}; error {image.error:.2e}"
    )
    return figure(drawn, caption + scores)
