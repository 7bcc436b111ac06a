"""Capsule networks in float64 from the papers' formulas, as plain loops, without capsnet's code.

Sources: dynamic routing, procedure 1 and equation 1 of Sabour, Frosst, Hinton 2017
(arXiv:1710.09829); the network around it as readable_capsnet (A. Rogozhnikov) defines it.
"""

from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

CHW = (1, 2, 3)
Array = npt.NDArray[np.float64]


def squash(poses: npt.ArrayLike) -> Array:
    """Equation 1, with its division by the length; poses ``[..., dim]``, none of them zero."""
    vectors = np.asarray(poses, np.float64)
    squashed = np.empty_like(vectors)
    for index in np.ndindex(vectors.shape[:-1]):
        s = vectors[index]
        norm_sq = sum(float(x) ** 2 for x in s)
        norm = norm_sq**0.5
        squashed[index] = norm_sq / (1 + norm_sq) * (s / norm)
    return squashed


def dynamic_routing(
    votes: npt.ArrayLike, iterations: int, bias: npt.ArrayLike = 0.0, leaky: bool = False
) -> Array:
    """Procedure 1; votes ``[batch, in_capsules, out_capsules, dim]`` to output capsules.

    A bias is added to what is squashed; leaky routing has one more logit, which stays zero.
    """
    u_hat = np.asarray(votes, np.float64)
    batch, inputs, outputs, dim = u_hat.shape
    capsules = np.empty((batch, outputs, dim))
    for image in range(batch):
        b = np.zeros((inputs, outputs))
        for _ in range(iterations):
            s = np.zeros((outputs, dim))
            for i in range(inputs):
                c = np.exp(b[i] - b[i].max())
                c /= c.sum() + (np.exp(-b[i].max()) if leaky else 0)
                for j in range(outputs):
                    s[j] += c[j] * u_hat[image, i, j]
            v = squash(s + np.asarray(bias, np.float64))
            for i in range(inputs):
                for j in range(outputs):
                    b[i, j] += u_hat[image, i, j] @ v[j]
        capsules[image] = v
    return capsules


def conv2d(images: npt.ArrayLike, weight: npt.ArrayLike, bias: npt.ArrayLike, stride: int) -> Array:
    """Convolution without padding: images ``[b, c, h, w]``, weight ``[out, c, kernel, kernel]``."""
    pixels, filters = np.asarray(images, np.float64), np.asarray(weight, np.float64)
    kernel_height, kernel_width = filters.shape[2:]
    height = (pixels.shape[2] - kernel_height) // stride + 1
    width = (pixels.shape[3] - kernel_width) // stride + 1
    result = np.empty((len(pixels), len(filters), height, width))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = pixels[:, :, top : top + kernel_height, left : left + kernel_width]
            result[:, :, row, column] = np.tensordot(window, filters, axes=(CHW, CHW))
    return result + np.asarray(bias, np.float64)[:, None, None]


def primary_capsules(maps: npt.ArrayLike, dim: int) -> Array:
    """Feature maps ``[b, (capsules dim), h, w]`` to capsules ``[b, (h w capsules), dim]``."""
    values = np.asarray(maps, np.float64)
    batch, channels, height, width = values.shape
    groups = channels // dim
    capsules = np.empty((batch, height * width * groups, dim))
    for row in range(height):
        for column in range(width):
            for group in range(groups):
                position = (row * width + column) * groups + group
                own = slice(group * dim, (group + 1) * dim)
                capsules[:, position] = values[:, own, row, column]
    return capsules


def capsule_layer(capsules: npt.ArrayLike, weight: npt.ArrayLike, iterations: int) -> Array:
    """Votes by weight ``[in_capsules, in_dim, out_capsules, out_dim]``, then routing."""
    inputs, matrices = np.asarray(capsules, np.float64), np.asarray(weight, np.float64)
    votes = np.empty((len(inputs), len(matrices), *matrices.shape[2:]))
    for i, matrix in enumerate(matrices):
        votes[:, i] = np.tensordot(inputs[:, i], matrix, axes=1)
    return dynamic_routing(votes, iterations)


def readable_capsnet_encoder(state: Mapping[str, npt.ArrayLike], images: npt.ArrayLike) -> Array:
    """Class capsules of readable_capsnet's ``Encoder``, from its ``state_dict``."""
    stem, primary = "image2primary_capsules.0", "image2primary_capsules.2"
    weight = np.asarray(state["primary2digit_capsules.input_caps2U.weight"], np.float64)
    hidden = np.maximum(conv2d(images, state[f"{stem}.weight"], state[f"{stem}.bias"], 1), 0)
    maps = conv2d(hidden, state[f"{primary}.weight"], state[f"{primary}.bias"], 2)
    return capsule_layer(primary_capsules(maps, weight.shape[1]) * 0.01, weight, 3)


def readable_capsnet_decoder(
    state: Mapping[str, npt.ArrayLike], capsules: npt.ArrayLike, classes: npt.ArrayLike
) -> Array:
    """Images of readable_capsnet's ``Decoder``, on capsules masked to one class each."""
    first, middle, bias, last = (
        np.asarray(state[name], np.float64)
        for name in ("0.weight", "2.weight", "2.bias", "4.weight")
    )
    masked = np.zeros_like(np.asarray(capsules, np.float64))
    for image, chosen in enumerate(np.asarray(classes)):
        masked[image, chosen] = np.asarray(capsules, np.float64)[image, chosen]
    hidden = np.maximum(np.tensordot(masked, first, axes=2), 0)
    hidden = np.maximum(hidden @ middle.T + bias, 0)
    return 1 / (1 + np.exp(-np.tensordot(hidden, last, axes=1)))
