"""The readable model behind the interface of a session: the reference of every comparison."""

import contextlib
import copy
import functools
import hashlib
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from capsnet.data.batch import Rows, named
from capsnet.errors import ResultError
from capsnet.model import CapsNet
from capsnet.own import OwnNetwork
from capsnet.runtime.proof.reordered import Reordered
from capsnet.runtime.proof.unfolded import UnfoldedConvolutions
from capsnet.runtime.sessions.images import from_bytes, to_bytes
from capsnet.vetting import default_dtype

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

    def __init__(self, model: CapsNet | OwnNetwork, dtype: torch.dtype) -> None:
        self.decision = model.decision
        self._source = model
        self._dtype = dtype
        self._results: dict[tuple[int, bytes], _Outputs] = {}

    def run(
        self,
        images: Rows,
        outputs: tuple[str, ...] | None = None,
        order: int = 0,
    ) -> _Outputs:
        """Run the model.

        Args:
            images: ``[batch, channels, height, width]``, values 0..1, or the rows of other inputs.
            outputs: which outputs to give, such as ``lengths``; None for all that the model has.
            order: 0 for the model as it is; any other number for the same function that sums in
                another order, and rounds otherwise (:class:`Reordered`). float64 has one order.

        Returns:
            The outputs by name, in the model's dtype; read-only.

        Raises:
            ResultError: if the model does not have such an output.
        """
        order = order if self._dtype != torch.float64 else 0
        key = (order, _digest(images))
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

    def _compute(self, images: Rows, order: int) -> _Outputs:
        inputs = [torch.from_numpy(rows).to(self._dtype) for rows in named(images).values()]
        chunks = zip(*(rows.split(_CHUNK) for rows in inputs), strict=True)
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.no_grad())
            stack.enter_context(default_dtype(self._dtype))
            if self._dtype == torch.float64:
                stack.enter_context(UnfoldedConvolutions())
            if order:
                stack.enter_context(Reordered(order))
            parts = [self._model.outputs_by_name(*chunk) for chunk in chunks]
        joined = {name: torch.cat([part[name] for part in parts]).numpy() for name in parts[0]}
        for array in joined.values():
            array.setflags(write=False)
        return joined

    @functools.cached_property
    def _model(self) -> CapsNet | OwnNetwork:
        model = copy.deepcopy(self._source).to("cpu", self._dtype)
        model.requires_grad_(False).eval()
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d) and self._dtype == torch.float64:
                last = layer.weight.contiguous(memory_format=torch.channels_last)
                layer.weight.data = last  # as it is unfolded
        return model


def _digest(images: Rows) -> bytes:
    digest = hashlib.sha256()
    for name, rows in named(images).items():
        digest.update(f"{name} {rows.shape}".encode())
        digest.update(np.ascontiguousarray(rows).data)
    return digest.digest()


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
        images: Any,
        outputs: tuple[str, ...] | None = None,
        order: int = 0,
    ) -> _Outputs:
        """As :meth:`EagerModel.run`."""
        return self._reference.run(from_bytes(to_bytes(images)), outputs, order)
