"""Named configurations, as JSON values; what one leaves out is as in the paper. Needs no torch."""

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mnist": {},
    "cifar10": {"image_shape": [3, 32, 32]},
    "paper": {
        "primary": {"kind": "primary", "activation": "squash"},
        "capsule_layers": [{"kind": "dynamic", "capsules": 10, "dim": 16, "bias": True}],
    },
    "efficient": {
        "stem": {
            "kind": "convolutions",
            "convolutions": [
                {"channels": 32, "kernel": 5, "batch_norm": True},
                {"channels": 64, "kernel": 3, "batch_norm": True},
                {"channels": 64, "kernel": 3, "batch_norm": True},
                {"channels": 128, "kernel": 3, "stride": 2, "batch_norm": True},
            ],
        },
        "primary": {"kind": "depthwise", "dim": 8, "kernel": 9},
        "capsule_layers": [{"kind": "attention", "capsules": 10, "dim": 16}],
    },
    "self-routing": {
        "image_shape": [3, 32, 32],
        "stem": {
            "kind": "convolutions",
            "convolutions": [
                {"channels": 32, "kernel": 3, "padding": 1, "batch_norm": True},
                {"channels": 64, "kernel": 3, "stride": 2, "padding": 1, "batch_norm": True},
                {"channels": 128, "kernel": 3, "stride": 2, "padding": 1, "batch_norm": True},
            ],
        },
        "primary": {"kind": "activated", "groups": 16, "dim": 16},
        "capsule_layers": [
            {
                "kind": "convolutional",
                "grid": [8, 8],
                "kernel": 3,
                "stride": 2,
                "layer": {"kind": "self-routing", "capsules": 16, "dim": 16},
            },
            {"kind": "self-routing", "capsules": 10, "dim": 16},
        ],
        "decoder": {"kind": "transposed", "channels": [64, 32, 16]},
    },
    "tiny": {
        "stem": {"kind": "conv", "channels": 8},
        "primary": {"kind": "primary", "groups": 4, "dim": 4},
        "capsule_layers": [{"kind": "dynamic", "capsules": 10, "dim": 8}],
        "decoder": {"kind": "dense", "hidden": [16]},
    },
}
"""Values for :meth:`capsnet.config.CapsNetConfig.from_dict` by name: ``mnist`` has the paper's
sizes with readable_capsnet's scale; ``paper`` squashes the primary capsules and has a bias for each
class capsule, as the program of its authors; ``efficient`` has the sizes of arXiv:2101.12491,
``self-routing`` is convolutional capsules for 32x32 images in colour, ``tiny`` is for tests."""
