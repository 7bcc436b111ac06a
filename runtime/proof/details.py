"""What a report page draws: error histograms, and the worst images with both runs' outputs."""

from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.runtime.proof.parity import Candidate, Reference

__all__ = ["collect_details"]

_WORST = 8
_EDGES = np.arange(-12.0, 0.5, 0.5)  # powers of ten


def collect_details(
    golden: Reference,
    baseline: Reference,
    candidate: Candidate,
    images: npt.NDArray[np.float32],
) -> dict[str, Any]:
    """Run all three once more and collect the details.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        candidate: the artifact.
        images: float32 ``[n, channels, height, width]``.

    Returns:
        JSON values: ``histograms`` by output (``edges`` as powers of ten, counts of elements of
        ``baseline`` and ``candidate``; smaller errors count in the first bin), and ``worst``, the
        images with the largest error of ``lengths``: ``index``, ``pixels``, the ``golden`` and
        ``candidate`` lengths, and their ``reconstruction`` where the artifact has one.
    """
    names = tuple(spec.name for spec in candidate.metadata.outputs)
    expected, plain = golden.run(images, names), baseline.run(images, names)
    found = candidate.run(images)
    histograms = {
        name: {
            "edges": _EDGES.tolist(),
            "baseline": _histogram(plain[name] - expected[name]),
            "candidate": _histogram(found[name] - expected[name]),
        }
        for name in names
    }
    error = np.abs(found["lengths"] - expected["lengths"]).max(axis=1)
    worst = [
        {
            "index": int(index),
            "pixels": images[index].round(4).tolist(),
            "error": float(error[index]),
            "golden": expected["lengths"][index].tolist(),
            "candidate": found["lengths"][index].tolist(),
            "reconstruction": (
                found["reconstruction"][index].round(4).tolist()
                if "reconstruction" in found
                else None
            ),
        }
        for index in np.argsort(-error, kind="stable")[:_WORST]
    ]
    return {"histograms": histograms, "worst": worst}


def _histogram(error: npt.NDArray[np.floating]) -> list[int]:
    exponents = np.log10(np.maximum(np.abs(error), 10 ** _EDGES[0]))
    counts, _ = np.histogram(np.minimum(exponents, _EDGES[-1]), bins=_EDGES)
    return [int(count) for count in counts]
