"""Verification of an artifact file: parity on real images, in a fresh process, certified.

The process that exported a model holds its graph, its weights and its libraries' state; one that
only reads the file from disk sees what a user will see. ``python -m capsnet.runtime.verification``
is that process: a request as JSON on its command line, a document as JSON on its standard output.
"""

import dataclasses
import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.config import CapsNetConfig
from capsnet.data import load_split, mnist_test_set
from capsnet.errors import CapsNetError, DataError, OutputError, ResultError
from capsnet.files import file_sha256
from capsnet.runtime.certificate import SCHEMA_VERSION, environment
from capsnet.runtime.details import collect_details
from capsnet.runtime.hard_inputs import check_hard_inputs
from capsnet.runtime.inputs import count_images, stream_images
from capsnet.runtime.parity import Tolerance, compare
from capsnet.runtime.session import Device, open_session

__all__ = [
    "Request",
    "load_images",
    "verify",
    "verify_in_fresh_process",
]

_TIMEOUT_BASE, _TIMEOUT_PER_IMAGE = 120.0, 2.0  # seconds; far above what slow machines need


@dataclass(frozen=True)
class Request:
    """What to verify.

    Attributes:
        artifact: the file to judge.
        checkpoint: the checkpoint it was exported from.
        images: a file or folder of images, a folder of labelled IDX files, or None for the MNIST
            test set that comes with the package.
        samples: how many images to compare, spread evenly over all; None for all of them.
        device: where to run the artifact.
        tolerance: a limit of the user's own on the errors.
        details: add what the report page draws: error histograms and the worst images.
    """

    artifact: Path
    checkpoint: Path
    images: Path | None = None
    samples: int | None = None
    device: Device = "auto"
    tolerance: Tolerance | None = None
    details: bool = False


def verify(request: Request) -> dict[str, Any]:
    """Judge an artifact in this process.

    Args:
        request: what to verify.

    Returns:
        The certificate's document: verdict, artifact, environment, images, and the parity report.

    Raises:
        ArtifactError, CheckpointError, DataError, DeviceError: if something cannot be read or run.
        ResultError: if the artifact was not exported from this checkpoint.
    """
    import torch  # the reference needs it; the process that asks does not

    from capsnet.checkpoint import load_checkpoint
    from capsnet.runtime.eager import EagerModel

    started = time.monotonic()
    session = open_session(request.artifact, request.device)
    model = load_checkpoint(request.checkpoint)
    digest = file_sha256(request.checkpoint)
    claimed = session.metadata.checkpoint_sha256
    if claimed not in (None, digest) or session.metadata.config != model.config:
        raise ResultError(
            f"{request.artifact} was not exported from {request.checkpoint}: it names a checkpoint "
            f"with SHA-256 {claimed}, this one has {digest}; give the right one with --checkpoint"
        )
    source, images, labels = load_images(request, model.config, digest)
    golden, baseline = EagerModel(model, torch.float64), EagerModel(model, torch.float32)
    parity = compare(golden, baseline, session, images, labels, request.tolerance)
    hard = check_hard_inputs(golden, baseline, session, images)
    document = {
        "schema_version": SCHEMA_VERSION,
        "verdict": "pass" if parity.passed and not any(h.failures for h in hard) else "fail",
        "artifact": {
            "file": request.artifact.name,
            "bytes": request.artifact.stat().st_size,
            "sha256": file_sha256(request.artifact),
            "format": session.format,
            "metadata": session.metadata.to_dict(),
        },
        "checkpoint_sha256": digest,
        "images": {"source": source, "count": len(images)},
        "device": session.device,
        "providers": session.providers(),
        "environment": environment(),
        "parity": parity.to_dict(),
        "hard_inputs": [dataclasses.asdict(result) for result in hard],
    }
    if request.details:
        document["details"] = collect_details(golden, baseline, session, images)
    return {**document, "seconds": round(time.monotonic() - started, 2)}


