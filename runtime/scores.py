"""How often predictions are right, where the true classes are known."""

from collections.abc import Iterable, Iterator

import numpy as np

from capsnet.runtime.predict import Prediction

__all__ = ["Scores"]


class Scores:
    """Counts predictions by true and predicted class, as they pass.

    Args:
        classes: of the network.

    Attributes:
        confusion: int64 ``[classes, classes]``, rows are true classes, columns predicted ones.
    """

    def __init__(self, classes: int) -> None:
        self.confusion = np.zeros((classes, classes), np.int64)

    def counted(self, predictions: Iterable[Prediction]) -> Iterator[Prediction]:
        """The same predictions, each counted where its true class is known."""
        for prediction in predictions:
            if prediction.truth is not None:
                self.confusion[prediction.truth, prediction.label] += 1
            yield prediction

    @property
    def count(self) -> int:
        """Predictions whose true class is known."""
        return int(self.confusion.sum())

    @property
    def accuracy(self) -> float | None:
        """Share of them that is right; None where there is none."""
        return float(self.confusion.trace() / self.count) if self.count else None
