"""Layouts of weights that others trained: one module for each. Needs no torch."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from capsnet.definitions import deferred

__all__ = ["LAYOUTS", "Layout"]


@dataclass(frozen=True)
class Layout:
    """A way to name and lay out weights.

    Attributes:
        name: on the command line.
        project: whose it is.
        translate: takes :class:`capsnet.importers.weights.Weights`, and gives the configuration of
            the same network here, and its tensors by the names of ``CapsNet``.
        mark: what the name of one of its tensors ends with, and of no other layout's; a file is
            recognised by it. None for a layout that has no such name.
    """

    name: str
    project: str
    translate: Callable[..., Any]
    mark: str | None = None


LAYOUTS = {
    layout.name: layout
    for layout in (
        Layout(
            "readable_capsnet",
            "arogozhnikov/readable_capsnet",
            deferred("capsnet.importers.readable_capsnet:translate"),
            "input_caps2U.weight",
        ),
        Layout(
            "adambielski",
            "adambielski/CapsNet-pytorch",
            deferred("capsnet.importers.adambielski:translate"),
            "digitCaps.weights",
        ),
        Layout(
            "gram-ai",
            "gram-ai/capsule-networks",
            deferred("capsnet.importers.gram_ai:translate"),
            "digit_capsules.route_weights",
        ),
        Layout(
            "cedrickchee",
            "cedrickchee/capsule-net-pytorch",
            deferred("capsnet.importers.cedrickchee:translate"),
            "digits.weight",
        ),
        Layout(
            "xifengguo",
            "XifengGuo/CapsNet-Keras",
            deferred("capsnet.importers.xifengguo:translate"),
        ),
        Layout(
            "efficient-capsnet",
            "EscVM/Efficient-CapsNet",
            deferred("capsnet.importers.efficient_capsnet:translate"),
        ),
        Layout(
            "mapping",
            "a project that --mapping FILE.toml describes",
            deferred("capsnet.importers.mapping:translate"),
        ),
    )
}
"""The layouts by name."""
