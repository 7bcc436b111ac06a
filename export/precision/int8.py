"""int8: the primary convolution in 8-bit integers, through onnxruntime's static quantisation.

It is nearly all of the arithmetic. Quantising the stem as well gains no speed, costs accuracy (two
more of the 10,000 test images), and would clip the image itself; all other large weights are stored
in float16.
"""

import contextlib
import logging
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import numpy_helper

from capsnet.errors import DataError, ExportError, first_line

__all__ = ["FEWEST_IMAGES", "check_calibration", "quantise"]

Images = npt.NDArray[np.float32]

FEWEST_IMAGES = 32
"""Images that calibration needs: fewer do not show the range of the activations."""

_BATCH = 32
_SMALL = 1024  # elements; below, float32 costs nothing


def check_calibration(images: Images, image_shape: tuple[int, ...]) -> None:
    """Refuse images that cannot show what the activations look like.

    Args:
        images: float32 ``[n, channels, height, width]``, values 0..1.
        image_shape: what the network takes.

    Raises:
        DataError: if they are too few, of another shape, or all alike.
    """
    problem = None
    if images.shape[1:] != image_shape:
        problem = f"are {list(images.shape[1:])}, the network takes {list(image_shape)}"
    elif len(images) < FEWEST_IMAGES:
        problem = f"are {len(images)}, it takes at least {FEWEST_IMAGES}"
    elif (images == images[:1]).all():
        problem = "are all the same"
    if problem is not None:
        raise DataError(
            f"the images to calibrate int8 with {problem}; give training images with --calibrate"
        )


def quantise(model: onnx.ModelProto, images: Images) -> onnx.ModelProto:
    """Quantise a lowered network after training (QDQ, per channel, ranges from images).

    Weights keep 7 bits: x86 processors without VNNI add pairs of 8-bit products in 16 bits, where
    full ones would overflow, silently.

    Args:
        model: an exported network in float32.
        images: float32 ``[n, channels, height, width]``, see :func:`check_calibration`.

    Raises:
        ExportError: if the quantiser fails.

    Returns:
        The network with its primary convolution in int8 and other large weights in float16.
    """
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    [given] = model.graph.input
    dims = given.type.tensor_type.shape.dim
    check_calibration(images, tuple(dim.dim_value for dim in dims[1:]))
    convolutions = _inner_convolutions(model.graph)
    if not convolutions:
        raise ExportError(
            "int8 quantises the convolutions behind the first one, and this network has none: "
            "export it in fp32 or fp16"
        )
    fixed = dims[0].dim_value  # 0 for any
    if fixed:
        images = np.resize(images, (-(-len(images) // fixed) * fixed, *images.shape[1:]))

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._parts = iter(
                np.split(images, range(fixed or _BATCH, len(images), fixed or _BATCH))
            )

        def get_next(self) -> dict[str, Images] | None:
            part = next(self._parts, None)
            return None if part is None else {given.name: part}

    with tempfile.TemporaryDirectory() as folder, _quiet():
        path = Path(folder, "quantised.onnx")
        try:
            quantize_static(
                model,
                path,
                Reader(),
                op_types_to_quantize=["Conv"],
                nodes_to_quantize=convolutions,
                per_channel=True,
                reduce_range=True,
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # the quantiser's own errors have many kinds
            raise ExportError(
                f"onnxruntime could not quantise the network: {first_line(error)}"
            ) from error
        quantised = onnx.load(path)
    _store_in_half(quantised.graph)
    used = {node.domain for node in quantised.graph.node}
    imports = [entry for entry in quantised.opset_import if entry.domain in used]
    del quantised.opset_import[:]
    quantised.opset_import.extend(imports)
    quantised.producer_name, quantised.producer_version = (
        model.producer_name,
        model.producer_version,
    )
    return quantised


def _inner_convolutions(graph: onnx.GraphProto) -> list[str]:
    """Names of the convolutions that do not see the image itself."""
    given = {value.name for value in graph.input}
    return [
        node.name for node in graph.node if node.op_type == "Conv" and node.input[0] not in given
    ]


def _store_in_half(graph: onnx.GraphProto) -> None:
    """Store large float32 weights in float16; onnxruntime casts them back once, when it loads."""
    for tensor in graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.dtype == np.float32 and values.size > _SMALL:
            name = tensor.name
            tensor.CopyFrom(numpy_helper.from_array(values.astype(np.float16), f"{name}.half"))
            cast = onnx.helper.make_node(
                "Cast", [tensor.name], [name], name=f"{name}/Cast", to=onnx.TensorProto.FLOAT
            )
            graph.node.insert(0, cast)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Silence the quantiser's advice to simplify the graph first: it is simple."""
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(level)
