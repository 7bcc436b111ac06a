"""The stages of a network: what its layers give, named, as fault location and profiles see it."""

from collections.abc import Iterator, Mapping
from typing import Protocol

from torch import Tensor, nn

from capsnet.layers.squash import Squash

__all__ = ["Staged", "record_stages"]


class Staged(Protocol):
    """A network with named parts."""

    def parts(self) -> Mapping[str, nn.Module]:
        """Its layers by name, in the order of computation."""
        ...

    def outputs_by_name(self, *inputs: Tensor) -> dict[str, Tensor]:
        """Its outputs, computed by its own forward pass."""
        ...


def record_stages(network: Staged, *inputs: Tensor) -> dict[str, Tensor]:
    """Run a network, and keep what its stages give.

    A layer that names stages of its own (a method ``stages`` that returns modules by name) gives
    those, every other layer one with its own name. A stage that squashes gives two, its ``inputs``
    (s in the paper) and ``capsules`` (v).

    Args:
        network: readable or lowered.
        *inputs: such as images ``[batch, channels, height, width]``, in the network's dtype.

    Returns:
        Every stage by name (``stem``, ``primary_capsules``, ``layer0.iteration1.inputs``, ...), in
        the order of computation, then the network's outputs.
    """
    found: dict[str, Tensor] = {}
    handles = []

    def keep(name: str, module: nn.Module) -> None:
        def hook(_: nn.Module, given: tuple[Tensor, ...], result: Tensor) -> None:
            if isinstance(module, Squash):
                found[f"{name}.inputs"], found[f"{name}.capsules"] = given[0], result
            else:
                found[name] = result

        handles.append(module.register_forward_hook(hook))

    for name, module in _stages(network.parts()):
        keep(name, module)
    try:
        return found | network.outputs_by_name(*inputs)
    finally:
        for handle in handles:
            handle.remove()


def _stages(parts: Mapping[str, nn.Module]) -> Iterator[tuple[str, nn.Module]]:
    for name, part in parts.items():
        own: Mapping[str, nn.Module] = getattr(part, "stages", dict)()
        yield from ((f"{name}.{stage}", module) for stage, module in own.items())
        if not own:
            yield name, part
