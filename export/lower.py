"""Lowering: the trained network rewritten as the dense algebra that inference engines run fast.

The lowered module computes the same function as the readable model, exactly: constants are folded
into weights, channels are laid out so that no transpose is left between the convolution and the
routing, and the routing is unrolled in one of the forms of ``capsnet.layers.dense``.
"""

import copy
from typing import Literal, get_args

import torch
from einops import rearrange
from torch import Tensor, nn

from capsnet.artifact import OUTPUT_NAMES
from capsnet.config import CapsNetConfig
from capsnet.errors import ConfigError
from capsnet.export.lowering.winograd import WinogradConv2d, arithmetic_left, tile_rows
from capsnet.layers.dense import ROUTINGS, pack_weight, squash_along
from capsnet.model import PRIMARY_SCALE, CapsNet, CapsuleLayer

__all__ = ["DEFAULT_ROUTING", "Convolution", "LoweredCapsNet", "Precision", "lower"]

Precision = Literal["fp32", "fp16", "int8"]
Convolution = Literal["direct", "winograd"]

DEFAULT_ROUTING = "projected"
"""What ``auto`` takes: ahead at every batch size (``capsnet bench --part routing``, two cores with
AVX-512, onnxruntime 1.31.1; ms at batch 1, 8, 32, 128): projected 0.7, 3.2, 12.5, 43.7; votes 0.9,
4.4, 23.8, 90.6."""
_WIDE = 128  # channels
_MOST_ARITHMETIC_LEFT = 0.65


class LoweredCapsNet(nn.Module):
    """A capsule network ready for export; made by :func:`lower`.

    Args:
        model: the network to lower; its weights are copied.
        reconstruction: whether to decode the longest capsule as well.
        routing: form of the routing, one of ``capsnet.layers.dense.ROUTINGS``.
        convolution: form of the primary convolution.
        precision: ``"fp16"`` for weights, convolutions and decoder in float16. The routing is
            computed in float32 all the same: a sum of votes can leave float16's range, and the
            square of a short capsule vanishes in it. ``"int8"`` is float32 here; the export to ONNX
            quantises it.
    """

    def __init__(
        self,
        model: CapsNet,
        *,
        reconstruction: bool,
        routing: str,
        convolution: Convolution,
        precision: Precision,
    ) -> None:
        super().__init__()
        config = model.config
        self.config = config
        self.routing = routing
        self.convolution = convolution
        self.precision = precision
        self.outputs = OUTPUT_NAMES if reconstruction else OUTPUT_NAMES[:2]
        self.stem = _copy_conv(model.stem, model.stem.weight, model.stem.bias)
        direct = _lower_primary(model, config)
        self.primary = (
            WinogradConv2d(direct, config.stem_grid[0]) if convolution == "winograd" else direct
        )
        for index, layer in enumerate(model.capsule_layers):
            assert isinstance(layer, CapsuleLayer)
            weight = layer.weight.detach()
            if index == 0:
                weight = rearrange(weight, "(hw g) d o h -> (g hw) d o h", g=config.primary_groups)
            self.register_buffer(f"layer{index}", pack_weight(weight).contiguous())
        self.decoder = copy.deepcopy(model.decoder) if reconstruction else None
        if precision == "fp16":
            self.half()

    def forward(self, image: Tensor) -> tuple[Tensor, ...]:
        """Images ``[batch, channels, height, width]`` to the artifact's outputs, in order."""
        stages = self.stages(image)
        return tuple(stages[name] for name in self.outputs)

    def stages(self, image: Tensor) -> dict[str, Tensor]:
        """Every stage of the network by name, in the order of computation, outputs last.

        Args:
            image: ``[batch, channels, height, width]``, values 0..1.

        Returns:
            ``stem`` ``[batch, channels, height, width]``; ``primary_capsules``
            ``[batch, dim, (groups height width)]``; for every layer and iteration
            ``layerL.iterationR.inputs`` and ``.capsules``, laid out as the form of the routing lays
            them out; then the outputs of the artifact.
        """
        half = self.precision == "fp16"
        stages = {"stem": torch.relu(self.stem(image.half() if half else image))}
        config = self.config
        capsules = self.primary(stages["stem"]).unflatten(1, (config.primary_dim, -1)).flatten(2)
        if half:
            capsules = capsules.float()
        if config.primary_activation == "squash":
            capsules = squash_along(capsules, 1)
        stages["primary_capsules"] = capsules
        for index, layer in enumerate(config.capsule_layers):
            iterations: list[tuple[Tensor, Tensor]] = []
            weight = self.get_buffer(f"layer{index}")
            outputs = ROUTINGS[self.routing](
                capsules,
                weight.float() if half else weight,
                layer.routing_iterations,
                lambda inputs, outputs, seen=iterations: seen.append((inputs, outputs)),
            )
            for number, (inputs, routed) in enumerate(iterations, start=1):
                stages[f"layer{index}.iteration{number}.inputs"] = inputs
                stages[f"layer{index}.iteration{number}.capsules"] = routed
            capsules = outputs.mT
        stages["lengths"] = torch.linalg.vector_norm(outputs, dim=-1)
        stages["capsules"] = outputs
        if self.decoder is not None:
            longest = stages["lengths"].argmax(dim=-1, keepdim=True)
            mask = torch.arange(config.classes, device=image.device) == longest
            masked = outputs * mask.unsqueeze(-1)
            decoded = self.decoder(masked.half()).float() if half else self.decoder(masked)
            stages["reconstruction"] = decoded
        return stages


