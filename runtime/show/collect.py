"""Collecting what is shown of a network; nothing is drawn here."""

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capsnet.errors import DataError, ResultError
from capsnet.runtime.proof.images import ProofImages
from capsnet.runtime.proof.results import ImageSet
from capsnet.runtime.show.results import Array, Confusion, Couplings, Example, Shown, Tweaks

if TYPE_CHECKING:
    from torch import Tensor

    from capsnet.model import CapsNet

__all__ = ["STEPS", "collect"]

STEPS = tuple(round(0.05 * step, 2) for step in range(-5, 6))
"""What is added to a value of a capsule: -0.25 to 0.25 in steps of 0.05, as the paper does."""

_BATCH = 32  # images at once
_CLASSES = 20  # classes that are drawn; all are counted
_EACH = 2  # examples of a class
_MISTAKES = 12
_CONFUSIONS = 10
_INDICES = 8  # of the images of a confusion

Run = Callable[[npt.NDArray[np.float32]], Mapping[str, Array]]
Labels = npt.NDArray[np.int64]


def collect(
    network: str,
    run: Run,
    decision: str,
    given: ProofImages[Array],
    *,
    names: Sequence[str] = (),
    model: "CapsNet | None" = None,
) -> Shown:
    """Run a network on images, and keep what is shown of it.

    Args:
        network: what it is called.
        run: gives its outputs for images float32 ``[batch, channels, height, width]``, by name.
        decision: the output ``[batch, classes]`` whose largest value names the class.
        given: the images, and their labels where they are known.
        names: of the classes; their numbers where there are none.
        model: the readable network, which has its couplings and a decoder to itself; None for an
            artifact.

    Raises:
        DataError: if a label is none of the network's classes.
        ResultError: if the network computes NaN or infinity.
    """
    images = given.images
    lengths = np.concatenate(
        [run(images[at : at + _BATCH])[decision] for at in range(0, len(images), _BATCH)]
    )
    if not np.isfinite(lengths).all():
        raise ResultError(
            f"{network} computes NaN or infinity, expected lengths 0..1; check its weights"
        )
    classes, predicted = lengths.shape[1], lengths.argmax(axis=1)
    labels = given.labels
    if labels is not None and not ((labels >= 0) & (labels < classes)).all():
        raise DataError(
            f"{given.source}: the labels are {labels.min()} to {labels.max()}, the network has "
            f"{classes} classes, expected labels 0 to {classes - 1}"
        )
    by_class = _examples(predicted, labels)
    wrong = _mistakes(lengths, labels)
    source = ImageSet(given.source, len(images), given.total)
    drawn = _drawn(run, given, lengths, [*(n for own in by_class for n in own), *wrong], source)
    firsts = [drawn[own[0]] for own in by_class]
    shown = Shown(
        network=network,
        source=given.source,
        images=len(images),
        total=given.total,
        names=tuple(names) or tuple(map(str, range(classes))),
        examples=tuple(drawn[n] for own in by_class for n in own),
        steps=STEPS,
        tweaks=(),
        couplings=(),
        places=None,
        counts=None if labels is None else _counts(labels, predicted, classes),
        confusions=_confusions(labels, predicted, source),
        mistakes=tuple(drawn[n] for n in wrong),
        missing=_missing(labels, drawn.values(), len(np.unique(predicted))),
    )
    return _without_network(shown) if model is None else _with_network(shown, model, firsts)


def _examples(predicted: Labels, labels: Labels | None) -> list[list[int]]:
    """For each class the first images that are taken for it; rightly, where there are some."""
    found = []
    for number in np.unique(predicted)[:_CLASSES].tolist():
        own = np.flatnonzero(predicted == number)
        right = own if labels is None else own[labels[own] == number]
        found.append((right if len(right) else own)[:_EACH].tolist())
    return found


def _mistakes(lengths: Array, labels: Labels | None) -> list[int]:
    """The images that are wrong by most."""
    if labels is None:
        return []
    rows = np.arange(len(lengths))
    excess = lengths.max(axis=1) - lengths[rows, labels]
    wrong = np.flatnonzero(lengths.argmax(axis=1) != labels)
    ordered: list[int] = wrong[np.argsort(-excess[wrong], kind="stable")][:_MISTAKES].tolist()
    return ordered


