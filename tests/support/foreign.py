"""Networks of other projects: made-up weights in their layouts, and what their code computes.

Their formulas are written out as plain loops in float64, without capsnet's code. Sizes are small;
none of two is the same.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from support.oracle import conv2d

Array = npt.NDArray[np.float64]
Weights = Mapping[str, npt.NDArray[np.float32]]

CHANNELS, SIDE, STEM, KERNEL, PRIMARY_KERNEL, GRID = 1, 12, 5, 5, 3, 3
GROUPS, DIM, CLASSES, CLASS_DIM, HIDDEN = 2, 4, 3, 6, (7, 8)
POSITIONS = GRID * GRID
INPUTS = GROUPS * POSITIONS


@dataclass(frozen=True)
class Foreign:
    """A layout.

    Attributes:
        weights: by the names of that project; random, in float32.
        compute: lengths ``[batch, classes]``, class capsules ``[batch, classes, dim]`` and decoded
            images of that project's network with such weights, for images ``[batch, channels,
            height, width]`` and its count of iterations.
    """

    weights: Callable[[], Weights]
    compute: Callable[[Weights, Array, int], tuple[Array, Array, Array | None]]


def _random(*shape: int, scale: float = 1.0) -> npt.NDArray[np.float32]:
    seed = sum(size * 31**place for place, size in enumerate(shape))
    return np.random.default_rng(seed).normal(0, scale, shape).astype(np.float32)


def _relu(values: Array) -> Array:
    return np.maximum(values, 0)


def _softmax(values: Array) -> Array:
    exponentials = np.exp(values)
    return exponentials / exponentials.sum()


def _usual_squash(vector: Array, epsilon: float = 0.0) -> Array:
    square = float((vector**2).sum())
    return vector * (square / (1 + square) / np.sqrt(square + epsilon))


def _dense(values: Array, weights: Weights, names: tuple[str, ...]) -> Array:
    """Linear layers of torch with ReLU between them and a sigmoid at the end."""
    for name in names:
        weight, bias = (weights[f"{name}.{part}"].astype(np.float64) for part in ("weight", "bias"))
        values = values @ weight.T + bias
        values = _relu(values) if name != names[-1] else 1 / (1 + np.exp(-values))
    return values


def _decoder(names: tuple[str, ...], inputs: int) -> dict[str, npt.NDArray[np.float32]]:
    sizes = (inputs, *HIDDEN, CHANNELS * SIDE * SIDE)
    found = {}
    for name, before, after in zip(names, sizes[:-1], sizes[1:], strict=True):
        found[f"{name}.weight"] = _random(after, before, scale=0.5)
        found[f"{name}.bias"] = _random(after)
    return found


def _only_longest(capsules: Array) -> Array:
    masked = np.zeros_like(capsules)
    for image, values in enumerate(capsules):
        longest = np.sqrt((values**2).sum(-1)).argmax()
        masked[image, longest] = values[longest]
    return masked


def _stem_weights(name: str) -> dict[str, npt.NDArray[np.float32]]:
    return {
        f"{name}.weight": _random(STEM, CHANNELS, KERNEL, KERNEL, scale=0.4),
        f"{name}.bias": _random(STEM, scale=0.2),
    }


def _convolved(weights: Weights, name: str, images: Array, stride: int) -> Array:
    return conv2d(images, weights[f"{name}.weight"], weights[f"{name}.bias"], stride)


# adambielski/CapsNet-pytorch


def _adambielski_weights() -> Weights:
    return {
        **_stem_weights("capsnet.conv1"),
        "capsnet.primaryCaps.conv.weight": _random(GROUPS * DIM, STEM, 3, 3, scale=0.4),
        "capsnet.primaryCaps.conv.bias": _random(GROUPS * DIM, scale=0.2),
        "capsnet.digitCaps.weights": _random(INPUTS, DIM, CLASSES * CLASS_DIM, scale=0.8),
        "capsnet.digitCaps.routing_module.b": _random(INPUTS, CLASSES),
        **_decoder(tuple(f"reconstruction_net.fc{n}" for n in (1, 2, 3)), CLASSES * CLASS_DIM),
    }


def _adambielski(weights: Weights, images: Array, iterations: int):
    features = _relu(_convolved(weights, "capsnet.conv1", images, 1))
    maps = _convolved(weights, "capsnet.primaryCaps.conv", features, 2)
    capsules = np.empty((len(images), CLASSES, CLASS_DIM))
    matrix = weights["capsnet.digitCaps.weights"].astype(np.float64)
    for image, values in enumerate(maps):
        votes = np.empty((INPUTS, CLASSES, CLASS_DIM))
        # Group by group, and in a group position by position.
        for group in range(GROUPS):
            for row in range(GRID):
                for column in range(GRID):
                    i = (group * GRID + row) * GRID + column
                    pose = _usual_squash(values[group * DIM : (group + 1) * DIM, row, column])
                    votes[i] = (pose @ matrix[i]).reshape(CLASSES, CLASS_DIM)
        b = weights["capsnet.digitCaps.routing_module.b"].astype(np.float64)
        for step in range(iterations + 1):
            if step:
                b = b + np.einsum("ijd,jd->ij", votes, v)  # noqa: F821
            c = np.array([_softmax(row) for row in b])
            v = np.array([_usual_squash(c[:, j] @ votes[:, j]) for j in range(CLASSES)])
        capsules[image] = v
    names = tuple(f"reconstruction_net.fc{n}" for n in (1, 2, 3))
    decoded = _dense(_only_longest(capsules).reshape(len(images), -1), weights, names)
    return np.sqrt((capsules**2).sum(-1)), capsules, decoded


# gram-ai/capsule-networks and cedrickchee/capsule-net-pytorch: a convolution for each value


def _unit_weights(prefix: str) -> dict[str, npt.NDArray[np.float32]]:
    found = {}
    for unit in range(DIM):
        found[f"{prefix}.{unit}.weight"] = (0.8 + 0.1 * unit) * _random(GROUPS, STEM, 3, 3)
        found[f"{prefix}.{unit}.bias"] = 0.1 * unit * _random(GROUPS)
    return found


def _units(weights: Weights, prefix: str, features: Array) -> Array:
    """Their outputs ``[batch, dim, (groups rows columns)]``."""
    maps = [_convolved(weights, f"{prefix}.{unit}", features, 2) for unit in range(DIM)]
    return np.stack([m.reshape(len(m), -1) for m in maps], axis=1)


def _gram_ai_weights(inputs: int = CLASSES * CLASS_DIM) -> Weights:
    return {
        **_stem_weights("conv1"),
        **_unit_weights("primary_capsules.capsules"),
        "digit_capsules.route_weights": _random(CLASSES, INPUTS, DIM, CLASS_DIM, scale=2.0),
        **_decoder(("decoder.0", "decoder.2", "decoder.4"), inputs),
    }


def _gram_ai_alone_weights() -> Weights:
    return _gram_ai_weights(CLASS_DIM)


def _gram_ai(weights: Weights, images: Array, iterations: int):
    features = _relu(_convolved(weights, "conv1", images, 1))
    units = _units(weights, "primary_capsules.capsules", features)
    matrix = weights["digit_capsules.route_weights"].astype(np.float64)
    capsules = np.empty((len(images), CLASSES, CLASS_DIM))
    for image in range(len(images)):
        for j in range(CLASSES):
            votes = np.array(
                [_usual_squash(units[image, :, i]) @ matrix[j, i] for i in range(INPUTS)]
            )
            logits = np.zeros((INPUTS, CLASS_DIM))  # as wide as a capsule
            for step in range(iterations):
                probs = np.array([_softmax(column) for column in logits.T]).T
                v = _usual_squash((probs * votes).sum(axis=0))
                if step != iterations - 1:
                    logits = logits + (votes * v).sum(axis=1, keepdims=True)
            capsules[image, j] = v
    classes = np.array([_softmax(np.sqrt((c**2).sum(-1))) for c in capsules])
    masked = _only_longest(capsules)
    alone = weights["decoder.0.weight"].shape[1] == CLASS_DIM
    given = masked.sum(axis=1) if alone else masked.reshape(len(images), -1)
    return classes, capsules, _dense(given, weights, ("decoder.0", "decoder.2", "decoder.4"))


def _cedrickchee_weights() -> Weights:
    return {
        **_stem_weights("conv1.conv0"),
        **_unit_weights("primary.conv_units"),
        "digits.weight": _random(1, INPUTS, CLASSES, CLASS_DIM, DIM, scale=2.0),
        **_decoder(("decoder.fc1", "decoder.fc2", "decoder.fc3"), CLASSES * CLASS_DIM),
    }


def _cedrickchee(weights: Weights, images: Array, iterations: int):
    """Of each image as a batch of its own."""
    features = _relu(_convolved(weights, "conv1.conv0", (images - 0.1307) / 0.3081, 1))
    units = _units(weights, "primary.conv_units", features)
    matrix = weights["digits.weight"][0].astype(np.float64)
    capsules = np.empty((len(images), CLASSES, CLASS_DIM))
    for image in range(len(images)):
        squashed = np.array([_usual_squash(row) for row in units[image]])  # over all capsules
        votes = np.array(
            [[matrix[i, j] @ squashed[:, i] for j in range(CLASSES)] for i in range(INPUTS)]
        )
        b = np.zeros((INPUTS, CLASSES))
        for _ in range(iterations):
            c = np.array([_softmax(row) for row in b])
            v = np.array([_usual_squash(c[:, j] @ votes[:, j]) for j in range(CLASSES)])
            b = b + np.einsum("ijd,jd->ij", votes, v)
        capsules[image] = v
    names = ("decoder.fc1", "decoder.fc2", "decoder.fc3")
    decoded = _dense(_only_longest(capsules).reshape(len(images), -1), weights, names)
    return np.sqrt((capsules**2).sum(-1)), capsules, decoded


# arogozhnikov/readable_capsnet, with a second layer of capsules behind the first


def _readable_weights() -> Weights:
    first, second = "image2primary_capsules", "primary2digit_capsules"
    return {
        **_stem_weights(f"encoder.{first}.0"),
        f"encoder.{first}.2.weight": _random(GROUPS * DIM, STEM, 3, 3, scale=0.4),
        f"encoder.{first}.2.bias": _random(GROUPS * DIM, scale=0.2),
        f"encoder.{second}.input_caps2U.weight": _random(INPUTS, DIM, 5, 7, scale=60.0),
        "encoder.second.input_caps2U.weight": _random(5, 7, CLASSES, CLASS_DIM, scale=2.0),
    }


def _readable(weights: Weights, images: Array, iterations: int):
    features = _relu(_convolved(weights, "encoder.image2primary_capsules.0", images, 1))
    maps = _convolved(weights, "encoder.image2primary_capsules.2", features, 2)
    capsules = np.empty((len(images), CLASSES, CLASS_DIM))
    for image, values in enumerate(maps):
        poses = [
            0.01 * values[group * DIM : (group + 1) * DIM, row, column]
            for row in range(GRID)
            for column in range(GRID)
            for group in range(GROUPS)
        ]
        for layer in ("primary2digit_capsules", "second"):
            matrix = weights[f"encoder.{layer}.input_caps2U.weight"].astype(np.float64)
            votes = np.array(
                [np.tensordot(p, m, axes=1) for p, m in zip(poses, matrix, strict=True)]
            )
            b = np.zeros(votes.shape[:2])
            for _ in range(iterations):
                c = np.array([_softmax(row) for row in b])
                s = [c[:, j] @ votes[:, j] for j in range(votes.shape[1])]
                v = np.array([_usual_squash(vector) for vector in s])
                b = b + np.einsum("ijd,jd->ij", votes, v)
            poses = v
        capsules[image] = v
    return np.sqrt((capsules**2).sum(-1)), capsules, None


TORCH = {
    "readable_capsnet": Foreign(_readable_weights, _readable),
    "adambielski": Foreign(_adambielski_weights, _adambielski),
    "gram-ai": Foreign(_gram_ai_weights, _gram_ai),
    "gram-ai, one capsule alone": Foreign(_gram_ai_alone_weights, _gram_ai),
    "cedrickchee": Foreign(_cedrickchee_weights, _cedrickchee),
}
"""Layouts of torch's files, by their names up to the comma."""


