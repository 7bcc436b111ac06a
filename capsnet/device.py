"""Where to compute: what was asked for, and what is there. Imports torch only when it is asked."""

from dataclasses import dataclass
from typing import Literal, get_args

from capsnet.errors import ConfigError, DeviceError

__all__ = ["Choice", "Device", "choose_device", "why_torch_has_no_cuda"]

Device = Literal["auto", "cpu", "cuda"]


@dataclass(frozen=True)
class Choice:
    """A device, and why it was chosen."""

    device: Literal["cpu", "cuda"]
    reason: str


def choose_device(asked: Device, why_no_cuda: str, what: object) -> Choice:
    """Take CUDA where it was asked for or works, else the CPU.

    Args:
        asked: ``"auto"`` takes CUDA where it works; the others insist.
        why_no_cuda: why CUDA cannot be used; empty where it can. Does not matter to ``"cpu"``.
        what: what is to run there, for the message: a file, or words.

    Raises:
        DeviceError: if CUDA was asked for and cannot be used.
    """
    if asked not in get_args(Device):
        raise ConfigError(f"device must be one of {', '.join(get_args(Device))}, got {asked!r}")
    if asked == "cpu":
        return Choice("cpu", "as asked")
    if not why_no_cuda:
        return Choice("cuda", "as asked" if asked == "cuda" else "it works")
    if asked == "cuda":
        raise DeviceError(f"no CUDA for {what}: {why_no_cuda}; set the device to cpu or auto")
    return Choice("cpu", why_no_cuda)


def why_torch_has_no_cuda() -> str:
    """Why torch cannot use CUDA here; empty where it can."""
    import torch

    if torch.cuda.is_available():
        return ""
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is a CPU build"
    return f"torch {torch.__version__} was built for CUDA {torch.version.cuda} but finds no device"
