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
