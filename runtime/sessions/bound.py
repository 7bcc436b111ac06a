"""Buffers that stay on the device: for serving one batch size again and again."""

import numpy as np
import numpy.typing as npt
import onnxruntime

from capsnet.artifact import ArtifactMetadata
from capsnet.errors import ArtifactError, DataError, first_line
from capsnet.runtime.sessions.base import Arrays
from capsnet.runtime.sessions.images import as_input

__all__ = ["GRAPH", "NO_GRAPH", "BoundBatch"]

GRAPH = "gpu_graph_id"
"""Run option of onnxruntime: which CUDA graph to capture and replay."""
NO_GRAPH = "-1"


class BoundBatch:
    """One batch size of an ONNX session, with its inputs and outputs bound to memory on the device.

    ``write``, ``run`` and ``read`` are what ``Session.run`` does in one: the copy to the device,
    the network, and the copy back. Made by ``OrtSession.bind``.

    Args:
        session: of onnxruntime.
        metadata: of its artifact.
        batch: images a run; an artifact with a fixed batch size takes no other.
        device: where the buffers lie, ``"cpu"`` or ``"cuda"``.
        graph: number of the CUDA graph to capture in the first run and to replay from then on; None
            to launch every kernel anew.

    Raises:
        DataError: if the artifact does not take this batch size.
        ArtifactError: if the device has no memory for it.
    """

    def __init__(
        self,
        session: onnxruntime.InferenceSession,
        metadata: ArtifactMetadata,
        batch: int,
        device: str,
        graph: int | None = None,
    ) -> None:
        fixed = metadata.inputs[0].shape[0]
        if batch < 1 or (isinstance(fixed, int) and batch != fixed):
            expected = fixed if isinstance(fixed, int) else "at least 1"
            raise DataError(f"a batch of {batch} cannot be bound, expected {expected}")
        if len(metadata.inputs) > 1:
            raise DataError(
                f"only one input can be bound, and the artifact takes {len(metadata.inputs)}: "
                "run its session instead"
            )
        self._session = session
        self._binding = session.io_binding()
        [given] = metadata.inputs
        self._metadata, self._batch = metadata, batch
        self._values: dict[str, onnxruntime.OrtValue] = {}
        for spec in (given, *metadata.outputs):
            shape = [batch, *(int(size) for size in spec.shape[1:])]
            try:
                value = onnxruntime.OrtValue.ortvalue_from_shape_and_type(
                    shape, np.dtype(spec.dtype), device, 0
                )
            except Exception as error:  # onnxruntime's own errors have many kinds
                raise ArtifactError(
                    f"{spec.name} of a bound batch of {batch} does not fit on the device: "
                    f"{first_line(error)}; bind a smaller one"
                ) from error
            self._values[spec.name] = value
        self._input = self._values.pop(given.name)
        self._binding.bind_ortvalue_input(given.name, self._input)
        for name, value in self._values.items():
            self._binding.bind_ortvalue_output(name, value)
        self._options = onnxruntime.RunOptions()
        if graph is not None:
            self._options.add_run_config_entry(GRAPH, str(graph))

    def write(self, images: npt.ArrayLike) -> None:
        """Copy images to the device.

        Args:
            images: float32 ``[batch, channels, height, width]``, values 0..1, or what
                :meth:`Session.run` takes in their place.

        Raises:
            DataError: if they are no floats, or of another shape.
        """
        given = as_input(images, self._metadata, "what is bound", self._batch)
        self._input.update_inplace(np.ascontiguousarray(given))

    def run(self) -> None:
        """Run the network on what was written, until it is done.

        Raises:
            ArtifactError: if onnxruntime fails.
        """
        try:
            self._session.run_with_iobinding(self._binding, self._options)
            self._binding.synchronize_outputs()
        except Exception as error:  # onnxruntime's own errors have many kinds
            raise ArtifactError(
                f"onnxruntime failed on a bound batch of {self._batch}: {first_line(error)}"
            ) from error

    def read(self) -> Arrays:
        """Copy the outputs of the last run from the device: float32 by name, batch first."""
        return {name: np.array(value.numpy()) for name, value in self._values.items()}
