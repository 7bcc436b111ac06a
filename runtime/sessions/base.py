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
from capsnet.errors import ArtifactError, ConfigError, DataError
from capsnet.precision import find_precision
from capsnet.runtime.sessions.images import Images, as_images, as_input

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
    def _compute(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        """Run the graph once on a batch that it accepts, of every input by name."""

    def run(
        self, images: npt.ArrayLike | Mapping[str, npt.ArrayLike], *, any_range: bool = False
    ) -> Arrays:
        """Run the network.

        An artifact with a fixed batch size runs as often as the images need; the last batch is
        filled with zero images, whose results are dropped. On the CPU a large batch runs in parts
        of 32: what lies between the layers stays in the caches, and memory stays bounded.

        Args:
            images: float32 ``[batch, channels, height, width]``, values 0..1, whatever the file
                itself takes, or what becomes that without doubt (see
                :func:`capsnet.runtime.sessions.images.as_input`); ``batch`` may be 0. Of a network
                of the user's own, what its ``metadata.inputs`` name, by name where there are
                several.
            any_range: take images with values outside 0..1, too, NaN and infinity included.

        Returns:
            The artifact's outputs by name, float32 with ``batch`` first, in their order.

        Raises:
            DataError: if the images are no floats, not of the artifact's shape, or not of 0..1.
            ArtifactError: if the backend fails, or would wait for threads that a fork has not
                copied.
        """
        self._check_process()
        fixed = self.metadata.fixed_batch
        given = self._inputs(images, any_range)
        count = size = len(next(iter(given.values())))
        if count == 0:
            return {
                spec.name: np.empty((0, *(int(n) for n in spec.shape[1:])), np.float32)
                for spec in self.metadata.outputs
            }
        if fixed is not None:
            size = fixed
            given = {
                name: np.pad(rows, [(0, -count % fixed), *[(0, 0)] * (rows.ndim - 1)])
                for name, rows in given.items()
            }
        elif self.largest_batch is not None:
            size = self.largest_batch
        parts = [
            self._compute({name: rows[i : i + size] for name, rows in given.items()})
            for i in range(0, count, size)
        ]
        if len(parts) == 1:
            return {name: values[:count] for name, values in parts[0].items()}
        return {name: np.concatenate([part[name] for part in parts])[:count] for name in parts[0]}

    def _inputs(
        self, images: npt.ArrayLike | Mapping[str, npt.ArrayLike], any_range: bool
    ) -> Mapping[str, npt.NDArray[Any]]:
        """What the graph takes, by name."""
        specs = self.metadata.inputs
        if not isinstance(images, Mapping):
            if len(specs) > 1:
                names = ", ".join(spec.name for spec in specs)
                raise DataError(f"the artifact takes {names}: give each by name, {{name: array}}")
            images = {specs[0].name: images}
        elif set(images) != {spec.name for spec in specs}:
            names = ", ".join(spec.name for spec in specs)
            raise DataError(f"the inputs are {', '.join(images)}, the artifact takes {names}")
        if not self.metadata.is_own:
            [(name, rows)] = images.items()
            return {name: as_input(rows, self.metadata, "the artifact", any_range=any_range)}
        given = {
            spec.name: as_images(images[spec.name], ("batch", *spec.shape[1:]), "the artifact")
            for spec in specs
        }
        counts = {name: len(rows) for name, rows in given.items()}
        if len(set(counts.values())) > 1:
            raise DataError(f"the inputs have {counts} rows, expected equally many of each")
        return given

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
