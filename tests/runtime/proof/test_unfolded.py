"""Unfolded convolutions give what torch's do, and leave to torch what they do not compute."""

import numpy as np
import pytest
import torch
from support.networks import SMALL, lively_model, random_images
from torch import nn
from torch.nn.functional import conv2d

from capsnet.runtime.proof import unfolded
from capsnet.runtime.proof.reference import EagerModel
from capsnet.runtime.proof.unfolded import UnfoldedConvolutions, unfolded_conv2d

ULP = 2.0**-53


def operands(channels, out, kernel, dtype=torch.float64, groups=1):
    generator = torch.Generator().manual_seed(1)
    shapes = (5, channels, 13, 17), (out, channels // groups, *kernel), (out,)
    return [torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes]


def require_equal(found, expected, given, *settings):
    """A few units in the last place of the sum of the products' sizes."""
    sizes = conv2d(*(values.abs() for values in given), *settings)
    assert found.shape == expected.shape
    assert ((found - expected).abs() <= 8 * ULP * sizes).all()


@pytest.mark.parametrize("kernel", [(1, 1), (3, 3), (2, 5), (9, 9), (13, 17)])
@pytest.mark.parametrize("stride", [1, 2, (2, 3), (3,)])
@pytest.mark.parametrize("padding", [0, 2, (1, 3), [2]])
def test_every_kernel_stride_and_padding_is_torchs(kernel, stride, padding):
    given = operands(3, 4, kernel)
    found = unfolded_conv2d(*given, stride, padding)
    require_equal(found, conv2d(*given, stride, padding), given, stride, padding)


@pytest.mark.parametrize("dilation", [2, (3, 1), (1, 4)])
@pytest.mark.parametrize("channels", [1, 6])
def test_dilation_is_torchs(dilation, channels):
    given = operands(channels, 4, (3, 3))
    found = unfolded_conv2d(*given, dilation=dilation)
    require_equal(found, conv2d(*given, dilation=dilation), given, 1, 0, dilation)


@pytest.mark.parametrize("block", [1, 40_000])
def test_blocks_make_no_difference(block, monkeypatch):
    given = operands(3, 4, (3, 3))
    whole = unfolded_conv2d(*given)
    monkeypatch.setattr(unfolded, "_BLOCK", block)
    require_equal(unfolded_conv2d(*given), whole, given)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_of_the_weight_and_a_missing_bias_make_no_difference(layout):
    images, weight, _ = operands(3, 4, (3, 3))
    found = unfolded_conv2d(images, weight.to(memory_format=layout))
    require_equal(found, conv2d(images, weight), (images, weight))
    assert unfolded_conv2d(images[:0], weight).shape == (0, 4, 11, 15)


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (operands(3, 4, (3, 3), torch.float32), {}),
        (operands(4, 4, (3, 3), groups=2), {"groups": 2}),
        (operands(3, 4, (3, 3)), {"padding": "same"}),
        ([operands(3, 4, (3, 3))[0][0], *operands(3, 4, (3, 3))[1:]], {}),
    ],
    ids=["float32", "groups", "named padding", "one image"],
)
def test_the_rest_is_torchs_own(given, settings):
    assert torch.equal(unfolded_conv2d(*given, **settings), conv2d(*given, **settings))


def test_gradients_are_torchs_own():
    images, weight, bias = operands(3, 4, (3, 3))
    unfolded_conv2d(images, weight.requires_grad_(), bias).sum().backward()
    assert weight.grad is not None


class Own(nn.Module):
    """A user's own module, with a convolution as a layer and one as a function."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Conv2d(1, 3, 3, padding=1).double().requires_grad_(False)
        self.kernel = torch.ones(2, 3, 2, 2, dtype=torch.float64)

    def forward(self, images):
        return torch.conv2d(self.layer(images), self.kernel, stride=(2, 1))


def test_every_convolution_inside_the_block_is_unfolded_and_none_outside(monkeypatch):
    calls = []
    real = unfolded.unfolded_conv2d
    monkeypatch.setattr(
        unfolded, "unfolded_conv2d", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    model, images = Own(), torch.rand(2, 1, 8, 8, dtype=torch.float64)
    expected = model(images)
    assert not calls
    with UnfoldedConvolutions():
        found = model(images)
    assert len(calls) == 2
    torch.testing.assert_close(found, expected, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize(("dtype", "count"), [(torch.float64, 2), (torch.float32, 0)])
def test_the_golden_run_is_unfolded_and_the_baseline_is_not(dtype, count, monkeypatch):
    calls = []
    real = unfolded.unfolded_conv2d
    monkeypatch.setattr(
        unfolded, "unfolded_conv2d", lambda *a, **k: calls.append(1) or real(*a, **k)
    )
    model, images = lively_model(SMALL), random_images(SMALL, 3)
    found = EagerModel(model, dtype).run(images)
    assert len(calls) == count
    lengths, _ = lively_model(SMALL).to(dtype)(torch.from_numpy(images).to(dtype))
    np.testing.assert_allclose(
        found["lengths"], lengths.detach().numpy(), rtol=1e-5 if count == 0 else 1e-12
    )
