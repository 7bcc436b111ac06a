"""What is timed computes the right numbers: parity of a candidate with the readable model."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from capsnet.artifact import INPUT_NAME, OUTPUT_NAMES, ArtifactMetadata, TensorSpec
from capsnet.errors import ResultError
from capsnet.runtime.bench.candidates import Candidate
from capsnet.runtime.bench.harness import Worker, cycled
from capsnet.runtime.proof.collect import Reference
from capsnet.runtime.proof.parity import compare
from capsnet.runtime.sessions.base import Arrays, Images

__all__ = ["Reference", "require_parity"]


@dataclass(frozen=True)
class _Interface:
    """What parity asks of the metadata of an artifact, declared by a candidate that has none."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    precision: str
    decision: str = OUTPUT_NAMES[0]
    fixed_batch: int | None = None


@dataclass
class _Judged:
    """A candidate as parity judges it."""

    metadata: ArtifactMetadata
    worker: Worker

    def run(self, images: Images, *, any_range: bool = False) -> Arrays:  # noqa: ARG002
        return self.worker.run(images)


def require_parity(
    candidate: Candidate,
    worker: Worker,
    golden: Reference,
    baseline: Reference,
    images: Images,
    batches: Sequence[int],
) -> None:
    """Compare the outputs of a candidate with those of the readable model.

    Args:
        candidate: what is judged.
        worker: its process.
        golden: the readable model in float64.
        baseline: the readable model in float32.
        images: float32 ``[n, channels, height, width]``; repeated up to the largest batch.
        batches: batch sizes that it is going to be timed at.

    Raises:
        ResultError: if it computes other numbers.
        CapsNetError: if it does not run.
    """
    judged = _Judged(_metadata(candidate, worker, golden, images), worker)
    given = cycled(images, max(len(images), *batches))
    found = compare(golden, baseline, judged, given, batch_sizes=tuple(dict.fromkeys(batches)))
    if not found.passed:
        raise ResultError(f"parity: {found.failures[0]}")


def _metadata(
    candidate: Candidate, worker: Worker, golden: Reference, images: Images
) -> ArtifactMetadata:
    """What the candidate must give: as an artifact says, or as the reference gives it."""
    metadata, names = worker.about.metadata, worker.about.outputs
    if metadata is not None:
        return replace(metadata, precision=candidate.precision or metadata.precision)
    expected = golden.run(images[:1], names)
    return _Interface(  # type: ignore[return-value]  # all that parity asks for
        inputs=(_spec(INPUT_NAME, images),),
        outputs=tuple(_spec(name, values) for name, values in expected.items()),
        precision=candidate.precision or "fp32",
    )


def _spec(name: str, values: np.ndarray) -> TensorSpec:
    return TensorSpec(name, "float32", ("batch", *values.shape[1:]))
