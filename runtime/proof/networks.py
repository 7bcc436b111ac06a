"""The network that artifacts are judged by, and what it is run on."""

import dataclasses
import functools
from collections.abc import Mapping
from typing import Any

import torch

from capsnet.config import CapsNetConfig
from capsnet.data.batch import Rows
from capsnet.errors import DataError
from capsnet.files import file_sha256
from capsnet.model import CapsNet
from capsnet.networks import load_network
from capsnet.own import OwnNetwork, identity_of, input_names, weights_digest
from capsnet.runtime.proof.images import ProofImages, load_images, load_inputs
from capsnet.runtime.proof.request import Request
from capsnet.runtime.sessions.base import Session
from capsnet.vetting import vet

__all__ = ["RequestedNetwork"]

_EXAMPLE = 3  # rows that a user's own network is looked at with


class RequestedNetwork:
    """The network that a request names. The images are read when they are first needed.

    Args:
        request: what is asked for.

    Attributes:
        digest: SHA-256 of its checkpoint, or of the weights of a network without one.

    Raises:
        ConfigError: if a user's own network cannot be made.
        CheckpointError: if its weights cannot be read, or do not fit.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._module = load_network(request.network)
        if self._readable is not None and request.network.model is None:
            assert request.network.checkpoint is not None
            self.digest = file_sha256(request.network.checkpoint)
        else:
            self.digest = weights_digest(self._module)

    @property
    def _readable(self) -> CapsNet | None:
        """The network where it is one of ours; a subclass may compute otherwise."""
        module = self._module
        return module if type(module) is CapsNet else None

    @functools.cached_property
    def network(self) -> CapsNet | OwnNetwork:
        """The network, as artifacts are made of it.

        Raises:
            ConfigError: if a user's own cannot be exported and proven.
            DataError: if there are no inputs that tell the shapes that it takes.
        """
        if self._readable is not None:
            return self._readable
        few = dataclasses.replace(self._request, samples=_EXAMPLE)
        rows = load_inputs(few, input_names(self._module)).images
        if len(rows) < 2:
            raise DataError(
                f"there is {len(rows)} row of inputs, expected at least 2: whether the rows of a "
                "batch meet is not seen with fewer"
            )
        example = {name: torch.from_numpy(array) for name, array in rows.arrays.items()}
        network = OwnNetwork(self._module, example)
        vet(network, list(example.values()))
        return network

    @functools.cached_property
    def given(self) -> ProofImages[Rows]:
        """What to run.

        Raises:
            DataError: if it cannot be read, or does not fit.
        """
        readable = self._readable
        if readable is None:
            return load_inputs(self._request, input_names(self._module))
        return load_images(self._request, readable.config, self.digest, readable.about)

    def differs(self, session: Session) -> str | None:
        """Why an artifact is of another network, in words; None where it is of this one."""
        metadata, readable = session.metadata, self._readable
        if metadata.checkpoint_sha256 not in (None, self.digest):
            return (
                f"it names a checkpoint with SHA-256 {metadata.checkpoint_sha256}, this one has "
                f"{self.digest}"
            )
        own = identity_of(self._module) if readable is None else dataclasses.asdict(readable.config)
        found: Mapping[str, Any] = metadata.config
        if not metadata.is_own:  # of whatever version wrote it
            found = dataclasses.asdict(CapsNetConfig.from_dict(found))
        for part in {**own, **found}:
            if found.get(part) != own.get(part):
                return (
                    f"the {part} of its network is {found.get(part)}, that of this one "
                    f"{own.get(part)}"
                )
        return None
