"""What the sessions on torch share: device, metadata, and running a module."""

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from capsnet.device import Device, choose_device, why_torch_has_no_cuda
from capsnet.errors import ArtifactError, CapsNetError, first_line
from capsnet.runtime.sessions.allowed import check_elements
from capsnet.runtime.sessions.base import Arrays, Session, refuse_foreign
from capsnet.runtime.sessions.threads import usable_cpus
from capsnet.runtime.sessions.torch_sizes import shapes_of

__all__ = ["Loaded", "TorchSession"]


@dataclass(frozen=True)
class Loaded:
    """What torch finds in a file.

    Attributes:
        document: the metadata; empty where there is none.
        call: runs the network, on the session's device.
        nodes: name and operator of every node of its graph.
    """

    document: str
    call: Callable[..., Sequence[Tensor]]
    nodes: Sequence[tuple[str, str]]


class TorchSession(Session):
    """An artifact that torch runs.

    Args:
        path: the file, for messages.
        content: of the file.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        threads: to compute with; None for all CPUs that this process may use.
        tf32: let CUDA round the inputs of float32 products to 10 bits.

    Raises:
        ArtifactError: if the file cannot be loaded, is not from this toolkit, or
            contradicts itself.
        DeviceError: if CUDA was asked for and is not there.
    """

    survives_fork = False  # its pool of threads would be waited for without end

    def __init__(
        self,
        path: Path,
        content: bytes,
        device: Device,
        threads: int | None = None,
        tf32: bool = False,
    ) -> None:
        refuse_foreign(path, content, self._check_content)
        choice = choose_device(device, "" if device == "cpu" else why_torch_has_no_cuda(), path)
        self.device, self.device_reason = choice.device, choice.reason
        torch.set_num_threads(threads or usable_cpus())
        if self.device == "cuda":
            torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = tf32
        try:
            loaded = self._load(content)
        except CapsNetError as error:
            raise ArtifactError(f"{path}: {error}") from error
        except Exception as error:  # torch raises almost anything for a file that is damaged
            raise ArtifactError(
                f"torch cannot load {path}: {first_line(error)}; the file is truncated, damaged, "
                "or needs another torch: export it again"
            ) from error
        self._call, self._nodes = loaded.call, loaded.nodes
        self._take_metadata(path, loaded.document or None)
        self._check_claims(path)
        self._check_interface(path)

    @abstractmethod
    def _check_content(self, content: bytes) -> None:
        """Raise ArtifactError where the file holds more than a network; torch is not asked yet."""

    @abstractmethod
    def _load(self, content: bytes) -> Loaded:
        """The network in the file, on ``self.device``; nothing of it runs."""

    @property
    def placement(self) -> Mapping[str, str]:
        """torch runs the whole graph on one device."""
        return {name: f"torch {self.device}" for name, _ in self._nodes}

    @property
    def operators(self) -> Mapping[str, int]:
        """Operators of the graph's nodes."""
        return Counter(operator for _, operator in self._nodes)

    def _compute(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        # torch shares memory, and only that which is writable and goes forward.
        shared = [
            torch.from_numpy(np.require(inputs[spec.name], requirements=("C", "W")))
            for spec in self.metadata.inputs
        ]
        try:
            with torch.inference_mode():
                values = self._call(*(rows.to(self.device) for rows in shared))
                arrays = [value.cpu().numpy() for value in values]
        except (RuntimeError, ValueError) as error:
            raise ArtifactError(
                f"torch failed on a batch of {len(shared[0])}: {_last_line(error)}"
            ) from error
        return dict(zip((spec.name for spec in self.metadata.outputs), arrays, strict=False))

    def _check_interface(self, path: Path) -> None:
        """Raise ArtifactError where an image gives other outputs than the metadata says.

        torch's graphs do not declare shapes that could be read. Nothing is computed: what a graph
        makes of its own weights could take any memory.
        """
        fixed = self.metadata.fixed_batch
        expected = [(spec.dtype, spec.shape[1:]) for spec in self.metadata.outputs]

        def count(images: int) -> int:
            batch = fixed or images
            shapes = [[batch, *map(int, spec.shape[1:])] for spec in self.metadata.inputs]
            try:
                values, elements = shapes_of(self._call, shapes)
                found = [(str(v.dtype).removeprefix("torch."), tuple(v.shape)) for v in values]
            except (RuntimeError, ValueError, TypeError, AttributeError) as error:
                raise ArtifactError(
                    f"{path}: the metadata contradicts the graph, which does not take "
                    f"{', '.join(map(str, shapes))}: {_last_line(error)}; export it again"
                ) from error
            if found != [(dtype, (batch, *sizes)) for dtype, sizes in expected]:
                raise ArtifactError(
                    f"{path}: the metadata contradicts the graph: its outputs are {found}, the "
                    f"metadata says {expected} for each image; export it again"
                )
            return elements

        check_elements(count)


def _last_line(error: Exception) -> str:
    """The reason, which torch gives below its own stack trace."""
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
