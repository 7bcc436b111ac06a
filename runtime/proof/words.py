"""What a certificate says, in words: the terminal and the page say the same."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import inf

from capsnet.errors import counted
from capsnet.precision import Budget
from capsnet.runtime.proof.results import Certificate, Check, ParityResult

__all__ = [
    "Cause",
    "budget_words",
    "causes",
    "share_words",
    "used_words",
    "verdict_words",
    "worst_checks",
]

_ROUNDING = 2.0**-23  # of the largest value; a larger budget allows other numbers
_FAR = 10.0  # times a budget from which on a percentage says little
_MANY = 1000  # images from which on two decimals of a percentage mean something

_EXCESS = re.compile(r"[^:]+: (max|p99|rms) error [^ ]+ is above the budget of ")
_IMAGE = re.compile(r"\bimage (\d+)")
_NUMBER = re.compile(r"\d[\d.,]*(e[+-]?\d+)?")


@dataclass(frozen=True)
class Cause:
    """Failures that say the same of several batch sizes, outputs or inputs.

    Attributes:
        text: what is wrong.
        failures: how many there are of them.
    """

    text: str
    failures: int


def verdict_words(certificate: Certificate) -> str:
    """The verdict in the terms of the precision: ``within the int8 budget: 2 flips, -0.40 points``.

    Points are those of accuracy, against the golden one.
    """
    parity, passed = certificate.parity, certificate.passed
    if parity.overridden:
        words = f"{'' if passed else 'NOT '}within the limits of --atol and --rtol"
    elif parity.budget.max <= _ROUNDING:
        words = f"computes {'the same' if passed else 'WRONG'} numbers"
    else:
        precision = certificate.artifact.metadata.precision
        words = f"{'' if passed else 'NOT '}within the {precision} budget"
    found = []
    if parity.agreement is not None:
        found.append(counted(len(parity.flips), "flip"))
    if parity.accuracy is not None:
        points = 100 * (parity.accuracy.candidate - parity.accuracy.golden)
        found.append(f"{points:+.2f} points" if points else "the same accuracy")
    return f"{words}: {', '.join(found)}" if found else words


def share_words(share: float, images: int) -> str:
    """How many of the images that is, and where they are many, in percent."""
    words = f"{round(share * images):,} of {images:,}"
    return words if images < _MANY else f"{words} ({share:.2%})"


def budget_words(budget: Budget, precision: str) -> str:
    """What an error budget allows, in a sentence."""
    share = "float32's rounding" if budget.max <= _ROUNDING else _percent(budget.max)
    words = (
        f"The {precision} budget allows an error of {budget.factor:g} times the baseline's own, "
        f"plus {share} of the largest golden value; 99 % of the elements, and their RMS, have "
        "tighter limits."
    )
    if budget.flips is None:
        return f"{words} A class may flip only where its golden lead is smaller than the error."
    return (
        f"{words} What decides are the classes: at most {_percent(budget.flips)} of them may "
        f"flip, and at most {_percent(budget.lost)} of accuracy be lost."
    )


def _percent(share: float) -> str:
    return f"{100 * share:.2g} %"


def used_words(share: float) -> str:
    """The share of a budget that is used; far beyond it, how many times it."""
    return f"{share:.0%}" if share < _FAR else f"{share:.2g} times"


def worst_checks(parity: ParityResult) -> Mapping[str, Check]:
    """Of each output the check that uses most of its budget; the worst output first."""
    worst: dict[str, Check] = {}
    for check in sorted(parity.checks, key=lambda check: (-check.used, -check.errors.max)):
        worst.setdefault(check.output, check)
    return worst


def causes(certificate: Certificate) -> list[Cause]:
    """Everything that is wrong, each once; images by their index in the data set."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for place, failure in _placed(certificate):
        kind = "" if _EXCESS.match(failure) else _NUMBER.sub("#", failure)
        groups.setdefault(kind, []).append((place, failure))
    return [
        Cause(_words(found) if kind else _excess_words(certificate), len(found))
        for kind, found in groups.items()
    ]


def _placed(certificate: Certificate) -> Iterator[tuple[str, str]]:
    """Each failure, after where it is: a batch size, a hard input, or nowhere."""

    def named(failure: str) -> str:
        return _IMAGE.sub(lambda n: f"image {certificate.images.index_of(int(n[1]))}", failure)

    for failure in certificate.parity.failures:
        place, _, rest = failure.partition(": ")
        at_batch = re.fullmatch(r"batch \d+", place) is not None
        yield (place, named(rest)) if at_batch else ("", named(failure))
    for result in certificate.hard_inputs:
        for failure in result.failures:
            yield result.name, failure.removeprefix(f"{result.name}: ")


def _words(found: Sequence[tuple[str, str]]) -> str:
    """The first of failures of one kind, and where they are."""
    places = [place for place in dict.fromkeys(place for place, _ in found) if place]
    return f"{found[0][1]} ({', '.join(places)})" if places else found[0][1]


def _excess_words(certificate: Certificate) -> str:
    """Errors above the budget: where, and the worst of them."""
    images, hard = certificate.images, certificate.hard_inputs
    inputs = [result.name for result in hard if not result.passed]
    on_inputs = f"on {len(inputs)} of {len(hard)} hard inputs ({', '.join(inputs)})"
    failed = [check for check in certificate.parity.checks if not check.passed]
    if not failed:
        return f"the errors are above the budget {on_inputs}"
    worst = max(failed, key=lambda check: check.used)
    key = max(worst.allowed, key=lambda key: _ratio(worst, key))
    outputs = ", ".join(dict.fromkeys(check.output for check in failed))
    sizes = ", ".join(map(str, sorted({check.batch_size for check in failed})))
    return (
        f"the errors of {outputs} are above the budget at batch {sizes}"
        f"{f', and {on_inputs}' if inputs else ''}; the worst is the {key} error of "
        f"{worst.output} at batch {worst.batch_size}, {getattr(worst.errors, key):.3g} where "
        f"{worst.allowed[key]:.3g} is allowed; largest at image "
        f"{images.index_of(worst.errors.worst_image)}"
    )


def _ratio(check: Check, key: str) -> float:
    limit = check.allowed[key]
    return float(getattr(check.errors, key)) / limit if limit else inf
