"""The artifacts that are tried, and what they must compute."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from support.family import FAMILY, family_member
from support.networks import random_images

import capsnet
from capsnet.data.calibration import calibration_images
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.formats import FORMATS
from capsnet.model import CapsNet
from capsnet.precision import PRECISIONS
from capsnet.runtime.proof.reference import EagerModel

__all__ = ["BUNDLED", "OTHERS", "write_artifacts"]

BUNDLED = tuple(f"{name}-{p}" for name in ("mnist", "efficient-mnist") for p in PRECISIONS)
"""Of the bundled networks, in every precision."""

OTHERS = tuple(name for name in FAMILY if "," not in name)
"""Of a small network of every kind of layer, in fp32."""

_BATCHES = (5, 1, 3)


def write_artifacts(folder: Path) -> None:
    """Write every artifact, ``NAME.onnx``, and beside it images and golden outputs, ``NAME.json``.

    Args:
        folder: an existing one.
    """
    calibration = calibration_images(None, (1, 28, 28))
    for name in BUNDLED:
        checkpoint, _, precision = name.rpartition("-")
        _write(folder / name, capsnet.load(checkpoint), calibration, precision)
    for name in OTHERS:
        _write(folder / name, family_member(FAMILY[name]), random_images(FAMILY[name], 8), "fp32")


def _write(path: Path, model: CapsNet, images: np.ndarray, precision: str) -> None:
    lowered = lower(
        model,
        reconstruction=model.decoder is not None,
        precision=precision,
        preferred=FORMATS["onnx"].preferred,
    )
    calibration = images if PRECISIONS[precision].calibrated else None
    to_onnx(lowered, path.with_suffix(".onnx"), ExportOptions(calibration=calibration))
    few = images[: max(_BATCHES)]
    golden = EagerModel(model, torch.float64).run(few, lowered.output_names)
    document = {
        "batches": _BATCHES,
        "images": _values(few),
        "golden": {name: _values(values) for name, values in golden.items()},
    }
    path.with_suffix(".json").write_text(json.dumps(document), encoding="utf-8")


def _values(array: np.ndarray) -> dict[str, Any]:
    return {"shape": array.shape, "values": array.ravel().tolist()}
