"""Export to ONNX: one self-describing file, byte-identical on repetition."""

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
import torch
from torch import Tensor, nn

from capsnet.artifact import (
    INPUT_NAME,
    METADATA_KEY,
    OUTPUT_NAMES,
    ArtifactMetadata,
    TensorSpec,
)
from capsnet.errors import ConfigError, ExportError, first_line
from capsnet.export.formats.description import TRACE_BATCH, describe
from capsnet.export.lower import LoweredCapsNet
from capsnet.export.precision.int8 import check_calibration, quantise
from capsnet.model import CapsNet

__all__ = ["DEFAULT_OPSET", "OPSETS", "to_naive_onnx", "to_onnx"]

OPSETS = range(18, 24)
"""Operator sets that can be asked for: from the exporter's native one to the newest tested."""

DEFAULT_OPSET = 18
"""The oldest of them: the artifact runs on the most runtimes, and needs nothing newer."""


class _Stages(nn.Module):
    """Gives every stage of the lowered network as an output, so that each keeps its name."""

    def __init__(self, lowered: LoweredCapsNet) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.lowered.stages(image).values())


def to_onnx(
    lowered: LoweredCapsNet,
    path: Path,
    *,
    batch: int | None = None,
    opset: int = DEFAULT_OPSET,
    checkpoint_sha256: str | None = None,
    calibration: npt.NDArray[np.float32] | None = None,
) -> ArtifactMetadata:
    """Write a lowered network as an ONNX file with its metadata inside.

    The same network, options and library versions give the same bytes, wherever and whenever.
    Intermediate tensors keep the names of the network's stages (``LoweredCapsNet.stages``), and
    nodes are named ``stage/operator``.

    Args:
        lowered: the network, with inputs and outputs in float32.
        path: the file to write.
        batch: a fixed batch size, or None for any.
        opset: ONNX operator set, one of :data:`OPSETS`.
        checkpoint_sha256: digest of the checkpoint file, for the metadata.
        calibration: images float32 ``[n, channels, height, width]`` to quantise a network that was
            lowered to int8 with.

    Returns:
        The metadata that was written.

    Raises:
        ConfigError: if the network is of int8 without calibration images, or the reverse.
        DataError: if the calibration images are too few, of another shape, or all alike.
        ExportError: if the exporter fails, or its result is not a valid model with these inputs and
            outputs.
    """
    if (calibration is not None) != (lowered.precision == "int8"):
        raise ConfigError(
            f"calibration images go with int8, and int8 with them; the network is lowered to "
            f"{lowered.precision}: lower it to int8, or leave the images out"
        )
    if calibration is not None:
        check_calibration(calibration, lowered.config.image_shape)
    image = torch.zeros(batch or TRACE_BATCH, *lowered.config.image_shape)
    stages = tuple(lowered.stages(image))
    model = _capture(_Stages(lowered), image, stages, dynamic=batch is None, opset=opset)
    _keep_only_computation(model, lowered.outputs)
    _name_nodes_by_stage(model.graph, stages)
    if calibration is not None:
        model = quantise(model, calibration)
    metadata = describe(
        lowered,
        exporter="torch.onnx",
        libraries=("torch", "onnx", "onnxscript"),
        batch=batch,
        checkpoint_sha256=checkpoint_sha256,
        opset=model.opset_import[0].version,
        ir_version=model.ir_version,
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    _check(model)
    _check_interface(model, metadata)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return metadata


def to_naive_onnx(model: CapsNet, path: Path, *, opset: int = DEFAULT_OPSET) -> None:
    """Write the readable network as it is, without lowering, for comparisons of speed.

    It is no artifact: it has no metadata, and only plain onnxruntime opens it.

    Args:
        model: the network, in float32.
        path: the file to write.
        opset: ONNX operator set, one of :data:`OPSETS`.

    Raises:
        ExportError: as :func:`to_onnx`.
    """
    outputs = OUTPUT_NAMES[:2]
    image = torch.zeros(TRACE_BATCH, *model.config.image_shape)
    graph = _capture(model, image, outputs, dynamic=True, opset=opset)
    _keep_only_computation(graph, outputs)
    _check(graph)
    path.write_bytes(graph.SerializeToString(deterministic=True))


def _check(model: onnx.ModelProto) -> None:
    """Raise ExportError if the model breaks ONNX's rules."""
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported ONNX model is not valid: {error}") from error


def _capture(
    module: nn.Module, image: Tensor, outputs: tuple[str, ...], *, dynamic: bool, opset: int
) -> onnx.ModelProto:
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                (image,),
                dynamo=True,
                verbose=False,
                input_names=[INPUT_NAME],
                output_names=outputs,
                opset_version=opset,
                dynamic_shapes=({0: torch.export.Dim("batch")} if dynamic else {},),
            )
        except Exception as error:  # the exporter's own errors have many kinds
            raise ExportError(
                f"torch.onnx could not export the network: {first_line(error)}"
            ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence what torch's exporter says of itself: a deprecation inside it, no torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
            yield
    finally:
        logger.setLevel(level)


def _keep_only_computation(model: onnx.ModelProto, outputs: tuple[str, ...]) -> None:
    """Drop what the exporter notes about the machine, and the stages from the outputs."""
    graph = model.graph
    for part in (
        model,
        graph,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
        *graph.node,
    ):
        part.ClearField("metadata_props")
        part.ClearField("doc_string")
    values = {value.name: value for value in graph.output}
    graph.ClearField("output")
    graph.output.extend(values.pop(name) for name in outputs)
    graph.value_info.extend(values.values())
    for tensor in graph.initializer:
        tensor.name = tensor.name.removeprefix("lowered.")
    for node in graph.node:
        node.input[:] = [name.removeprefix("lowered.") for name in node.input]


def _name_nodes_by_stage(graph: onnx.GraphProto, stages: tuple[str, ...]) -> None:
    """Name every node ``stage/operator`` after the first stage that needs it, and its results too.

    onnxruntime names what it makes of a node after the node's result.
    """
    producers = {name: node for node in graph.node for name in node.output}
    stage_of: dict[str, str] = {}
    for stage in stages:
        pending = [stage]
        while pending:
            name = pending.pop()
            if name in producers and name not in stage_of:
                stage_of[name] = stage
                pending += producers[name].input
    count: Counter[str] = Counter()
    for node in graph.node:
        name = f"{stage_of[node.output[0]]}/{node.op_type}"
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"
    kept = {*stages, *(value.name for value in graph.output)}
    renamed = {
        output: node.name for node in graph.node for output in node.output if output not in kept
    }
    for node in graph.node:
        node.input[:] = [renamed.get(name, name) for name in node.input]
        node.output[:] = [renamed.get(name, name) for name in node.output]
    for value in graph.value_info:
        value.name = renamed.get(value.name, value.name)


def _check_interface(model: onnx.ModelProto, metadata: ArtifactMetadata) -> None:
    """Raise ExportError where the graph's inputs and outputs are not those of the metadata."""

    def spec(value: onnx.ValueInfoProto) -> TensorSpec:
        tensor = value.type.tensor_type
        dtype = onnx.helper.tensor_dtype_to_np_dtype(tensor.elem_type).name
        shape = tuple(dim.dim_param or dim.dim_value for dim in tensor.shape.dim)
        return TensorSpec(value.name, dtype, shape)

    found = tuple(spec(value) for value in (*model.graph.input, *model.graph.output))
    expected = (*metadata.inputs, *metadata.outputs)
    if found != expected:
        raise ExportError(f"the exporter gave the graph the interface {found}, expected {expected}")
