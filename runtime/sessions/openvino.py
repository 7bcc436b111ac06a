"""Sessions on OpenVINO, for ONNX artifacts on CPUs: in the extra ``openvino``."""

import threading
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.artifact import METADATA_KEY
from capsnet.device import Device
from capsnet.errors import ArtifactError, DeviceError, first_line
from capsnet.runtime.sessions.base import Arrays, Session, refuse_foreign
from capsnet.runtime.sessions.onnx_check import check_onnx, onnx_metadata, onnx_operators
from capsnet.runtime.sessions.onnx_sizes import check_sizes_of_onnx
from capsnet.runtime.sessions.threads import usable_cpus

try:
    import openvino
except ImportError as error:
    raise DeviceError(
        f"OpenVINO cannot be imported: {first_line(error)}; install capsnet-export[openvino]"
    ) from error

__all__ = ["OpenVinoSession"]


class OpenVinoSession(Session):
    """An ONNX artifact in OpenVINO's CPU plugin, computed in float32 where the file says so.

    Args:
        path: the ``.onnx`` file, for messages.
        content: of the file.
        device: ``"auto"`` or ``"cpu"``.
        threads: to compute with; None for all CPUs that this process may use.
        tf32: of no meaning here.

    Raises:
        ArtifactError: if OpenVINO cannot load the file, or it is not from this toolkit.
        DeviceError: if CUDA was asked for.
    """

    format = "onnx"
    survives_fork = False

    def __init__(
        self,
        path: Path,
        content: bytes,
        device: Device,
        threads: int | None = None,
        tf32: bool = False,  # noqa: ARG002 - as of every session
    ) -> None:
        if device == "cuda":
            raise DeviceError(f"OpenVINO runs {path} on the CPU alone; use --device cpu")
        refuse_foreign(path, content, check_onnx)
        refuse_foreign(path, content, check_sizes_of_onnx)
        self.device, self.device_reason = "openvino", "it was asked for"
        self._operators = onnx_operators(content)
        options = {
            # On CPUs with bfloat16 it would compute in that.
            "INFERENCE_PRECISION_HINT": "f32",
            "INFERENCE_NUM_THREADS": str(threads or usable_cpus()),
        }
        try:
            core = openvino.Core()
            self._model = core.compile_model(core.read_model(content), "CPU", options)
        except RuntimeError as error:
            raise ArtifactError(f"OpenVINO cannot load {path}: {first_line(error)}") from error
        self._requests = threading.local()
        self._take_metadata(path, onnx_metadata(content, METADATA_KEY))
        self._check_names(path)
        self._check_claims(path)

    @property
    def placement(self) -> Mapping[str, str]:
        """The nodes that OpenVINO made of the graph: all of them run in its CPU plugin."""
        operations = self._model.get_runtime_model().get_ordered_ops()
        return {operation.get_friendly_name(): "OpenVINO CPU" for operation in operations}

    @property
    def operators(self) -> Mapping[str, int]:
        """Operators of the file: OpenVINO merges them into nodes of its own."""
        return self._operators

    def _compute(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        try:
            if not hasattr(self._requests, "own"):  # a request serves one thread
                self._requests.own = self._model.create_infer_request()
            results = self._requests.own.infer(dict(inputs))
        except RuntimeError as error:
            count = len(next(iter(inputs.values())))
            raise ArtifactError(
                f"OpenVINO failed on a batch of {count}: {first_line(error)}"
            ) from error
        # The request's memory is used again for the next batch.
        return {spec.name: np.array(results[spec.name]) for spec in self.metadata.outputs}

    def _check_names(self, path: Path) -> None:
        """Raise ArtifactError where the graph's inputs and outputs are not the metadata's."""
        expected = Counter(spec.name for spec in (*self.metadata.inputs, *self.metadata.outputs))
        ports = (*self._model.inputs, *self._model.outputs)
        if Counter(name for port in ports for name in port.get_names()) != expected:
            raise ArtifactError(
                f"{path}: the metadata contradicts the graph: expected the inputs and outputs "
                f"{', '.join(expected)}; export it again"
            )
