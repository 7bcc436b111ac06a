"""One way to run every artifact: images in, named arrays out, on the device that was asked for."""

import os
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.artifact import ArtifactMetadata
from capsnet.device import Device
from capsnet.errors import ArtifactError, ConfigError
from capsnet.precision import find_precision
from capsnet.runtime.sessions.images import Images, as_input

__all__ = ["Arrays", "Device", "Images", "Session", "refuse_foreign"]

Arrays = dict[str, npt.NDArray[np.float32]]


def refuse_foreign(path: Path, content: bytes, check: Callable[[bytes], None]) -> None:
    """Raise ArtifactError, which names the file, where its content is not what exporters write."""
    try:
        check(content)
    except ArtifactError as error:
        raise ArtifactError(
            f"{path} is truncated, damaged, or not what capsnet-export writes: {error}"
        ) from error


class Session(ABC):
    """An opened artifact.

    Attributes:
        format: the name of its row in :data:`capsnet.formats.FORMATS`.
        device: where it really runs, ``"cpu"`` or ``"cuda"``, or in what other runtime than its
            format's own.
        device_reason: why there.
        metadata: what the artifact says about itself.
        largest_batch: images that are computed at once; more run in parts. None for no limit.
        bytes: size of the file.
        sha256: of the bytes that were opened, lower-case hexadecimal.
        notes: where this environment differs from that of the certificate that was required.
        survives_fork: whether it runs in a process that was forked after it was opened.
    """

    format: str
    device: str
    device_reason: str
    metadata: ArtifactMetadata
    largest_batch: int | None = None
    bytes: int = 0
    sha256: str = ""
    notes: tuple[str, ...] = ()
    survives_fork: bool = True
    _opened_by: int | None = None

    @property
    @abstractmethod
    def placement(self) -> Mapping[str, str]:
        """The provider (or device) that each node of the graph runs on."""

    @property
    @abstractmethod
    def operators(self) -> Mapping[str, int]:
        """How often each operator occurs in the graph."""

    @abstractmethod
    def _compute(self, images: npt.NDArray[Any]) -> Arrays:
        """Run the graph once on a batch that it accepts."""

    def run(self, images: npt.ArrayLike) -> Arrays:
        """Run the network.

        An artifact with a fixed batch size runs as often as the images need; the last batch is
        filled with zero images, whose results are dropped. On the CPU a large batch runs in parts
        of 32: what lies between the layers stays in the caches, and memory stays bounded.

        Args:
            images: float32 ``[batch, channels, height, width]``, values 0..1, whatever the file
                itself takes, or what becomes that without doubt (see
                :func:`capsnet.runtime.sessions.images.as_input`); ``batch`` may be 0.

        Returns:
            The artifact's outputs by name, float32 with ``batch`` first, in their order.

        Raises:
            DataError: if the images are no floats, or not of the artifact's shape.
            ArtifactError: if the backend fails, or would wait for threads that a fork has not
                copied.
        """
        self._check_process()
        fixed = self.metadata.fixed_batch
        given = as_input(images, self.metadata, "the artifact")
        count = size = len(given)
        if count == 0:
            return {
                spec.name: np.empty((0, *(int(n) for n in spec.shape[1:])), np.float32)
                for spec in self.metadata.outputs
            }
        if fixed is not None:
            size = fixed
            given = np.pad(given, [(0, -count % fixed), *[(0, 0)] * (given.ndim - 1)])
        elif self.largest_batch is not None:
            size = self.largest_batch
        parts = [self._compute(given[i : i + size]) for i in range(0, len(given), size)]
        if len(parts) == 1:
            return {name: values[:count] for name, values in parts[0].items()}
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    def _check_process(self) -> None:
        if not self.survives_fork and self._opened_by not in (None, os.getpid()):
            raise ArtifactError(
                "the session was opened before this process was forked, and its threads are not "
                "here: open it in each process, or start processes with spawn"
            )

    def _take_metadata(self, path: Path, document: str | None) -> None:
        """Parse the document inside the file; raise ArtifactError where there is none to trust."""
        self._opened_by = os.getpid()
        if document is None:
            raise ArtifactError(
                f"{path} is {self.format} without capsnet metadata: export it with capsnet-export"
            )
        try:
            self.metadata = ArtifactMetadata.from_json(document)
        except ArtifactError as error:
            raise ArtifactError(f"{path}: {error}") from error

    def _check_claims(self, path: Path) -> None:
        """Raise ArtifactError where the graph is not what the metadata says that it is."""
        try:
            precision = find_precision(self.metadata.precision)
        except ConfigError as error:
            raise ArtifactError(
                f"{path}: the metadata is damaged: {error}; export again"
            ) from error
        operators = self.operators
        for claim in (*self.metadata.claims, *precision.claims):
            problem = claim.problem(operators)
            if problem is not None:
                raise ArtifactError(
                    f"{path}: the metadata contradicts the graph: {problem}; export it again"
                )

    def providers(self) -> dict[str, int]:
        """How many nodes each provider runs."""
        return dict(Counter(self.placement.values()))
