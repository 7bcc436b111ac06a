"""A decoder of transposed convolutions, each of which doubles the height and width."""

from dataclasses import dataclass
from itertools import pairwise

from einops.layers.torch import Rearrange
from torch import Tensor, nn

from capsnet.layers.base import AnyDecoderConfig, Shape
from capsnet.layers.decoder import capsules_as_values, check_sizes
from capsnet.limits import require_at_most

__all__ = ["TransposedConfig", "TransposedDecoder"]

_MOST_DOUBLINGS = 10  # from one pixel to 1024x1024


@dataclass(frozen=True)
class TransposedConfig(AnyDecoderConfig, kind="transposed"):
    """A dense layer, transposed convolutions with ReLU, and a sigmoid at the end.

    Attributes:
        channels: of what each transposed convolution takes; the last one gives the image.
        alone: whether the decoder sees the values of the one class capsule, and not which class it
            stands for.

    Raises:
        ConfigError: if there is no channel count, or one is not a positive integer, or there are
            more than 10.
    """

    channels: tuple[int, ...] = (64, 32)
    alone: bool = False

    def __post_init__(self) -> None:
        check_sizes("channels", self.channels)
        require_at_most("decoder: channels: their number", len(self.channels), _MOST_DOUBLINGS)

    def build(self, capsules: Shape, image_shape: Shape) -> "TransposedDecoder":
        return TransposedDecoder(capsules, self, image_shape)


class TransposedDecoder(nn.Sequential):
    """Class capsules ``[batch, classes, dim]``, all but one masked, to images, values 0..1.

    Args:
        capsules: number and dim of the class capsules.
        config: sizes of the layers.
        image_shape: channels, height and width of the images.
    """

    def __init__(self, capsules: Shape, config: TransposedConfig, image_shape: Shape) -> None:
        values, size = capsules_as_values(capsules, config.alone)
        factor = 2 ** len(config.channels)
        height, width = (-(-length // factor) for length in image_shape[1:])
        steps: list[nn.Module] = []
        sizes = (*config.channels, image_shape[0])
        for taken, given in pairwise(sizes):
            doubled = nn.ConvTranspose2d(taken, given, kernel_size=4, stride=2, padding=1)
            steps += [nn.ReLU(), doubled]
        super().__init__(
            values,
            nn.Linear(size, config.channels[0] * height * width),
            Rearrange("b (c h w) -> b c h w", h=height, w=width),
            *steps,
            nn.Sigmoid(),
        )
        self.height, self.width = image_shape[1:]

    def forward(self, capsules: Tensor) -> Tensor:
        """Images of the right size: what doubling made too large is cut off."""
        images: Tensor = super().forward(capsules)  # type: ignore[no-untyped-call]
        return images[..., : self.height, : self.width]
