"""The readable model behind the interface of a session: the reference of every comparison."""

import hashlib

import numpy as np
import numpy.typing as npt
import torch

from capsnet.model import CapsNet

__all__ = ["EagerModel"]

_CHUNK = 64  # images at once: bounds the memory of the votes

_Outputs = dict[str, npt.NDArray[np.floating]]


class EagerModel:
    """The un-lowered model, run eagerly on the CPU in one floating-point type.

    Results are kept: a verification asks for those of the same images again and again.

    Args:
        model: the network; it is copied.
        dtype: ``torch.float64`` for the golden results, ``torch.float32`` for the baseline.
    """

    def __init__(self, model: CapsNet, dtype: torch.dtype) -> None:
        self._source = model
        self._dtype = dtype
        self._models: dict[int, CapsNet] = {}
        self._results: dict[tuple[int, tuple[int, ...], bytes], _Outputs] = {}

    def run(
        self, images: npt.NDArray[np.float32], outputs: tuple[str, ...], order: int = 0
    ) -> _Outputs:
        """Run the model.

        Args:
            images: ``[batch, channels, height, width]``, values 0..1.
            outputs: which of ``lengths``, ``capsules`` and ``reconstruction`` to compute.
            order: 0 for the model as it is; any other number for the same function with the stem's
                channels in another order, which rounds otherwise.

        Returns:
            The outputs by name, in the model's dtype; read-only.
        """
        key = (order, images.shape, hashlib.sha256(images.tobytes()).digest())
        if key not in self._results:
            self._results[key] = self._compute(images, order)
        return {name: self._results[key][name] for name in outputs}

    def _compute(self, images: npt.NDArray[np.float32], order: int) -> _Outputs:
        model = self._in_order(order)
        parts: list[_Outputs] = []
        for chunk in torch.from_numpy(images).to(self._dtype).split(_CHUNK):
            lengths, capsules = model(chunk)
            part = {"lengths": lengths, "capsules": capsules}
            if model.decoder is not None:
                part["reconstruction"] = model.reconstruct(capsules, lengths.argmax(dim=-1))
            parts.append({name: value.numpy() for name, value in part.items()})
        joined = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
        for array in joined.values():
            array.setflags(write=False)
        return joined

    def _in_order(self, order: int) -> CapsNet:
        """A copy of the model with the stem's channels permuted, and its next layer to match."""
        if order not in self._models:
            model = CapsNet(self._source.config)
            model.load_state_dict(self._source.state_dict())
            model.to(self._dtype).requires_grad_(False).eval()
            if order:
                generator = torch.Generator().manual_seed(order)
                shuffled = torch.randperm(model.stem.out_channels, generator=generator)
                model.stem.weight.copy_(model.stem.weight[shuffled])
                assert model.stem.bias is not None
                model.stem.bias.copy_(model.stem.bias[shuffled])
                model.primary.weight.copy_(model.primary.weight[:, shuffled])
            self._models[order] = model
        return self._models[order]
