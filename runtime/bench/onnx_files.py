"""ONNX files as a benchmark takes them apart: read once, checked before onnx parses them."""

from pathlib import Path

import onnx
import onnxruntime

from capsnet.errors import ArtifactError, first_line
from capsnet.runtime.sessions.base import Arrays, Images, refuse_foreign
from capsnet.runtime.sessions.onnx_check import check_onnx
from capsnet.runtime.sessions.opening import read_artifact

__all__ = ["read_model", "run_model"]


def read_model(path: Path) -> onnx.ModelProto:
    """The model in a file.

    Raises:
        ArtifactError: if the file cannot be read, or holds anything but a network.
    """
    content = read_artifact(path)
    refuse_foreign(path, content, check_onnx)
    return onnx.load_model_from_string(content)


def run_model(session: onnxruntime.InferenceSession, images: Images, what: str) -> Arrays:
    """The outputs of a session by name.

    Args:
        session: of onnxruntime, with one input.
        images: for it.
        what: it runs, for messages.

    Raises:
        ArtifactError: if it does not take them.
    """
    names = [value.name for value in session.get_outputs()]
    try:
        values = session.run(names, {session.get_inputs()[0].name: images})
    except Exception as error:  # onnxruntime's own errors have many kinds
        raise ArtifactError(
            f"{what} does not take {len(images)} images: {first_line(error)}"
        ) from error
    return dict(zip(names, values, strict=True))
