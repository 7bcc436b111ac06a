"""The readable model behind the interface of a session: the reference of every comparison."""

import numpy as np
import numpy.typing as npt
import torch

from capsnet.model import CapsNet

__all__ = ["EagerModel"]

_CHUNK = 64  # images at once: bounds the memory of the votes


class EagerModel:
    """The un-lowered model, run eagerly on the CPU in one floating-point type.

    Args:
        model: the network; it is copied.
        dtype: ``torch.float64`` for the golden results, ``torch.float32`` for the baseline.
    """

    def __init__(self, model: CapsNet, dtype: torch.dtype) -> None:
        self._model = CapsNet(model.config)
        self._model.load_state_dict(model.state_dict())
        self._model.to(dtype).requires_grad_(False).eval()
        self._dtype = dtype

    def run(
        self, images: npt.NDArray[np.float32], outputs: tuple[str, ...]
    ) -> dict[str, npt.NDArray[np.floating]]:
        """Run the model.

        Args:
            images: ``[batch, channels, height, width]``, values 0..1.
            outputs: which of ``lengths``, ``capsules`` and ``reconstruction`` to compute.

        Returns:
            The outputs by name, in the model's dtype.
        """
        parts: dict[str, list[npt.NDArray[np.floating]]] = {name: [] for name in outputs}
        for chunk in torch.from_numpy(images).to(self._dtype).split(_CHUNK):
            lengths, capsules = self._model(chunk)
            values = {"lengths": lengths, "capsules": capsules}
            if "reconstruction" in outputs:
                longest = lengths.argmax(dim=-1)
                values["reconstruction"] = self._model.reconstruct(capsules, longest)
            for name in outputs:
                parts[name].append(values[name].numpy())
        return {name: np.concatenate(arrays) for name, arrays in parts.items()}
