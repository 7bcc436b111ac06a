"""What an export can be asked for, whatever the format."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capsnet.about import About

__all__ = ["TRACE_BATCH", "ExportOptions"]

TRACE_BATCH = 2
"""Batch size that dynamic artifacts are traced at; a batch of 1 would be taken for a constant."""


@dataclass(frozen=True, eq=False)
class ExportOptions:
    """How to write an artifact.

    Attributes:
        batch: a fixed batch size, or None for any.
        opset: ONNX operator set, one of :data:`capsnet.formats.OPSETS`; None for the oldest that
            the network and its precision allow. Other formats have none.
        checkpoint_sha256: digest of the checkpoint file, for the metadata.
        calibration: images float32 ``[n, channels, height, width]``, for precisions that are
            calibrated.
        about: what is known of the network's classes and training images, for the metadata.
        input_dtype: ``"float32"``, values 0..1, or ``"uint8"``, values 0..255; of ONNX.
        layout: of the images, ``"nchw"`` or ``"nhwc"``; of ONNX.
    """

    batch: int | None = None
    opset: int | None = None
    checkpoint_sha256: str | None = None
    calibration: npt.NDArray[np.float32] | None = None
    about: About = About()
    input_dtype: str = "float32"
    layout: str = "nchw"
