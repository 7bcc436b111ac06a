"""The network that artifacts are judged by, and what it is run on."""

import dataclasses
from typing import NamedTuple

import torch
from torch import nn

from capsnet.data.batch import Batch
from capsnet.errors import DataError
from capsnet.files import file_sha256
from capsnet.model import CapsNet
from capsnet.networks import NetworkSource, load_network
from capsnet.own import OwnNetwork, input_names, weights_digest
from capsnet.runtime.proof.images import ProofImages, load_images, load_inputs
from capsnet.runtime.proof.request import Request
from capsnet.vetting import vet

__all__ = ["Judge", "network_and_images", "read_network"]

_EXAMPLE = 3  # rows that a user's own network is looked at with


class Judge(NamedTuple):
    """What artifacts are judged by.

    Attributes:
        network: the readable one.
        digest: SHA-256 of its checkpoint, or of the weights of a network without one.
        given: what to run.
    """

    network: CapsNet | OwnNetwork
    digest: str
    given: ProofImages


def network_and_images(request: Request) -> Judge:
    """The network and the images that a request names.

    Raises:
        ConfigError: if a user's own network cannot be made, or cannot be proven.
        CheckpointError, DataError: if what it names cannot be read, or does not fit.
    """
    module = load_network(request.network)
    if type(module) is CapsNet:
        digest = _digest(request.network, module)
        given = load_images(request, module.config, digest, module.about)
        return Judge(module, digest, given)
    given = load_inputs(request, input_names(module))
    return Judge(_own(module, given.images), weights_digest(module), given)


def read_network(request: Request) -> tuple[CapsNet | OwnNetwork, str]:
    """The network alone, and its digest; the images only tell the shapes of its inputs."""
    module = load_network(request.network)
    if type(module) is CapsNet:
        return module, _digest(request.network, module)
    few = dataclasses.replace(request, samples=_EXAMPLE)
    images = load_inputs(few, input_names(module)).images
    return _own(module, images), weights_digest(module)


def _own(module: nn.Module, rows: Batch) -> OwnNetwork:
    """A user's own network that can be exported and proven."""
    if len(rows) < 2:
        raise DataError(
            f"there is {len(rows)} row of inputs, expected at least 2: whether the rows of a batch "
            "meet is not seen with fewer"
        )
    example = {name: torch.from_numpy(array) for name, array in rows[:_EXAMPLE].arrays.items()}
    network = OwnNetwork(module, example)
    vet(network, list(example.values()))
    return network


def _digest(source: NetworkSource, module: CapsNet) -> str:
    if source.model is None and source.checkpoint is not None:
        return file_sha256(source.checkpoint)
    return weights_digest(module)
