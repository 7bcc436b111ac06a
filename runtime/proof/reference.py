"""The readable model behind the interface of a session: the reference of every comparison."""

import contextlib
import copy
import hashlib

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from capsnet.errors import ResultError
from capsnet.model import CapsNet
from capsnet.runtime.proof.unfolded import UnfoldedConvolutions
from capsnet.runtime.sessions.images import from_bytes, to_bytes

__all__ = ["EagerModel", "OnBytes"]

_CHUNK = 16  # images at once: bounds the memory of the votes, which more would only page in and out

_Outputs = dict[str, npt.NDArray[np.floating]]


class EagerModel:
    """The un-lowered model, run eagerly on the CPU in one floating-point type.

    Results are kept: a verification asks for those of the same images again and again.

    Args:
        model: the network; it is copied.
        dtype: ``torch.float64`` for the golden results, ``torch.float32`` for the baseline.

    Attributes:
        decision: the output that decides the class; None where nothing is classified.
    """

    decision: str | None = "lengths"

    def __init__(self, model: CapsNet, dtype: torch.dtype) -> None:
        self._source = model
        self._dtype = dtype
        self._models: dict[int, CapsNet] = {}
        self._results: dict[tuple[int, tuple[int, ...], bytes], _Outputs] = {}

    def run(
        self,
        images: npt.NDArray[np.float32],
        outputs: tuple[str, ...] | None = None,
        order: int = 0,
    ) -> _Outputs:
        """Run the model.

        Args:
            images: ``[batch, channels, height, width]``, values 0..1.
            outputs: which of ``lengths``, ``capsules`` and ``reconstruction`` to give; None for
                all that the model has.
            order: 0 for the model as it is; any other number for the same function with the stem's
                channels in another order, which rounds otherwise. A network without such a stem has
                only one order.

        Returns:
            The outputs by name, in the model's dtype; read-only.

        Raises:
            ResultError: if the model does not have such an output.
        """
        order = order if _convolutions(self._source) else 0
        key = (order, images.shape, hashlib.sha256(images.tobytes()).digest())
        if key not in self._results:
            self._results[key] = self._compute(images, order)
        results = self._results[key]
        names = tuple(results) if outputs is None else outputs
        missing = [name for name in names if name not in results]
        if missing:
            raise ResultError(
                f"the model has no output {', '.join(missing)}, it has {', '.join(results)}: the "
                "artifact was exported from another network"
            )
        return {name: results[name] for name in names}

    def _compute(self, images: npt.NDArray[np.float32], order: int) -> _Outputs:
        model = self._in_order(order)
        chunks = torch.from_numpy(images).to(self._dtype).split(_CHUNK)
        golden = self._dtype == torch.float64
        with UnfoldedConvolutions() if golden else contextlib.nullcontext():
            parts = [_outputs(model, chunk) for chunk in chunks]
        joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        for array in joined.values():
            array.setflags(write=False)
        return joined

    def _in_order(self, order: int) -> CapsNet:
        """A copy of the model with the stem's channels permuted, and its next layer to match."""
        if order not in self._models:
            model = copy.deepcopy(self._source).to("cpu", self._dtype)
            model.requires_grad_(False).eval()
            for layer in model.modules():
                if isinstance(layer, nn.Conv2d) and self._dtype == torch.float64:
                    last = layer.weight.contiguous(memory_format=torch.channels_last)
                    layer.weight.data = last  # as it is unfolded
            pair = _convolutions(model)
            if order and pair is not None:
                stem, primary = pair
                generator = torch.Generator().manual_seed(order)
                shuffled = torch.randperm(stem.out_channels, generator=generator)
                stem.weight.copy_(stem.weight[shuffled])
                if stem.bias is not None:
                    stem.bias.copy_(stem.bias[shuffled])
                primary.weight.copy_(primary.weight[:, shuffled])
            self._models[order] = model
        return self._models[order]


class OnBytes:
    """A reference of artifacts that take bytes: each value of an image becomes the nearest byte.

    Args:
        reference: what then computes on the bytes, as values 0..1.
    """

    def __init__(self, reference: EagerModel) -> None:
        self._reference = reference
        self.decision = reference.decision

    def run(
        self,
        images: npt.NDArray[np.float32],
        outputs: tuple[str, ...] | None = None,
        order: int = 0,
    ) -> _Outputs:
        """As :meth:`EagerModel.run`."""
        return self._reference.run(from_bytes(to_bytes(images)), outputs, order)


def _outputs(model: CapsNet, images: Tensor) -> dict[str, Tensor]:
    """All that the model gives, under the names that artifacts give it."""
    lengths, capsules = model(images)
    outputs = {"lengths": lengths, "capsules": capsules}
    if model.decoder is not None:
        outputs["reconstruction"] = model.reconstruct(capsules, lengths.argmax(dim=-1))
    return outputs


def _convolutions(model: nn.Module) -> tuple[nn.Conv2d, nn.Conv2d] | None:
    """The stem and the primary convolution, where the first feeds the second channel by channel."""
    stem, primary = getattr(model, "stem", None), getattr(model, "primary", None)
    if (
        isinstance(stem, nn.Conv2d)
        and isinstance(primary, nn.Conv2d)
        and stem.groups == primary.groups == 1
        and stem.out_channels == primary.in_channels
    ):
        return stem, primary
    return None
