"""Small networks, their exports, and ways to break an artifact: shared by the export's tests."""

import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from support.networks import SMALL, lively_model

from capsnet.artifact import INPUT_NAME, METADATA_KEY, ArtifactMetadata, TensorSpec
from capsnet.config import CapsNetConfig
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower import lower
from capsnet.export.options import ExportOptions
from capsnet.runtime.proof.reference import EagerModel


def metadata_for(
    config: CapsNetConfig,
    names: tuple[str, ...] = ("lengths", "capsules"),
    precision: str = "fp32",
    batch: int | str = "batch",
) -> ArtifactMetadata:
    """What an artifact of ``config`` with these outputs says about itself."""
    shapes = {
        "lengths": (config.classes,),
        "capsules": (config.classes, config.class_dim),
        "reconstruction": config.image_shape,
    }
    return ArtifactMetadata(
        toolkit_version="0",
        exporter="none",
        versions={},
        checkpoint_sha256=None,
        config=json.loads(config.to_json()),
        precision=precision,
        inputs=(TensorSpec(INPUT_NAME, "float32", (batch, *config.image_shape)),),
        outputs=tuple(TensorSpec(name, "float32", (batch, *shapes[name])) for name in names),
    )


def golden_outputs(
    config: CapsNetConfig, images: np.ndarray, names: tuple[str, ...]
) -> dict[str, np.ndarray]:
    """What the readable model of ``config`` gives in float64."""
    return EagerModel(lively_model(config), torch.float64).run(images, names)


def onnx_bytes(
    config: CapsNetConfig = SMALL,
    *,
    reconstruction: bool = False,
    batch: int | None = None,
    opset: int | None = None,
    routing: str = "auto",
) -> bytes:
    """The ONNX artifact of the lively model of ``config``; every variant is exported once."""
    return _onnx_bytes(config, reconstruction, batch, opset, routing)


@functools.cache
def _onnx_bytes(
    config: CapsNetConfig, reconstruction: bool, batch: int | None, opset: int | None, routing: str
) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.onnx"
        forms = {} if routing == "auto" else {"routing": routing}
        lowered = lower(lively_model(config), reconstruction=reconstruction, forms=forms)
        to_onnx(lowered, path, ExportOptions(batch=batch, opset=opset))
        return path.read_bytes()


def parsed(content: bytes) -> onnx.ModelProto:
    """The ONNX model in an artifact."""
    return onnx.ModelProto.FromString(content)


def edited(content: bytes, edit: Callable[[onnx.ModelProto], object]) -> bytes:
    """The artifact after ``edit`` has changed its ONNX model in place."""
    model = parsed(content)
    edit(model)
    return model.SerializeToString(deterministic=True)


def metadata_of(content: bytes) -> dict[str, Any]:
    """The JSON document inside an artifact."""
    (text,) = [p.value for p in parsed(content).metadata_props if p.key == METADATA_KEY]
    return json.loads(text)


def with_metadata(content: bytes, document: dict[str, Any] | str) -> bytes:
    """The artifact with another JSON document, or with any text in its place."""
    text = document if isinstance(document, str) else json.dumps(document)
    return edited(content, lambda model: onnx.helper.set_model_props(model, {METADATA_KEY: text}))


def with_weight(name: str, change: Callable[[np.ndarray], None]) -> Callable[..., None]:
    """An edit: ``change`` alters the initializer of that name in place."""

    def edit(model: onnx.ModelProto) -> None:
        (tensor,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
        values = numpy_helper.to_array(tensor).copy()
        change(values)
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    return edit


def with_reordered_classes(model: onnx.ModelProto) -> None:
    """An edit: every class takes the place of the next one, in all outputs that have classes."""
    classes = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    order = numpy_helper.from_array(np.roll(np.arange(classes), 1), "class_order")
    model.graph.initializer.append(order)
    for name in ("lengths", "capsules"):
        for node in model.graph.node:
            node.input[:] = [f"{name}.sorted" if n == name else n for n in node.input]
            node.output[:] = [f"{name}.sorted" if n == name else n for n in node.output]
        model.graph.node.append(
            onnx.helper.make_node(
                "Gather",
                [f"{name}.sorted", "class_order"],
                [name],
                name=f"{name}/Gather_reordered",
                axis=1,
            )
        )


def with_dynamic_interface(model: onnx.ModelProto) -> None:
    """An edit: the graph and its metadata claim any batch, whatever is baked in between."""
    (text,) = [p.value for p in model.metadata_props if p.key == METADATA_KEY]
    document = json.loads(text)
    for spec in (*document["inputs"], *document["outputs"]):
        spec["shape"][0] = "batch"
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "batch"
    model.graph.ClearField("value_info")
    onnx.helper.set_model_props(model, {METADATA_KEY: json.dumps(document)})
