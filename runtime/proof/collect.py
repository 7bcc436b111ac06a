"""Collecting: the two references and the artifact run once, at every batch size; nothing judged."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.data.batch import Rows, plain
from capsnet.errors import CapsNetError

__all__ = [
    "BATCH_SIZES",
    "LARGE_BATCH",
    "ORDERS",
    "SAMPLE",
    "Array",
    "Artifact",
    "Collected",
    "Reference",
    "Run",
    "collect",
    "orders_for",
    "spread",
]

Array = npt.NDArray[np.floating]

BATCH_SIZES = (1, 2, 3, 7, 64)
"""Batch sizes that an artifact is run at; all at once, or a thousand, come on top."""

SAMPLE = 256
"""How many images, spread evenly, the batch sizes below 64 run; the others run all of them."""

LARGE_BATCH = 1000
"""The largest batch that an artifact is run at."""

ORDERS = 8
"""How often the baseline runs where there are few images, each time summing in another order."""

_ENOUGH_IMAGES = 256  # times orders


class Artifact(Protocol):
    """What is judged: an artifact's session, or anything else that runs as one."""

    metadata: ArtifactMetadata

    def run(self, images: Any, *, any_range: bool = False) -> Mapping[str, npt.NDArray[np.float32]]:
        """Outputs by name, of images or of inputs by name; values outside 0..1 where told."""
        ...


class Reference(Protocol):
    """What it is judged by: the readable model in some precision."""

    def run(
        self, images: Rows, outputs: tuple[str, ...] | None = None, order: int = 0
    ) -> Mapping[str, Array]:
        """The named outputs, or all; other orders are the same function, rounded otherwise."""
        ...


@dataclass(frozen=True)
class Run:
    """Images through the artifact at one batch size.

    Attributes:
        batch_size: images at once.
        images: indices of those that it ran, int64 ``[n]``.
        outputs: by name, ``[n, ...]``; empty where the run failed.
        error: why it failed; None where it did not.
    """

    batch_size: int
    images: npt.NDArray[np.int64]
    outputs: Mapping[str, Array]
    error: str | None = None


@dataclass(frozen=True)
class Collected:
    """The results of all runs on the same images.

    Attributes:
        images: how many there are.
        golden: outputs of the readable model in float64, by name, ``[images, ...]``.
        baseline: of the same model in float32: one run, or several in other orders of summation.
        runs: of the artifact, one for each batch size.
    """

    images: int
    golden: Mapping[str, Array]
    baseline: tuple[Mapping[str, Array], ...]
    runs: tuple[Run, ...]


def collect(
    golden: Reference,
    baseline: Reference,
    artifact: Artifact,
    images: Rows,
    batch_sizes: Sequence[int] | None = None,
) -> Collected:
    """Run the references and the artifact.

    Args:
        golden: the readable model in float64.
        baseline: the readable model in float32.
        artifact: what is judged.
        images: float32 ``[n, channels, height, width]``, values 0..1, or the rows of other inputs;
            at least one.
        batch_sizes: sizes to run; None for :data:`BATCH_SIZES` and all at once, up to
            :data:`LARGE_BATCH`. An artifact of a fixed batch size runs at that size alone, all
            images; else the small sizes run :data:`SAMPLE` of them.

    Returns:
        Every run's outputs; a run that fails is part of the results, not an exception.
    """
    names = tuple(spec.name for spec in artifact.metadata.outputs)
    fixed = artifact.metadata.fixed_batch
    everything, few = spread(len(images)), spread(len(images), SAMPLE)
    if fixed is not None:
        batch_sizes = (fixed,)
    elif batch_sizes is None:
        largest = min(len(images), LARGE_BATCH)
        batch_sizes = (*(size for size in BATCH_SIZES if size < largest), largest)
    return Collected(
        images=len(images),
        golden=golden.run(images, names),
        baseline=tuple(
            baseline.run(images, names, order) for order in range(orders_for(len(images)))
        ),
        runs=tuple(
            _run(
                artifact,
                images,
                few if fixed is None and size < BATCH_SIZES[-1] else everything,
                size,
            )
            for size in batch_sizes
        ),
    )


def orders_for(images: int) -> int:
    """How often to run the baseline on so many images.

    The largest error on a few images is a matter of luck: one order of summation may happen to be
    almost exact where every other is not.
    """
    return max(1, min(ORDERS, _ENOUGH_IMAGES // images))


def spread(total: int, samples: int | None = None) -> npt.NDArray[np.int64]:
    """Indices of so many of all images, spread evenly; of all of them where that is None."""
    count = min(samples or total, total)
    return np.arange(count) * total // count


def _run(artifact: Artifact, images: Rows, chosen: npt.NDArray[np.int64], batch_size: int) -> Run:
    batches = [chosen[at : at + batch_size] for at in range(0, len(chosen), batch_size)]
    try:
        parts = [artifact.run(plain(images[batch])) for batch in batches]
    except CapsNetError as error:
        return Run(batch_size, chosen, {}, str(error))
    common = [name for name in parts[0] if all(name in part for part in parts)]
    outputs = {name: _joined([part[name] for part in parts]) for name in common}
    return Run(batch_size, chosen, outputs)


def _joined(arrays: Sequence[Array]) -> Array:
    """Batches as one array; where they do not join, the odd one is the result, and fails."""
    odd = [array for array in arrays if array.shape[1:] != arrays[0].shape[1:]]
    return odd[0] if odd else np.concatenate(arrays)
