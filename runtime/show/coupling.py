"""Coupling coefficients of a readable network, and where its capsules see the image."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from capsnet.layers.base import LayerConfig, Shape
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.em import EMConfig
from capsnet.layers.stem import positions
from capsnet.model import CapsNet
from capsnet.runtime.show.results import Places

__all__ = ["couplings_of", "grid_of", "places_of", "why_no_couplings"]


class _Softmaxes(TorchFunctionMode):
    """Keeps the result of every softmax inside such a block: what routing couples with."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[Tensor] = []

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if func is torch.softmax:
            self.found.append(result)
        return result


def why_no_couplings(model: CapsNet) -> str | None:
    """Why a network has no couplings to show; None where it has."""
    routing, before = _last_layers(model)
    kind = routing.kind
    if not isinstance(routing, DynamicConfig | EMConfig):
        return f"its class capsules are routed by {kind}, which has no routing iterations"
    if isinstance(routing, EMConfig) and routing.routing_iterations == 1:
        return "one iteration of EM routing couples everything alike"
    if grid_of(model) is None:
        return (
            f"its class capsules are routed from capsules that stand at no place of the image "
            f"({before.kind})"
        )
    return None


def grid_of(model: CapsNet) -> tuple[int, int] | None:
    """Rows and columns of the capsules that the class capsules are routed from."""
    _, before = _last_layers(model)
    kernel, stride = getattr(before, "kernel", None), getattr(before, "stride", None)
    given: Shape = getattr(before, "grid", model.config.shapes[-3][1:])
    if kernel is None or stride is None or len(given) != 2:
        return None
    return positions((1, *given), kernel, stride)


def couplings_of(model: CapsNet, images: Tensor) -> Tensor:
    """Couplings of each routing iteration, for a network that :func:`why_no_couplings` allows.

    They are read out of the layer while it runs. A layer whose first couplings are no softmax, as
    in EM routing, starts with uniform ones.

    Args:
        model: the readable network.
        images: ``[batch, channels, height, width]``, in the network's dtype.

    Returns:
        ``[batch, iterations, rows, columns, classes]``: the mean over the capsules of a position.
    """
    grid = grid_of(model)
    assert grid is not None
    *parts, routing = model.parts().values()
    with torch.no_grad(), _Softmaxes() as softmaxes:
        for part in parts:
            images = part(images)
        softmaxes.found.clear()
        routing(images)
    found = softmaxes.found
    uniform = torch.full_like(found[0], 1 / model.config.classes)
    routing_config, _ = _last_layers(model)
    assert isinstance(routing_config, DynamicConfig | EMConfig)
    iterations = routing_config.routing_iterations
    stacked = torch.stack([uniform] * (iterations - len(found)) + found, dim=1)
    mean: Tensor = stacked.unflatten(2, (*grid, -1)).mean(dim=4)
    return mean


def places_of(model: CapsNet) -> Places:
    """Where the capsules that are routed see the image: found by gradients, for any layers.

    Args:
        model: one that :func:`why_no_couplings` allows.
    """
    grid = grid_of(model)
    assert grid is not None
    ends = [_field(model, row, column) for row, column in ((0, 0), (grid[0] - 1, grid[1] - 1))]
    (top, left), (bottom, right) = ([(low + high) / 2 for low, high in end] for end in ends)
    height, width = (high - low + 1 for low, high in ends[0])
    return Places(_spaced(top, bottom, grid[0]), _spaced(left, right, grid[1]), (height, width))


def _spaced(first: float, last: float, count: int) -> tuple[float, ...]:
    step = (last - first) / (count - 1) if count > 1 else 0.0
    return tuple(first + index * step for index in range(count))


def _field(model: CapsNet, row: int, column: int) -> list[tuple[int, int]]:
    """The first and last row, and column, of the pixels that a position of the grid depends on."""
    grid = grid_of(model)
    assert grid is not None
    generator = torch.Generator().manual_seed(0)
    weight = next(model.parameters())
    images = torch.rand((4, *model.config.image_shape), generator=generator).to(weight)
    images.requires_grad_()
    capsules = images
    for part in list(model.parts().values())[:-1]:
        capsules = part(capsules)
    at = capsules.unflatten(1, (*grid, -1))[:, row, column]
    (gradient,) = torch.autograd.grad(at.square().sum(), images)
    seen = gradient.abs().sum(dim=(0, 1)) > 0
    return [_ends(seen.any(dim=1)), _ends(seen.any(dim=0))]


def _ends(seen: Tensor) -> tuple[int, int]:
    indices = seen.nonzero().flatten().tolist()
    return (indices[0], indices[-1]) if indices else (0, len(seen) - 1)


def _last_layers(model: CapsNet) -> tuple[LayerConfig, LayerConfig]:
    """The layer of the class capsules, and the one before it."""
    *_, before, routing = model.config.layers().values()
    return routing, before
