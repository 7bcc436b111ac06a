"""The routing of an ONNX file as a file of its own, to be timed alone."""

import tempfile
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx

from capsnet.errors import ArtifactError, first_line
from capsnet.runtime.sessions.onnx import create_session

__all__ = ["cut_routing"]


def cut_routing(
    path: Path, images: npt.NDArray[np.float32], folder: Path
) -> tuple[Path, npt.NDArray[np.float32]]:
    """Cut an ONNX file behind the primary capsules.

    Args:
        path: an ONNX artifact, or a readable network exported as it is.
        images: float32 ``[batch, channels, height, width]``.
        folder: for the new file.

    Returns:
        The file from the primary capsules to the outputs, and the primary capsules of the images,
        in the layout that it takes them.

    Raises:
        ArtifactError: if the file is not ONNX, or has no primary capsules.
    """
    try:
        model = onnx.load(path)
        extractor = onnx.utils.Extractor(model)
        cut = _primary_capsules(model.graph)
        head = extractor.extract_model([model.graph.input[0].name], [cut])
        tail = extractor.extract_model([cut], [output.name for output in model.graph.output])
    except Exception as error:  # of protobuf, of onnx, and of the extractor
        raise ArtifactError(f"only the routing of ONNX files can be cut out: {path}") from error
    own = Path(tempfile.mkdtemp(dir=folder))
    files = [own / "head.onnx", own / "tail.onnx"]
    for file, part in zip(files, (head, tail), strict=True):
        onnx.save(part, file)
    session = create_session(files[0], "cpu")
    try:
        [capsules] = session.run([cut], {session.get_inputs()[0].name: images})
    except Exception as error:  # onnxruntime's own errors have many kinds
        raise ArtifactError(
            f"the head of {path} does not take {len(images)} images: {first_line(error)}"
        ) from error
    return files[1], capsules


def _primary_capsules(graph: onnx.GraphProto) -> str:
    """The tensor of that name in an artifact; what the first Einsum takes in a readable network."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if "primary_capsules" in node.output:
            return "primary_capsules"
        if node.op_type == "Einsum":
            return str(next(name for name in node.input if name not in constants))
    raise ArtifactError("the graph has no primary capsules")
