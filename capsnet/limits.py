"""The largest networks that a configuration may describe. Needs nothing.

A file of a few kilobytes can name any number. Beyond these, building the network takes all memory,
or exporting it never ends; networks that people train stay far below.
"""

from capsnet.errors import ConfigError

__all__ = ["MOST_ITERATIONS", "MOST_LAYERS", "MOST_VALUES", "require_at_most"]

MOST_ITERATIONS = 100
"""Rounds of routing of a layer: each is exported as operators of its own; the paper uses 3."""

MOST_LAYERS = 100
"""Capsule layers of a network, and hidden layers of a decoder."""

MOST_VALUES = 2**28
"""A size of an image or a layer, the values between two layers, and those of a weight."""


def require_at_most(what: str, value: int, most: int) -> None:
    """Raise ConfigError where a number is beyond its limit."""
    if value > most:
        raise ConfigError(f"{what} must be at most {most}, got {value}")
