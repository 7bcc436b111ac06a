"""Segmentation with locally constrained convolutional capsules (LaLonde and Bagci, 2018).

A small SegCaps (arXiv:1804.04241): capsules vote within a window, down and up again like a U-Net,
and the length of the last capsule at a pixel is the probability that it belongs to the object.
The axes are those of the paper's equations: i child types, o parent types, d and h their dims.

    python examples/segcaps.py
    capsnet export --format onnx --model examples/segcaps.py:make --images scans.npy
"""

import numpy as np
import torch
from einops import rearrange
from torch import Tensor, nn

import capsnet
from capsnet.layers.squash import Squash


class LocalCapsules(nn.Module):
    """Capsules whose parents take votes from the children in a window around them (section 2.1).

    A child type has one matrix for its whole grid, so its votes are a convolution.

    Args:
        children: number of child types, and their dim.
        parents: number of parent types, and their dim.
        stride: of the grid of parents; below 1, the grid grows by a transposed convolution.
        iterations: of the routing.
    """

    def __init__(
        self,
        children: tuple[int, int],
        parents: tuple[int, int],
        kernel: int = 5,
        stride: float = 1,
        iterations: int = 3,
    ) -> None:
        super().__init__()
        (i, d), (o, h) = children, parents
        grows = stride < 1
        convolution = nn.ConvTranspose2d if grows else nn.Conv2d
        step = round(1 / stride) if grows else int(stride)
        padding = (kernel - step) // 2 if grows else kernel // 2
        self.votes = convolution(
            i * d, i * o * h, kernel, stride=step, padding=padding, groups=i, bias=False
        )
        self.bias = nn.Parameter(torch.full((o, h), 0.1))
        self.squash = Squash()
        self.sizes = {"i": i, "o": o, "h": h}
        self.iterations = iterations

    def forward(self, capsules: Tensor) -> Tensor:
        """Grids of capsules ``[batch, (i d), height, width]`` to ``[batch, (o h), ...]``."""
        votes = rearrange(self.votes(capsules), "b (i o h) y x -> b y x i o h", **self.sizes)
        logits = torch.zeros_like(votes[..., 0])
        for iteration in range(self.iterations):
            coupling = logits.softmax(dim=-1)
            parents = self.squash(torch.einsum("byxio,byxioh->byxoh", coupling, votes) + self.bias)
            if iteration < self.iterations - 1:
                logits = logits + torch.einsum("byxioh,byxoh->byxio", votes, parents)
        return rearrange(parents, "b y x o h -> b (o h) y x")


class SegCaps(nn.Module):
    """A small SegCaps: one step down, one up, and the features beside them joined (figure 2)."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(1, 16, 5, padding=2), nn.ReLU())
        self.down = LocalCapsules((1, 16), (2, 16), stride=2, iterations=1)
        self.deep = LocalCapsules((2, 16), (4, 16))
        self.up = LocalCapsules((4, 16), (2, 16), kernel=4, stride=0.5)
        self.mask = LocalCapsules((3, 16), (1, 16), kernel=1)

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """Images ``[batch, 1, height, width]``, of even sizes, to ``[batch, height, width]``."""
        features = self.features(image)
        risen = self.up(self.deep(self.down(features)))
        capsules = self.mask(torch.cat([features, risen], dim=1))
        return {"mask": torch.linalg.vector_norm(capsules, dim=1)}


def make() -> SegCaps:
    """The network with random weights; train it, or give your own with ``--checkpoint``."""
    torch.manual_seed(0)
    return SegCaps().eval()


if __name__ == "__main__":
    scans = np.random.default_rng(0).random((16, 1, 32, 32), np.float32)
    certificate = capsnet.export_model(make(), "segcaps.onnx", images=scans)
    print(certificate.verdict, capsnet.open_session("segcaps.onnx").run(scans)["mask"].shape)
