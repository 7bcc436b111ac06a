"""Every test starts from the same random numbers, on one thread: sums are then reproducible."""

from collections.abc import Callable

import pytest
import torch

from capsnet.config import CapsNetConfig
from capsnet.model import CapsNet


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture
def lively() -> Callable[[CapsNetConfig], CapsNet]:
    """Makes float64 networks with long class capsules: in fresh ones routing hardly matters."""

    def build(config: CapsNetConfig) -> CapsNet:
        model = CapsNet(config).double()
        with torch.no_grad():
            for layer in model.capsule_layers:
                layer.weight *= 10 if config.primary.activation == "squash" else 100
        return model

    return build
