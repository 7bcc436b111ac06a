"""Rewrites of layers for inference: one module for each kind that has a faster form."""

import importlib
import importlib.util

from capsnet.layers import KINDS

__all__ = ["load_rewrites"]


def load_rewrites() -> None:
    """Import the rewrites of all kinds of layers, which registers them."""
    for name in KINDS.values():
        module = f"{__name__}.{name.rpartition('.')[2]}"
        if importlib.util.find_spec(module) is not None:
            importlib.import_module(module)
