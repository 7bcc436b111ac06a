"""Whether images look like those that a network was trained on; if not, what was likely done.

A run is judged by the means of a few statistics over its images. It is found odd where one lies far
outside of what single training images have, or where the same images, with a usual mistake undone,
would look like the training images and as they are would not. So a run of one class, or of unusual
images, is not odd; one whose images were all inverted is.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.about import About, Spread, TrainingInputs
from capsnet.data.idx import mnist_calibration_images
from capsnet.data.statistics import ImageStatistics

__all__ = ["FEWEST", "Guard", "mnist_is_foreign", "unlike"]

FEWEST = 16
"""Images of a run that is judged."""

_FAR = 4.0  # deviations of single training images that the mean of a run may be off
_NEAR = 1.0  # and that it is off at most where it looks like them
_SURE, _FITTING = 6.0, 3.0  # the same for the mean of so many images, in deviations of that mean
_LEAST_DEVIATION = 0.02  # of training images: narrower ones are judged as if they had this
_UNCERTAIN = 0.05  # deviations by which the mean of any number of images may be off


@dataclass(frozen=True)
class _Means:
    """The means of the statistics over the images of a run."""

    mean: float
    deviation: float
    border: float
    channels: tuple[float, ...]


@dataclass(frozen=True)
class _Mistake:
    """Something that is often done to images, and what undoes it in their statistics."""

    what: str
    advice: str
    undo: Callable[[_Means], _Means]


_MISTAKES = (
    _Mistake(
        "they look inverted (black and white exchanged)",
        "give --invert, or 1 - images",
        lambda m: _Means(1 - m.mean, m.deviation, 1 - m.border, tuple(1 - c for c in m.channels)),
    ),
    _Mistake(
        "they look scaled twice (divided by 255 two times)",
        "divide by 255 once, or give the pixels as uint8",
        lambda m: _Means(
            255 * m.mean, 255 * m.deviation, 255 * m.border, tuple(255 * c for c in m.channels)
        ),
    ),
    _Mistake(
        "their channels look exchanged (BGR in place of RGB)",
        "reverse the channels: images[:, ::-1]",
        lambda m: _Means(m.mean, m.deviation, m.border, m.channels[::-1]),
    ),
)


class Guard:
    """Judges the images of a run, seen batch by batch; memory stays bounded.

    Args:
        inputs: what the training images looked like.
    """

    def __init__(self, inputs: TrainingInputs) -> None:
        self._inputs = inputs
        self._count = self._short = self._measured = 0
        self._sums: npt.NDArray[np.float64] = np.zeros(3 + len(inputs.channels))

    def see(
        self, images: npt.NDArray[np.float32], lengths: npt.NDArray[np.float32] | None = None
    ) -> None:
        """Count a batch.

        Args:
            images: ``[n, channels, height, width]``.
            lengths: of their class capsules ``[n, classes]``, where they are known.
        """
        if images.shape[1] != len(self._inputs.channels):
            return
        found = ImageStatistics.of(images)
        columns = (found.mean, found.deviation, found.border, *found.channels.T)
        self._sums += np.array([column.sum() for column in columns])
        self._count += len(images)
        if lengths is not None:
            self._measured += len(lengths)
            self._short += int((lengths.max(1) < self._inputs.longest.get("1", 0.0)).sum())

    def finding(self) -> str | None:
        """What is odd about the images seen so far, and what to do; None where nothing is."""
        if self._count < FEWEST:
            return None
        mean, deviation, border, *channels = (self._sums / self._count).tolist()
        found = _Means(mean, deviation, border, tuple(channels))
        start = f"the {self._count} images do not look like those that the network was trained on"
        far = self._off(found) > _FAR
        for mistake in _MISTAKES:
            undone = mistake.undo(found)
            explained = far and self._off(undone) < _NEAR
            if explained or (self._sure(found) > _SURE and self._sure(undone) < _FITTING):
                return f"{start}: {mistake.what}; {mistake.advice}"
        numbers = (
            f"mean {found.mean:.3g} in place of {self._inputs.mean.mean:.3g}, deviation "
            f"{found.deviation:.3g} in place of {self._inputs.deviation.mean:.3g}, border "
            f"{found.border:.3g} in place of {self._inputs.border.mean:.3g}"
        )
        if far:
            return f"{start}: {numbers}; prepare them as the training images were"
        if 2 * self._short > self._measured:
            return (
                f"{start}: most of them make every class capsule shorter than all but 1 % of "
                f"those did ({numbers}); prepare them as the training images were"
            )
        return None

    def _off(self, found: _Means) -> float:
        """By how many deviations of single images the run is off, at most."""
        given = self._inputs

        def off(value: float, usual: float, spread: Spread) -> float:
            return abs(value - usual) / max(spread.deviation, _LEAST_DEVIATION)

        tilt, usual_tilt = (c[0] - c[-1] for c in (found.channels, given.channels))
        return max(
            off(found.mean, given.mean.mean, given.mean),
            off(found.deviation, given.deviation.mean, given.deviation),
            off(found.border, given.border.mean, given.border),
            off(tilt, usual_tilt, given.mean),
        )

    def _sure(self, found: _Means) -> float:
        """The same in deviations of the mean of so many images."""
        return self._off(found) / float(np.hypot(self._count**-0.5, _UNCERTAIN))


def unlike(inputs: TrainingInputs, images: npt.NDArray[np.float32]) -> str | None:
    """What is odd about images ``[n, channels, height, width]``; None where nothing is."""
    guard = Guard(inputs)
    guard.see(images)
    return guard.finding()


def mnist_is_foreign(about: About) -> str | None:
    """Why digits of MNIST are no images for a network, and what to do; None where they are."""
    if about.training_inputs is None:
        return (
            "and it is not known what the network was trained on: give images of its kind with "
            "--images"
        )
    if unlike(about.training_inputs, mnist_calibration_images()) is not None:
        return "images of another kind than it was trained on: give its own with --images"
    return None
