"""Every test starts from the same random numbers, on one thread: sums are then reproducible.

No test has a network, nor has any process that it starts.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from support.offline import sitecustomize

from capsnet.config import CapsNetConfig
from capsnet.model import CapsNet

_OFFLINE = str(Path(sitecustomize.__file__).parent)
os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [_OFFLINE, os.environ.get("PYTHONPATH")]))

# Jobs in the background ignore these, and so would every process that tests start.
signal.signal(signal.SIGINT, signal.default_int_handler)
signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.fixture(autouse=True)
def _reproducible() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _signals_as_before() -> Iterator[None]:
    """The command line handles signals until its process ends; here it does not end."""
    earlier = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    hook = sys.unraisablehook
    yield
    for number, handler in earlier.items():
        signal.signal(number, handler)
    sys.unraisablehook = hook


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