def lower(
    model: CapsNet,
    *,
    reconstruction: bool = False,
    routing: str = "auto",
    convolution: Convolution | Literal["auto"] = "auto",
    precision: Precision = "fp32",
) -> LoweredCapsNet:
    """Rewrite a trained network for export; see the module's description.

    Args:
        model: the network; it is left as it is.
        reconstruction: add the image decoded from the longest capsule to the outputs.
        routing: form of the routing, one of ``capsnet.layers.dense.ROUTINGS``, all of them exact,
            or ``"auto"`` for the one that measurements favour.
        convolution: form of the primary convolution, ``"direct"`` or, in float32 and exact as well,
            ``"winograd"``, faster in a file that is a third larger (see
            ``capsnet.export.lowering.winograd``), or ``"auto"``.
        precision: of weights and convolutions; see :class:`LoweredCapsNet`.

    Returns:
        A module in evaluation mode, without gradients, in the dtype of the model or in float16.

    Raises:
        ConfigError: if an argument is none of these, a reconstruction is asked of a network without
            a decoder, or Winograd's convolution of a network or a precision that it does not fit.
    """
    if reconstruction and model.decoder is None:
        raise ConfigError(
            "this network has no decoder, so it cannot reconstruct images: "
            "export without --reconstruction, or train with decoder sizes"
        )
    for name, value, known in (
        ("routing", routing, ("auto", *ROUTINGS)),
        ("precision", precision, get_args(Precision)),
        ("convolution", convolution, ("auto", *get_args(Convolution))),
    ):
        if value not in known:
            raise ConfigError(f"{name} must be one of {', '.join(known)}, got {value!r}")
    if routing == "auto":
        routing = DEFAULT_ROUTING
    config = model.config
    rows, kernel, stride = config.primary_grid[0], config.primary_kernel, config.primary_stride
    tile = tile_rows(rows, kernel, stride) if precision == "fp32" else None
    if convolution == "winograd" and tile is None:
        raise ConfigError(
            f"Winograd's convolution is for fp32 and for rows that come in tiles; this network is "
            f"lowered to {precision}, and its primary convolution has {rows} rows, a kernel of "
            f"{kernel} and stride {stride}: use the direct convolution"
        )
    if convolution == "auto":
        convolution = "winograd" if tile and _winograd_pays(config, tile) else "direct"
    lowered = LoweredCapsNet(
        model,
        reconstruction=reconstruction,
        routing=routing,
        convolution=convolution,
        precision=precision,
    )
    return lowered.requires_grad_(False).eval()


def _winograd_pays(config: CapsNetConfig, tile: int) -> bool:
    """Whether Winograd's convolution saves more than its transforms cost.

    Two cores with AVX-512, onnxruntime 1.31.1, torch 2.13.0: of the bundled network in onnxruntime,
    ms at batch 1, 8, 32, 128, direct 3.9, 20, 74, 321, Winograd's 3.3, 14, 47, 204 (``capsnet bench
    --candidate onnx --candidate onnx-direct``); in TorchScript 8.4, 24, 116, 401 and 6.7, 21, 84,
    279 (``capsnet bench FILE``, of ``--convolution direct``). With 128 channels onnxruntime is
    still 1.1 to 1.4 times as fast, with fewer it is slower on a single image.
    """
    left = arithmetic_left(tile, config.primary_kernel, config.primary_stride)
    channels = min(config.stem_channels, config.primary_groups * config.primary_dim)
    return channels >= _WIDE and left <= _MOST_ARITHMETIC_LEFT


def _copy_conv(like: nn.Conv2d, weight: Tensor, bias: Tensor | None) -> nn.Conv2d:
    assert bias is not None
    copy = nn.Conv2d(like.in_channels, like.out_channels, like.kernel_size[0], like.stride[0])
    copy.weight = nn.Parameter(weight.detach().clone(), requires_grad=False)
    copy.bias = nn.Parameter(bias.detach().clone(), requires_grad=False)
    return copy


def _lower_primary(model: CapsNet, config: CapsNetConfig) -> nn.Conv2d:
    """The primary convolution with channels ordered ``(dim groups)`` and the scale folded in.

    Its output, seen as ``[batch, dim, (groups height width)]``, holds the capsules without a
    transpose.
    """
    groups = config.primary_groups
    scale = PRIMARY_SCALE if config.primary_activation == "scale" else 1.0
    weight = rearrange(model.primary.weight, "(g d) c h w -> (d g) c h w", g=groups) * scale
    assert model.primary.bias is not None
    bias = rearrange(model.primary.bias, "(g d) -> (d g)", g=groups) * scale
    return _copy_conv(model.primary, weight, bias)
