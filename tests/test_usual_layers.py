"""Networks of the usual layers of torch go to every format, are let in again, and are proven.

The process that proves an export loads this file again, so it imports nothing but the package.
"""

import dataclasses
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

import capsnet
from capsnet.config import preset
from capsnet.layers.base import LayerConfig, Shape
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig

IMAGES = np.random.default_rng(0).random((6, 1, 28, 28), np.float32)


@dataclass(frozen=True)
class UsualConfig(LayerConfig, kind="usual"):
    """Images ``[1, h, w]`` to ``[8, h, w]``, for even ``h`` and ``w``."""

    part: str

    def output_shape(self, shape: Shape) -> Shape:
        return (8, *shape[1:])

    def build(self, shape: Shape) -> nn.Module:  # noqa: ARG002
        torch.manual_seed(0)
        return {"sampling": Sampling, "activations": Activations, "shapes": Shapes}[self.part]()


class Sampling(nn.Sequential):
    """Convolutions of all kinds, pooling, normalisation, and back up."""

    def __init__(self) -> None:
        super().__init__(
            nn.ReflectionPad2d(1),
            nn.Conv2d(1, 8, 3),
            nn.BatchNorm2d(8),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
            nn.GroupNorm(2, 8),
            nn.MaxPool2d(2),
            nn.ConvTranspose2d(8, 8, 2, stride=2),
            nn.AvgPool2d(2),
            nn.Upsample(scale_factor=2, mode="nearest"),
            nn.Conv2d(8, 8, 1),
            nn.AvgPool2d(2),
            nn.Upsample(scale_factor=2, mode="bilinear", align_corners=False),
            Attention(),
        )


class Attention(nn.Module):
    """Channels weighted by what they hold (squeeze and excitation)."""

    def __init__(self) -> None:
        super().__init__()
        self.weigh = nn.Linear(8, 8)

    def forward(self, images: Tensor) -> Tensor:
        pooled = F.adaptive_avg_pool2d(images, 1).flatten(1)
        weights = torch.sigmoid(self.weigh(pooled))
        return images * weights[:, :, None, None]


class Activations(nn.Module):
    """The usual activations, and functions of one number."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.norm = nn.LayerNorm(28)
        self.prelu = nn.PReLU()

    def forward(self, images: Tensor) -> Tensor:
        x = self.norm(self.conv(images))
        total = self.prelu(x)
        for activation in (
            *(F.relu, F.relu6, F.elu, F.celu, F.selu, F.gelu, F.silu, F.mish, F.softplus),
            *(F.hardswish, F.hardsigmoid, F.hardtanh, F.softsign, F.logsigmoid, F.leaky_relu),
            *(torch.sigmoid, torch.tanh, torch.atan, torch.erf, torch.sin, torch.cos, torch.exp),
        ):
            total = total + activation(x)
        total = total + F.gelu(x, approximate="tanh") + torch.log(x.abs() + 1) + torch.sqrt(x.abs())
        scale = torch.logsumexp(total, dim=1, keepdim=True)
        return F.log_softmax(total / scale, dim=1) + F.softmax(total, dim=3)


class Shapes(nn.Module):
    """What moves, cuts, joins and sums."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.mix = nn.Linear(72, 8)
        self.register_buffer("order", torch.arange(8).flip(0))

    def forward(self, images: Tensor) -> Tensor:
        x = F.pad(self.conv(images), (1, 1, 1, 1))
        patches = F.unfold(x, 3).transpose(1, 2)
        x = self.mix(patches).transpose(1, 2).unflatten(2, images.shape[2:])
        x = x.index_select(1, self.order) + x[:, self.order] + torch.roll(x, 1, dims=2)
        x = torch.cumsum(x, dim=3) / torch.std(x, dim=(1, 2, 3), keepdim=True)
        first, second = x.chunk(2, dim=1)
        joined = torch.cat([first, torch.stack([second, first]).mean(0)], dim=1)
        square = torch.tril(torch.einsum("bchw,bdhw->bcd", x, x)) / 784
        mixed = torch.matmul(square, joined.flatten(2)).view_as(joined)
        largest = joined.gather(1, joined.argmax(1, keepdim=True))
        placed = torch.zeros_like(mixed).scatter(1, joined.argmax(1, keepdim=True), largest)
        return torch.where(mixed > 0, mixed, placed).clamp(-4, 4).permute(0, 1, 3, 2)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning")  # checks of shapes
@pytest.mark.parametrize("part", ["sampling", "activations", "shapes"])
def test_a_network_of_usual_layers_goes_to_every_format(tmp_path, part):
    config = dataclasses.replace(
        preset("tiny"),
        stem=UsualConfig(part),
        primary=PrimaryConfig(groups=2, dim=4, activation="squash"),
        capsule_layers=(DynamicConfig(10, 8, 2),),
        decoder=None,
    )
    model = capsnet.CapsNet(config)
    for file in ("own.onnx", "own.pt", "own.pt2"):
        certificate = capsnet.export_model(model, tmp_path / file, images=IMAGES, device="cpu")
        assert certificate.passed, (file, certificate.failures)
        assert capsnet.open_session(tmp_path / file, "cpu").run(IMAGES)["lengths"].shape == (6, 10)