# Keras: XifengGuo/CapsNet-Keras and EscVM/Efficient-CapsNet, images and kernels with channels last

_COLOURS = 2  # so that the order of channels and pixels matters


def _dense_weights(names: tuple[str, ...]) -> dict[str, npt.NDArray[np.float32]]:
    sizes = (CLASSES * CLASS_DIM, *HIDDEN, _COLOURS * SIDE * SIDE)
    found = {}
    for name, before, after in zip(names, sizes[:-1], sizes[1:], strict=True):
        found[f"{name}/kernel"] = _random(before, after, scale=0.5)
        found[f"{name}/bias"] = _random(after)
    return found


def _kernel(name: str, size: int, before: int, after: int) -> dict[str, npt.NDArray[np.float32]]:
    scale = 1.5 / (size * size * before) ** 0.5
    return {
        f"{name}/kernel": _random(size, size, before, after, scale=scale),
        f"{name}/bias": _random(after, scale=0.2),
    }


def _keras_convolved(weights: Weights, name: str, features: Array, stride: int) -> Array:
    """Features with channels last, as are the kernels."""
    kernel = weights[f"{name}/kernel"].astype(np.float64)
    size, after = kernel.shape[0], kernel.shape[3]
    height, width = ((n - size) // stride + 1 for n in features.shape[1:3])
    result = np.empty((len(features), height, width, after))
    for row in range(height):
        for column in range(width):
            top, left = row * stride, column * stride
            window = features[:, top : top + size, left : left + size]
            result[:, row, column] = np.tensordot(window, kernel, axes=((1, 2, 3), (0, 1, 2)))
    return result + weights[f"{name}/bias"].astype(np.float64)


def _keras_decoded(weights: Weights, capsules: Array, names: tuple[str, ...]) -> Array:
    values = _only_longest(capsules).reshape(len(capsules), -1)
    for name in names:
        values = values @ weights[f"{name}/kernel"].astype(np.float64) + weights[f"{name}/bias"]
        values = _relu(values) if name != names[-1] else 1 / (1 + np.exp(-values))
    return values.reshape(len(capsules), SIDE, SIDE, _COLOURS).transpose(0, 3, 1, 2)


_XIFENGGUO_DENSE = ("dense_9", "dense_10", "dense_11")


def _xifengguo_weights() -> Weights:
    return {
        **_kernel("conv1", KERNEL, _COLOURS, STEM),
        **_kernel("primarycap_conv2d", 3, STEM, GROUPS * DIM),
        "digitcaps/W": _random(CLASSES, INPUTS, CLASS_DIM, DIM, scale=0.8),
        **_dense_weights(_XIFENGGUO_DENSE),
    }


def _xifengguo(weights: Weights, images: Array, iterations: int):
    features = _relu(_keras_convolved(weights, "conv1", images.transpose(0, 2, 3, 1), 1))
    maps = _keras_convolved(weights, "primarycap_conv2d", features, 2)
    matrix = weights["digitcaps/W"].astype(np.float64)
    capsules = np.empty((len(images), CLASSES, CLASS_DIM))
    for image, values in enumerate(maps.reshape(len(images), -1, DIM)):
        poses = [_usual_squash(pose, 1e-7) for pose in values]
        votes = np.array([[m @ p for m, p in zip(row, poses, strict=True)] for row in matrix])
        b = np.zeros((CLASSES, INPUTS))
        for step in range(iterations):
            c = np.array([_softmax(column) for column in b.T]).T
            v = np.array([_usual_squash(c[j] @ votes[j], 1e-7) for j in range(CLASSES)])
            if step < iterations - 1:
                b = b + np.einsum("jd,jid->ji", v, votes)
        capsules[image] = v
    lengths = np.sqrt((capsules**2).sum(-1) + 1e-7)
    return lengths, capsules, _keras_decoded(weights, capsules, _XIFENGGUO_DENSE)


_EFFICIENT_DENSE = ("dense", "dense_1", "dense_2")


def _efficient_weights() -> Weights:
    found = {}
    for number, (size, before, after) in enumerate([(3, _COLOURS, 3), (3, 3, 5), (3, 5, 8)]):
        suffix = f"_{number}" if number else ""
        found |= _kernel(f"conv2d{suffix}", size, before, after)
        for name in ("gamma", "beta", "moving_mean"):
            found[f"batch_normalization{suffix}/{name}"] = _random(after, scale=0.7)
        found[f"batch_normalization{suffix}/moving_variance"] = _random(after) ** 2 + 0.5
    return {
        **found,
        **_kernel("conv2d_3", 2, 1, 8),
        "fc_caps/W": _random(CLASSES, 2 * 4, DIM, CLASS_DIM),
        "fc_caps/b": _random(CLASSES, 2 * 4, 1),
        **_dense_weights(_EFFICIENT_DENSE),
    }


def _efficient(weights: Weights, images: Array, _: int):
    features = images.transpose(0, 2, 3, 1)
    for suffix, stride in (("", 1), ("_1", 1), ("_2", 2)):
        features = _relu(_keras_convolved(weights, f"conv2d{suffix}", features, stride))
        gamma, beta, mean, variance = (
            weights[f"batch_normalization{suffix}/{name}"].astype(np.float64)
            for name in ("gamma", "beta", "moving_mean", "moving_variance")
        )
        features = gamma * (features - mean) / np.sqrt(variance + 1e-3) + beta
    depthwise = np.stack(
        [
            _keras_convolved(
                {
                    "one/kernel": weights["conv2d_3/kernel"][..., channel : channel + 1],
                    "one/bias": weights["conv2d_3/bias"][channel : channel + 1],
                },
                "one",
                features[..., channel : channel + 1],
                1,
            )[..., 0]
            for channel in range(8)
        ],
        axis=-1,
    )

    def squash(vector):
        n = np.sqrt((vector**2).sum())
        return (1 - 1 / (np.exp(n) + 1e-20)) * (vector / (n + 1e-20))

    matrix, prior = (weights[f"fc_caps/{name}"].astype(np.float64) for name in ("W", "b"))
    capsules = np.empty((len(images), CLASSES, CLASS_DIM))
    for image, values in enumerate(depthwise.reshape(len(images), -1, DIM)):
        poses = [squash(pose) for pose in values]
        u = np.array([[p @ m for p, m in zip(poses, row, strict=True)] for row in matrix])
        agreement = np.array([u[k] @ u[k].sum(axis=0) for k in range(CLASSES)]) / CLASS_DIM**0.5
        c = np.array([_softmax(column) for column in agreement.T]).T[..., None] + prior
        capsules[image] = [squash((u[k] * c[k]).sum(axis=0)) for k in range(CLASSES)]
    lengths = np.sqrt((capsules**2).sum(-1) + 1e-7)
    return lengths, capsules, _keras_decoded(weights, capsules, _EFFICIENT_DENSE)


KERAS = {
    "xifengguo": Foreign(_xifengguo_weights, _xifengguo),
    "efficient-capsnet": Foreign(_efficient_weights, _efficient),
}
"""Layouts of Keras' files."""


def write_torch(path, weights: Weights) -> None:
    """As ``torch.save`` of a ``state_dict``."""
    import torch

    torch.save({name: torch.from_numpy(np.array(values)) for name, values in weights.items()}, path)


def write_keras(path, weights: Weights) -> None:
    """As Keras' ``save_weights``: a group for each layer, in it the layer's scope."""
    import h5py

    with h5py.File(path, "w") as file:
        for name, values in weights.items():
            layer = name.split("/")[0]
            group = "decoder" if layer.startswith("dense") else layer
            file[f"{group}/{name}:0"] = values