def _drawn(
    run: Run, given: ProofImages[Array], lengths: Array, chosen: Iterable[int], source: ImageSet
) -> dict[int, Example]:
    """The chosen images as examples, with their reconstructions."""
    numbers = sorted(set(chosen))
    reconstructions: list[Array] = []
    for at in range(0, len(numbers), _BATCH):
        outputs = run(given.images[numbers[at : at + _BATCH]])
        reconstructions += list(outputs.get("reconstruction", ()))
    return {
        n: Example(
            index=source.index_of(n),
            image=given.images[n],
            label=None if given.labels is None else int(given.labels[n]),
            predicted=int(lengths[n].argmax()),
            lengths=lengths[n],
            reconstruction=reconstructions[place] if reconstructions else None,
        )
        for place, n in enumerate(numbers)
    }


def _counts(labels: Labels, predicted: Labels, classes: int) -> Labels:
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def _confusions(
    labels: Labels | None, predicted: Labels, source: ImageSet
) -> tuple[Confusion, ...]:
    if labels is None:
        return ()
    found: dict[tuple[int, int], list[int]] = {}
    for n in np.flatnonzero(labels != predicted).tolist():
        found.setdefault((int(labels[n]), int(predicted[n])), []).append(source.index_of(n))
    ordered = sorted(found.items(), key=lambda pair: (-len(pair[1]), pair[0]))
    return tuple(
        Confusion(*pair, len(indices), tuple(indices[:_INDICES]))
        for pair, indices in ordered[:_CONFUSIONS]
    )


def _missing(labels: Labels | None, examples: Iterable[Example], found: int) -> dict[str, str]:
    missing = {}
    if all(example.reconstruction is None for example in examples):
        missing["reconstructions"] = "the network has no decoder, or the artifact leaves it out"
    if labels is None:
        missing["confusions"] = "the true classes of these images are not known"
    if found > _CLASSES:
        missing["classes"] = f"{found} were found, and the first {_CLASSES} are drawn"
    return missing


def _without_network(shown: Shown) -> Shown:
    why = "an artifact does not hold what this takes: show its checkpoint"
    return dataclasses.replace(shown, missing={"tweaks": why, "couplings": why, **shown.missing})


def _with_network(shown: Shown, model: "CapsNet", firsts: Sequence[Example]) -> Shown:
    """With the tweaks and the couplings of one example a class."""
    import torch

    from capsnet.runtime.show.coupling import couplings_of, places_of, why_no_couplings

    missing = dict(shown.missing)
    weight = next(model.parameters())
    images = torch.from_numpy(np.stack([example.image for example in firsts])).to(weight)
    tweaks: tuple[Tweaks, ...] = ()
    if model.decoder is None:
        missing["tweaks"] = "the network has no decoder"
    else:
        with torch.no_grad():
            _, capsules = model(images)
        tweaks = tuple(
            Tweaks(example, _tweaked(model, own, example.predicted))
            for example, own in zip(firsts, capsules, strict=True)
        )
    why = why_no_couplings(model)
    if why is not None:
        return dataclasses.replace(shown, tweaks=tweaks, missing={**missing, "couplings": why})
    found = couplings_of(model, images).cpu().numpy()
    couplings = tuple(
        Couplings(example, own[..., example.predicted])
        for example, own in zip(firsts, found, strict=True)
    )
    return dataclasses.replace(
        shown, tweaks=tweaks, couplings=couplings, places=places_of(model), missing=missing
    )


def _tweaked(model: "CapsNet", capsules: "Tensor", number: int) -> Array:
    """Decoded images of a class capsule of ``[classes, dim]``, ``[dim, steps, ...]``."""
    import torch

    dim = capsules.shape[1]
    steps = torch.tensor(STEPS).to(capsules)
    changed = capsules.repeat(dim, len(STEPS), 1, 1)
    places = torch.arange(dim)
    changed[places, :, number, places] += steps
    flat = changed.flatten(0, 1)
    with torch.no_grad():
        decoded = model.reconstruct(flat, torch.full((len(flat),), number, device=flat.device))
    images: Array = decoded.unflatten(0, (dim, len(STEPS))).cpu().numpy()
    return images
