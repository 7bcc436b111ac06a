"""Export to ONNX: one self-describing file, byte-identical on repetition."""

import contextlib
import logging
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from capsnet.artifact import METADATA_KEY, ArtifactMetadata, TensorSpec
from capsnet.errors import ConfigError, ExportError, first_line, raise_interruption
from capsnet.export.formats.description import describe, require_format
from capsnet.export.formats.onnx_inputs import convert_input
from capsnet.export.formats.onnx_versions import (
    NATIVE_OPSET,
    drop_needless_allowzero,
    lower_ir_version,
    to_opset_17,
)
from capsnet.export.lower import LoweredNetwork
from capsnet.export.options import TRACE_BATCH, ExportOptions
from capsnet.formats import OPSETS
from capsnet.stages import record_stages

__all__ = ["to_onnx"]


class _Stages(nn.Module):
    """Gives every stage of a lowered network as an output, so that each keeps its name."""

    def __init__(self, lowered: LoweredNetwork) -> None:
        super().__init__()
        self.lowered = lowered

    def forward(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        return tuple(record_stages(self.lowered, *inputs).values())


def to_onnx(
    lowered: LoweredNetwork, path: Path, options: ExportOptions = ExportOptions()
) -> ArtifactMetadata:
    """Write a lowered network as an ONNX file with its metadata inside.

    The same network, options and library versions give the same bytes, wherever and whenever.
    Intermediate tensors keep the names of the network's stages (``capsnet.stages``), and nodes are
    named ``stage/operator``.

    Args:
        lowered: the network, with inputs and outputs in float32.
        path: the file to write.
        options: how to write it.

    Returns:
        The metadata that was written.

    Raises:
        ConfigError: if the format does not have the network's precision, or calibration images are
            missing or not wanted.
        DataError: if the calibration images are too few, of another shape, or all alike.
        ExportError: if the exporter fails, or its result is not a valid model with these inputs and
            outputs.
    """
    require_format(lowered, "onnx")
    precision, calibration = lowered.precision, options.calibration
    if (calibration is not None) != precision.calibrated:
        raise ConfigError(
            f"calibration images go with a precision that is calibrated, and {precision.name} is "
            f"{'' if precision.calibrated else 'not '}one: give them, or leave them out"
        )
    example = lowered.example(options.batch or TRACE_BATCH)
    stages = tuple(record_stages(lowered, *example))
    inputs = dict(zip(lowered.input_shapes, example, strict=True))
    dynamic = options.batch is None
    asked = options.opset or precision.opset
    opset = max(asked or NATIVE_OPSET, NATIVE_OPSET)
    model = _capture(_Stages(lowered), inputs, stages, dynamic=dynamic, opset=opset)
    _keep_only_computation(model, lowered.output_names)
    drop_needless_allowzero(model.graph)
    if asked in (None, 17):
        opset = 17 if to_opset_17(model) else asked or NATIVE_OPSET
    _name_nodes_by_stage(model.graph, stages)
    if precision.finish is not None:
        model = precision.finish(model, calibration)
    convert_input(model.graph, options.input_dtype, options.layout)
    if model.opset_import[0].version != opset:
        raise ExportError(
            f"this network was written in opset {model.opset_import[0].version}, not {opset}: ask "
            f"for another one of {OPSETS[0]} to {OPSETS[-1]}, or for none"
        )
    lower_ir_version(model)
    metadata = describe(
        lowered,
        options,
        exporter="torch.onnx",
        libraries=("torch", "onnx", "onnxscript"),
        opset=model.opset_import[0].version,
        ir_version=model.ir_version,
    )
    onnx.helper.set_model_props(model, {METADATA_KEY: metadata.to_json()})
    model.doc_string = metadata.describe()
    _check(model)
    _check_interface(model, metadata)
    path.write_bytes(model.SerializeToString(deterministic=True))
    return metadata


def _check(model: onnx.ModelProto) -> None:
    """Raise ExportError if the model breaks ONNX's rules."""
    try:
        onnx.checker.check_model(model, full_check=True)
        onnx.shape_inference.infer_shapes(model, check_type=True, strict_mode=True, data_prop=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        raise ExportError(f"the exported ONNX model is not valid: {error}") from error


def _capture(
    module: nn.Module,
    inputs: Mapping[str, Tensor],
    outputs: tuple[str, ...],
    *,
    dynamic: bool,
    opset: int,
) -> onnx.ModelProto:
    batch = {0: torch.export.Dim("batch")} if dynamic else {}
    with _quiet():
        try:
            program = torch.onnx.export(
                module.eval(),
                tuple(inputs.values()),
                dynamo=True,
                verbose=False,
                input_names=list(inputs),
                output_names=outputs,
                opset_version=opset,
                dynamic_shapes=((batch,) * len(inputs),),  # of *inputs
            )
        except Exception as error:  # the exporter's own errors have many kinds
            raise_interruption(error)
            raise ExportError(
                f"torch.onnx could not export the network: {first_line(error)}"
            ) from error
    assert program is not None
    return program.model_proto


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence torch's exporter: a deprecation inside it, the lack of torchvision."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
            # Several inputs have one batch.
            warnings.filterwarnings("ignore", message=r"# The axis name: batch will not be used")
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
    computed = {name for node in graph.node for name in node.output}
    known = [value for value in graph.value_info if value.name in computed]
    graph.ClearField("value_info")  # weights carry their own types and shapes
    graph.value_info.extend(known)
    for tensor in graph.initializer:
        tensor.name = _weight_name(tensor.name)
    for node in graph.node:
        node.input[:] = [_weight_name(name) for name in node.input]


def _weight_name(name: str) -> str:
    """A weight's name without the modules around the network and its layers."""
    for outer in ("lowered.", "layers.", "network.module."):
        name = name.removeprefix(outer)
    return name


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
        # Its first result may be one that nothing needs.
        stage = next((stage_of[name] for name in node.output if name in stage_of), stages[-1])
        name = f"{stage}/{node.op_type}"
        count[name] += 1
        node.name = name if count[name] == 1 else f"{name}_{count[name]}"
    kept = {*stages, *(value.name for value in graph.output)}
    renamed = {
        output: f"{node.name}.{index}" if index else node.name
        for node in graph.node
        for index, output in enumerate(node.output)
        if output and output not in kept
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
