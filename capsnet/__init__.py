"""Capsule networks, from readable PyTorch to a proven production artifact."""

from pathlib import Path

_ROOT = Path(__file__).parents[1]
if (_ROOT / "export" / "lower.py").is_file() and (_ROOT / "runtime").is_dir():
    __path__.append(str(_ROOT))  # a source checkout: export/ and runtime/ lie beside this folder
