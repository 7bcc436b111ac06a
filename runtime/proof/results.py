"""What a proof finds, as types. Needs neither torch, onnx nor numpy."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from capsnet.artifact import ArtifactMetadata
from capsnet.precision import Budget

if TYPE_CHECKING:
    from capsnet.runtime.sessions.base import Session

__all__ = [
    "Accuracy",
    "ArtifactFile",
    "Certificate",
    "Check",
    "Details",
    "Errors",
    "HardInput",
    "Histogram",
    "ImageSet",
    "ParityResult",
    "Pixels",
    "Proof",
    "Tolerance",
    "WorstImage",
]

Pixels = tuple[tuple[tuple[float, ...], ...], ...]
"""An image ``[channels, height, width]``, values 0..1."""


@dataclass(frozen=True)
class Tolerance:
    """A user's own limit: ``atol + rtol * |golden|max``, for max, p99 and RMS alike.

    Below the budget it tightens it. Above, it overrides it, which the result records.
    """

    atol: float = 0.0
    rtol: float = 0.0


@dataclass(frozen=True)
class Errors:
    """Error of one output against the golden results.

    Attributes:
        max: largest absolute error of an element.
        p99: 99th percentile of the absolute errors.
        rms: root of the mean squared error.
        relative_rms: the same over the root of the golden mean square.
        cosine: smallest cosine similarity of an image's output with its golden output.
        worst_image: index of the image with the largest error.
    """

    max: float
    p99: float
    rms: float
    relative_rms: float
    cosine: float
    worst_image: int


@dataclass(frozen=True)
class Check:
    """One output at one batch size: measured errors against what the budget allows.

    Attributes:
        output: its name.
        batch_size: images at once.
        images: how many were compared.
        errors: what was measured.
        allowed: limits of the largest, the 99th-percentile and the RMS error.
        overridden: whether a user's limit was looser than the budget.
        passed: whether no limit was exceeded.
    """

    output: str
    batch_size: int
    images: int
    errors: Errors
    allowed: Mapping[str, float]
    overridden: bool
    passed: bool

    @property
    def used(self) -> float:
        """The share of the budget that is used: the largest of error / limit."""
        pairs = [(getattr(self.errors, key), limit) for key, limit in self.allowed.items()]
        return max(0.0 if not error else error / limit if limit else inf for error, limit in pairs)


@dataclass(frozen=True)
class Accuracy:
    """Share of images whose class is right.

    Attributes:
        golden: by the readable model in float64.
        baseline: by the readable model in float32.
        candidate: by the artifact; certificates have called it so since version 0.1.
    """

    golden: float
    baseline: float
    candidate: float


@dataclass(frozen=True)
class ParityResult:
    """Whether an artifact computes the same numbers as its model.

    Attributes:
        images: number of images compared.
        budget: the error budget of the artifact's precision.
        tolerance: the user's own limit, if there was one.
        overridden: whether that limit was looser than the budget anywhere.
        baseline: errors of the eager float32 model, by output.
        checks: the artifact's errors, by output and batch size.
        agreement: share of images whose class is the golden one, over all batch sizes; None where
            nothing is classified.
        flips: images whose class is another one, with the golden gap between the two largest
            values of the output that decides; only a gap below the measured error excuses a flip.
        accuracy: None without labels, without classes, or without a valid output.
        failures: what is wrong, in words; empty when the artifact passes.
        not_judged: what was left out, in words: batch sizes that ran some of the images, and the
            accuracy, where it decides and there are too few images.
        passed: whether it passes.
    """

    images: int
    budget: Budget
    tolerance: Tolerance | None
    overridden: bool
    baseline: Mapping[str, Errors]
    checks: tuple[Check, ...]
    agreement: float | None
    flips: Mapping[int, float]
    accuracy: Accuracy | None
    failures: tuple[str, ...]
    not_judged: tuple[str, ...]
    passed: bool

    @property
    def used(self) -> float:
        """The largest share of the error budget that any check uses; 0 without one."""
        return max((check.used for check in self.checks), default=0.0)


@dataclass(frozen=True)
class HardInput:
    """How an artifact did on one of the hard inputs.

    Attributes:
        name: of the input.
        images: how many it holds.
        max_error: largest absolute error of an output; None if the artifact could not run, or only
            had to be finite.
        allowed: what the error budget allows.
        failures: what is wrong; empty when it passes.
    """

    name: str
    images: int
    max_error: float | None
    allowed: float | None
    failures: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.failures


@dataclass(frozen=True)
class ArtifactFile:
    """The file that a certificate is about.

    Attributes:
        file: its name, without folders.
        bytes: its size.
        sha256: of its bytes, lower-case hexadecimal.
        format: the name of its row in :data:`capsnet.formats.FORMATS`.
        metadata: what it says about itself.
    """

    file: str
    bytes: int
    sha256: str
    format: str
    metadata: ArtifactMetadata

    @classmethod
    def describe(cls, path: Path, session: "Session") -> Self:
        """The facts of the bytes that a session runs, whatever lies there by now."""
        return cls(path.name, session.bytes, session.sha256, session.format, session.metadata)


@dataclass(frozen=True)
class ImageSet:
    """The images that an artifact was compared on.

    Attributes:
        source: where they are from.
        count: how many were compared; certificates count them from 0.
        total: how many there are, of which those are spread evenly; None where all were compared.
        warnings: why they may not be of the kind that the network is for, in words.
    """

    source: str
    count: int
    total: int | None = None
    warnings: tuple[str, ...] = ()

    def index_of(self, compared: int) -> int:
        """The index in the source of one of the images that were compared (see ``spread``)."""
        return compared if self.total is None else compared * self.total // self.count


@dataclass(frozen=True)
class Certificate:
    """What verification found about exactly these bytes.

    Attributes:
        schema_version: of this document.
        verdict: whether the artifact computes the same numbers as its model, in a word.
        artifact: the file.
        checkpoint_sha256: of the checkpoint that it was compared with.
        images: that it was compared on.
        device: where it ran, as the session says it.
        device_reason: why there.
        providers: how many of its nodes each execution provider ran.
        environment: versions of what the numbers may depend on.
        parity: the comparison on these images.
        hard_inputs: the comparison on inputs that break networks.
    """

    schema_version: int
    verdict: Literal["pass", "fail"]
    artifact: ArtifactFile
    checkpoint_sha256: str
    images: ImageSet
    device: str
    device_reason: str
    providers: Mapping[str, int]
    environment: Mapping[str, str]
    parity: ParityResult
    hard_inputs: tuple[HardInput, ...]

    @property
    def passed(self) -> bool:
        """Whether the artifact computes the same numbers as its model."""
        return self.verdict == "pass"

    @property
    def failures(self) -> tuple[str, ...]:
        """Everything that is wrong, in words."""
        return (*self.parity.failures, *(f for hard in self.hard_inputs for f in hard.failures))


@dataclass(frozen=True)
class Histogram:
    """How many elements of an output have an error of which size.

    Attributes:
        edges: of the bins, as powers of ten; smaller and larger errors count in the outer bins.
        baseline: counts of the eager float32 model, one fewer than edges.
        artifact: counts of the artifact.
    """

    edges: tuple[float, ...]
    baseline: tuple[int, ...]
    artifact: tuple[int, ...]


@dataclass(frozen=True)
class WorstImage:
    """One of the images with the largest error.

    Attributes:
        index: of the image, among those that were compared.
        label: its true class, where that is known.
        error: its largest absolute error.
        pixels: the image.
        golden: the golden values of the output that decides the class; empty without one.
        artifact: the artifact's.
        pictures: the artifact's outputs that are images of the same shape, by name.
    """

    index: int
    label: int | None
    error: float
    pixels: Pixels
    golden: tuple[float, ...]
    artifact: tuple[float, ...]
    pictures: Mapping[str, Pixels]


@dataclass(frozen=True)
class Details:
    """What the HTML page draws; it is no part of the certificate.

    Attributes:
        histograms: of the errors, by output.
        worst: the images with the largest error of the output that decides the class, or of the
            first output where none does; the worst first.
    """

    histograms: Mapping[str, Histogram]
    worst: tuple[WorstImage, ...]


@dataclass(frozen=True)
class Proof:
    """The certificate of an artifact, and what the HTML page draws beside it.

    Attributes:
        certificate: goes into the file beside the artifact.
        details: None unless they were asked for, or where no output could be compared.
    """

    certificate: Certificate
    details: Details | None = None

    def renamed(self, file: str) -> Self:
        """The proof of the same bytes under another file name."""
        artifact = dataclasses.replace(self.certificate.artifact, file=file)
        certificate = dataclasses.replace(self.certificate, artifact=artifact)
        return dataclasses.replace(self, certificate=certificate)
