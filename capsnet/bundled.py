"""Trained networks that come with the package. Needs no torch."""

from pathlib import Path

__all__ = ["ASSETS", "BUNDLED", "checkpoint_file"]

ASSETS = Path(__file__).parent / "assets"
"""Where the files of the package lie that are no code."""

BUNDLED = {name: ASSETS / f"{name}.safetensors" for name in ("mnist", "efficient-mnist")}
"""Their checkpoints by name."""


def checkpoint_file(checkpoint: str | Path | None) -> Path:
    """The file of a checkpoint: of a bundled one by its name, of any other by its path.

    Args:
        checkpoint: name or path; None is the bundled MNIST network.
    """
    if checkpoint is None:
        checkpoint = "mnist"
    return BUNDLED.get(str(checkpoint), Path(checkpoint))
