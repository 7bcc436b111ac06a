"""What a trained network says of its classes and of the images that it was trained on.

It goes with the weights into checkpoints, and from there into artifacts. Needs neither torch nor
numpy.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capsnet.bundled import ASSETS, BUNDLED
from capsnet.documents import from_values, parse_json, to_values
from capsnet.errors import CheckpointError, printable
from capsnet.files import read_file

__all__ = ["About", "Spread", "TrainingInputs", "about_of", "colour_of"]


@dataclass(frozen=True)
class Spread:
    """A quantity of images: its mean over the images, and its deviation from image to image."""

    mean: float
    deviation: float


@dataclass(frozen=True)
class TrainingInputs:
    """What the images looked like that a network was trained on, as it got them.

    Attributes:
        images: how many were looked at.
        colour: ``"grey"``, ``"RGB"``, or the number of channels in words.
        value_range: the least and the largest value that an image may have.
        polarity: ``"bright on dark"``, ``"dark on bright"``, or ``"mixed"``.
        mean: of the values of an image.
        deviation: of the values of an image from their mean.
        border: mean of the outermost pixels of an image.
        channels: mean of each channel, in their order.
        longest: quantiles of the longest capsule's length, on images held out from training, by
            percent: ``{"1": 0.62, ...}``.
    """

    images: int
    colour: str
    value_range: tuple[float, float]
    polarity: str
    mean: Spread
    deviation: Spread
    border: Spread
    channels: tuple[float, ...]
    longest: Mapping[str, float]


@dataclass(frozen=True)
class About:
    """What is known of a network besides its weights.

    Attributes:
        class_names: by the number of the class; empty where they have none.
        training_inputs: None where it is not known what it was trained on.
    """

    class_names: tuple[str, ...] = ()
    training_inputs: TrainingInputs | None = None

    def to_document(self) -> dict[str, Any]:
        """What is known, as JSON values."""
        return {name: value for name, value in to_values(self).items() if value}

    @classmethod
    def from_document(cls, values: Mapping[str, Any]) -> "About":
        """What :meth:`to_document` gave, among other keys.

        Raises:
            ValueError: if it is damaged.
        """
        known = ("class_names", "training_inputs")
        about = from_values(cls, {name: values[name] for name in known if name in values})
        return cls(tuple(map(printable, about.class_names)), about.training_inputs)


def about_of(path: Path, content: bytes) -> About:
    """What a checkpoint says of its network; of a bundled one, what the file beside it says.

    Args:
        path: of the checkpoint.
        content: of the file.

    Raises:
        CheckpointError: if it is damaged.
    """
    try:
        if path in BUNDLED.values():
            return About.from_document(parse_json(read_file(ASSETS / f"{path.stem}.json")))
        if content[8:9] != b"{":  # no safetensors file: it holds weights alone
            return About()
        header = parse_json(content[8 : 8 + int.from_bytes(content[:8], "little")])
        return About.from_document(json.loads(header["__metadata__"]["capsnet"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path}: what it says of its classes and inputs is damaged: {error}"
        ) from error


def colour_of(channels: int) -> str:
    """The colour order of images with so many channels."""
    return {1: "grey", 3: "RGB"}.get(channels, f"{channels} channels")
