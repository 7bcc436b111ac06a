"""Named configurations, as JSON values; what one leaves out is as in the paper. Needs no torch."""

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

PRESETS: Mapping[str, Mapping[str, Any]] = {
    "mnist": {},
    "cifar10": {"image_shape": [3, 32, 32]},
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
    "tiny": {
        "stem": {"kind": "conv", "channels": 8},
        "primary": {"kind": "primary", "groups": 4, "dim": 4},
        "capsule_layers": [{"kind": "dynamic", "capsules": 10, "dim": 8}],
        "decoder": {"kind": "dense", "hidden": [16]},
    },
}
"""Values for :meth:`capsnet.config.CapsNetConfig.from_dict` by name: ``mnist`` has the paper's
sizes, ``efficient`` those of arXiv:2101.12491, ``tiny`` is for tests."""
