"""The speed of the routing alone, cut out of ONNX files behind the primary capsules."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from capsnet.errors import ArtifactError, ResultError, first_line
from capsnet.runtime.bench.candidates import Candidate, PlainOnnx
from capsnet.runtime.bench.harness import Proven, Result, Settings, Start, measure
from capsnet.runtime.bench.onnx_files import read_model, run_model
from capsnet.runtime.bench.parity import Reference, require_parity
from capsnet.runtime.sessions.base import Images
from capsnet.runtime.sessions.onnx import create_session
from capsnet.runtime.sessions.opening import artifact_format

__all__ = ["benchmark_routing", "cut_routing"]

_SAME_ROUTING = 1e-4  # absolute; capsules are no longer than 1


def benchmark_routing(
    candidates: Sequence[Candidate],
    golden: Reference,
    baseline: Reference,
    images: Images,
    settings: Settings,
) -> tuple[Result, ...]:
    """Prove the whole of every candidate, and that its routing gives the same; then time that.

    Args:
        candidates: what to compare; others than ONNX files fail.
        golden: the readable model in float64.
        baseline: the readable model in float32.
        images: float32 ``[n, channels, height, width]``, real images, at least one.
        settings: how to measure.

    Returns:
        A result for each batch size and candidate.

    Raises:
        ConfigError: if two candidates have one name.
        DataError: if there are no images.
    """
    with tempfile.TemporaryDirectory() as folder:

        def prove(candidate: Candidate, start: Start) -> Proven:
            whole = start(candidate)
            require_parity(candidate, whole, golden, baseline, images, settings.batches)
            expected = whole.run(images)["capsules"]
            whole.close()
            path, capsules = cut_routing(candidate.path, images, Path(folder))
            routing = start(PlainOnnx(candidate.name, path))
            if not np.allclose(routing.run(capsules)["capsules"], expected, atol=_SAME_ROUTING):
                raise ResultError("its routing, cut out, gives other numbers")
            return Proven(routing, capsules)

        return measure(candidates, images, settings, prove)


def cut_routing(path: Path, images: Images, folder: Path) -> tuple[Path, Images]:
    """Cut an ONNX file behind the primary capsules.

    Args:
        path: an ONNX artifact, or a readable network exported as it is.
        images: float32 ``[batch, channels, height, width]``.
        folder: for the new file.

    Returns:
        The file from the primary capsules to the outputs, and the primary capsules of the images,
        in the layout that it takes them.

    Raises:
        ArtifactError: if the file is not ONNX, has no primary capsules, or does not run.
    """
    if artifact_format(path) != "onnx":
        raise ArtifactError(f"only the routing of ONNX files can be cut out, and {path} is none")
    model = read_model(path)
    try:
        extractor = onnx.utils.Extractor(model)
        cut = _primary_capsules(model.graph)
        head = extractor.extract_model([model.graph.input[0].name], [cut])
        tail = extractor.extract_model([cut], [output.name for output in model.graph.output])
    except Exception as error:  # the extractor's own errors have many kinds
        raise ArtifactError(
            f"the routing of {path} cannot be cut out: {first_line(error)}"
        ) from error
    what = f"the head of {path}"
    session = create_session(head.SerializeToString(), name=what)
    capsules = run_model(session, images, what)[cut]
    file = Path(tempfile.mkdtemp(dir=folder), "tail.onnx")
    onnx.save(tail, file)
    return file, capsules


def _primary_capsules(graph: onnx.GraphProto) -> str:
    """The tensor of that name in an artifact; what the first Einsum takes in a readable network."""
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if "primary_capsules" in node.output:
            return "primary_capsules"
        if node.op_type == "Einsum":
            return str(next(name for name in node.input if name not in constants))
    raise ArtifactError("the graph has no primary capsules")
