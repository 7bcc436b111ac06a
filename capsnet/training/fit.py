"""A preset's network for other images and classes than its own."""

import dataclasses
from dataclasses import dataclass

from capsnet.config import CapsNetConfig
from capsnet.errors import ConfigError

__all__ = ["Fitting", "fitted"]


@dataclass(frozen=True)
class Fitting:
    """A network whose input and class capsules are to become those that the images need."""

    config: CapsNetConfig


def fitted(config: CapsNetConfig, image_shape: tuple[int, int, int], classes: int) -> CapsNetConfig:
    """The network with the input and the class capsules that the images need.

    Args:
        config: the network.
        image_shape: channels, height and width of the images.
        classes: how many there are.

    Raises:
        ConfigError: if its layers do not take images of this size, or cannot have so many classes.
    """
    if config.image_shape == image_shape and config.classes == classes:
        return config
    *before, last = config.capsule_layers
    if config.classes != classes:
        if not any(field.name == "capsules" for field in dataclasses.fields(last)):
            raise ConfigError(
                f"the images have {classes} classes, and the last layer ({last.kind}) has "
                f"{config.classes}: give a network with {classes} class capsules"
            )
        last = dataclasses.replace(last, capsules=classes)  # type: ignore[call-arg]
    try:
        return dataclasses.replace(config, image_shape=image_shape, capsule_layers=(*before, last))
    except ConfigError as error:
        raise ConfigError(
            f"the network does not take images of {list(image_shape)} (channels, height, width): "
            f"{error}; resize the images (--resize N), or choose another network"
        ) from error
