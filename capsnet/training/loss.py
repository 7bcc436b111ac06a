"""Training objective: margin loss and reconstruction (arXiv:1710.09829, sections 3 and 4.1)."""

import torch
from torch import Tensor

__all__ = ["margin_loss", "reconstruction_loss"]

_PRESENT, _ABSENT, _DOWN_WEIGHT = 0.9, 0.1, 0.5
_RECONSTRUCTION_WEIGHT = 0.0005


def margin_loss(lengths: Tensor, labels: Tensor) -> Tensor:
    """Margin loss (equation 4), summed over the classes and averaged over the batch.

    Args:
        lengths: ``[batch, classes]``, values 0..1.
        labels: int64 ``[batch]``.

    Returns:
        Scalar.
    """
    target = torch.nn.functional.one_hot(labels, lengths.shape[-1]).to(lengths.dtype)
    present = target * torch.relu(_PRESENT - lengths) ** 2
    absent = _DOWN_WEIGHT * (1 - target) * torch.relu(lengths - _ABSENT) ** 2
    return (present + absent).sum(dim=-1).mean()


def reconstruction_loss(reconstructions: Tensor, images: Tensor) -> Tensor:
    """Squared error summed over the pixels, times 0.0005, averaged over the batch (section 4.1).

    Args:
        reconstructions: ``[batch, channels, height, width]``.
        images: the same shape.

    Returns:
        Scalar.
    """
    return _RECONSTRUCTION_WEIGHT * (reconstructions - images).square().flatten(1).sum(1).mean()
