"""Parity: does an artifact compute the same numbers as the model it was exported from?

Three runs are compared. *Golden* is the readable model in float64. *Baseline* is the same model in
float32, as a user would run it eagerly. The third is the *artifact*. What float32 costs the
baseline is what the artifact may be charged, times a small factor: an error budget that comes from
the model and the images, not from a tolerance that somebody chose.
"""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capsnet.data.batch import Rows
from capsnet.runtime.proof.collect import Artifact, Reference, collect
from capsnet.runtime.proof.judge import judge
from capsnet.runtime.proof.results import ParityResult, Tolerance

__all__ = ["compare"]


def compare(
    golden: Reference,
    baseline: Reference,
    artifact: Artifact,
    images: Rows,
    labels: npt.NDArray[np.int64] | None = None,
    tolerance: Tolerance | None = None,
    batch_sizes: Sequence[int] | None = None,
) -> ParityResult:
    """Collect and judge in one call.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        artifact: what is judged.
        images: float32 ``[n, channels, height, width]``, values 0..1, at least one.
        labels: the true classes ``[n]``, where they are known.
        tolerance: a limit of the user's own.
        batch_sizes: see :func:`capsnet.runtime.proof.collect.collect`.

    Returns:
        The result; a wrong artifact is a result with failures, not an exception.
    """
    collected = collect(golden, baseline, artifact, images, batch_sizes)
    return judge(collected, artifact.metadata, labels, tolerance)
