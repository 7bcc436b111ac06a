"""Margin and reconstruction loss against numbers computed by hand."""

import pytest
import torch

from capsnet.training.loss import margin_loss, reconstruction_loss


@pytest.mark.parametrize(
    ("lengths", "label", "expected"),
    [
        ([0.95, 0.05, 0.1], 0, 0.0),  # nothing to improve
        ([0.95, 0.05, 0.3], 0, 0.02),  # 0.5 * 0.2^2
        ([0.4, 0.05, 0.1], 0, 0.25),  # (0.9 - 0.4)^2
        ([0.95, 0.05, 0.3], 2, 0.72125),  # (0.9 - 0.3)^2 + 0.5 * 0.85^2
        ([0.0, 0.0, 0.0], 1, 0.81),
        ([1.0, 1.0, 1.0], 1, 0.81),  # 2 * 0.5 * 0.9^2
    ],
)
def test_margin_loss_of_one_image(lengths, label, expected):
    loss = margin_loss(torch.tensor([lengths], dtype=torch.float64), torch.tensor([label]))
    assert loss.shape == ()
    assert loss.item() == pytest.approx(expected, abs=1e-12)


def test_margin_loss_is_the_mean_over_the_batch():
    lengths = torch.tensor([[0.95, 0.05, 0.3], [0.4, 0.05, 0.1]])
    assert margin_loss(lengths, torch.tensor([0, 0])).item() == pytest.approx((0.02 + 0.25) / 2)


def test_gradients_lengthen_the_true_capsule_and_shorten_the_others():
    lengths = torch.tensor([[0.5, 0.5, 0.05], [0.95, 0.5, 0.05]], requires_grad=True)
    margin_loss(lengths, torch.tensor([0, 0])).backward()
    assert lengths.grad.sign().tolist() == [[-1, 1, 0], [0, 1, 0]]


def test_reconstruction_loss_sums_over_pixels_and_averages_over_the_batch():
    images = torch.zeros(2, 1, 2, 3)
    reconstructions = torch.zeros(2, 1, 2, 3)
    reconstructions[0] = 0.5  # 6 pixels of 0.25; the other image is exact
    loss = reconstruction_loss(reconstructions, images)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(0.0005 * 6 * 0.25 / 2)


def test_reconstruction_gradients_point_from_the_image_to_the_reconstruction():
    reconstructions = torch.tensor([0.2, 0.5, 0.9]).view(1, 1, 1, 3).requires_grad_()
    reconstruction_loss(reconstructions, torch.full((1, 1, 1, 3), 0.5)).backward()
    assert reconstructions.grad.sign().flatten().tolist() == [-1, 0, 1]


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_losses_have_the_type_of_their_input(dtype):
    images = torch.rand(2, 1, 3, 3, dtype=dtype)
    assert margin_loss(torch.rand(2, 3, dtype=dtype), torch.tensor([0, 1])).dtype == dtype
    assert reconstruction_loss(images, images).dtype == dtype