def verify_in_fresh_process(request: Request) -> dict[str, Any]:
    """Judge an artifact in a process of its own, which shares nothing with this one.

    Args:
        request: what to verify.

    Returns:
        The document of :func:`verify`.

    Raises:
        CapsNetError: what :func:`verify` raises there, with its exit code.
        ResultError: if the process crashes, hangs, or gives no verdict.
    """
    values = json.dumps(dataclasses.asdict(request), default=str)
    # -P: files of the working folder must not stand in for the installed modules.
    command = [sys.executable, "-P", "-m", "capsnet.runtime.verification", values]
    timeout = _TIMEOUT_BASE + _TIMEOUT_PER_IMAGE * (request.samples or 10_000)
    try:
        child = subprocess.run(
            command, capture_output=True, text=True, timeout=timeout, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise ResultError(
            f"verification of {request.artifact} hung: no verdict within {timeout:.0f} s"
        ) from error
    try:
        # The last line is the answer; libraries may have said something before it.
        answer = json.loads(child.stdout.strip().splitlines()[-1])
        if "error" in answer:
            raise _rebuild_error(answer)
        if answer["verdict"] in ("pass", "fail") and child.returncode == 0:
            return dict(answer)
    except (ValueError, KeyError, TypeError, IndexError):
        pass
    last = (child.stderr.strip().splitlines() or ["nothing"])[-1]
    raise ResultError(
        f"verification of {request.artifact} crashed: its process ended with code "
        f"{child.returncode} and no verdict; it said last: {last}"
    )


def load_images(
    request: Request, config: CapsNetConfig, checkpoint_sha256: str
) -> tuple[str, npt.NDArray[np.float32], npt.NDArray[np.int64] | None]:
    """The images that a request asks for.

    Args:
        request: names a source, or leaves it to the bundled images.
        config: of the network; the images must fit it.
        checkpoint_sha256: labels of the bundled images mean something only to the bundled model.

    Returns:
        Where the images are from, the images ``[n, channels, height, width]``, and their labels
        ``[n]`` where they are known.

    Raises:
        DataError: if there are no images, or they do not fit.
    """
    from capsnet.checkpoint import BUNDLED_CHECKPOINT

    labels = None
    if request.images is None:
        if config.image_shape != (1, 28, 28):
            raise DataError(
                f"the network takes {list(config.image_shape)} images, so the bundled MNIST images "
                "do not fit it: give images with --images"
            )
        source = "MNIST test set"
        pixels, classes = mnist_test_set()
        if checkpoint_sha256 == file_sha256(BUNDLED_CHECKPOINT):
            labels = classes
    elif request.images.is_dir() and any(request.images.glob("t10k-images-idx3-ubyte*")):
        source = f"{request.images.name}: t10k split"
        pixels, labels = load_split(request.images, "t10k")
    else:
        source = request.images.name
        total = count_images([request.images], config.image_shape)
        if total == 0:
            raise DataError(f"{request.images} holds no images; give at least one")
        wanted = set(_spread(total, request.samples).tolist())
        stream = enumerate(stream_images([request.images], config.image_shape))
        return source, np.stack([image for n, (_, image) in stream if n in wanted]), None
    if pixels.shape[1:] != config.image_shape:
        raise DataError(
            f"{source}: the images are {list(pixels.shape[1:])}, "
            f"the network takes {list(config.image_shape)}"
        )
    chosen = _spread(len(pixels), request.samples)
    images = pixels[chosen].astype(np.float32) / np.float32(255)
    return source, images, None if labels is None else labels[chosen]


def _spread(total: int, samples: int | None) -> npt.NDArray[np.int64]:
    """Indices of so many of all images, spread evenly."""
    count = min(samples or total, total)
    return np.arange(count) * total // count


def _rebuild_error(answer: dict[str, Any]) -> CapsNetError:
    kinds = {kind.__name__: kind for kind in CapsNetError.__subclasses__()}
    return kinds.get(answer["kind"], OutputError)(answer["error"])


def _main(argument: str) -> None:
    values = json.loads(argument)
    paths = {
        name: None if values[name] is None else Path(values[name])
        for name in ("artifact", "checkpoint", "images")
    }
    tolerance = values["tolerance"] and Tolerance(**values["tolerance"])
    request = Request(**{**values, **paths, "tolerance": tolerance})
    try:
        answer = verify(request)
    except CapsNetError as error:
        answer = {"error": str(error), "kind": type(error).__name__}
    print(f"\n{json.dumps(answer)}")


if __name__ == "__main__":
    _main(sys.argv[1])
