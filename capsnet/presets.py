"""Named configurations. Needs no torch."""

from collections.abc import Mapping
from typing import Any

__all__ = ["PRESETS"]

PRESETS: Mapping[str, Mapping[str, Any]] = {"mnist": {}, "cifar10": {}, "tiny": {}}
