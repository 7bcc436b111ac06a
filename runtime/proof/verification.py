"""Verification of an artifact file: parity on real images, in a fresh process, certified.

The process that exported a model holds its graph, its weights and its libraries' state; one that
only reads the file from disk sees what a user will see. This module, run as a program, is that
process: it computes the reference once, and then judges file after file.
"""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import numpy.typing as npt

from capsnet.config import CapsNetConfig
from capsnet.data.idx import load_split, mnist_test_set
from capsnet.data.stream import count_images, stream_images
from capsnet.documents import to_values
from capsnet.errors import DataError, ResultError
from capsnet.files import file_sha256
from capsnet.runtime.certificate import SCHEMA_VERSION, environment
from capsnet.runtime.process import ChildProcess, ChildProcessEnded, Handler, serve
from capsnet.runtime.proof.hard_inputs import HardInputs
from capsnet.runtime.proof.parity import LARGE_BATCH, Tolerance, compare
from capsnet.runtime.sessions.base import Device
from capsnet.runtime.sessions.opening import open_session

if TYPE_CHECKING:
    from capsnet.model import CapsNet

__all__ = [
    "FreshProcess",
    "Judge",
    "Request",
    "load_images",
]

_TIMEOUT_BASE, _TIMEOUT_PER_IMAGE = 120.0, 2.0  # seconds; far above what slow machines need


@dataclass(frozen=True)
class Request:
    """What to verify artifacts against.

    Attributes:
        checkpoint: the checkpoint that they were exported from.
        images: a file or folder of images, a folder of labelled IDX files, or None for the MNIST
            test set that comes with the package.
        samples: how many images to compare, spread evenly over all; None for all of them.
        device: where to run the artifacts.
        tolerance: a limit of the user's own on the errors.
        details: add what the report page draws: error histograms and the worst images.
    """

    checkpoint: Path
    images: Path | None = None
    samples: int | None = None
    device: Device = "auto"
    tolerance: Tolerance | None = None
    details: bool = False


class Judge:
    """Judges artifacts in this process.

    Args:
        request: what to verify them against.

    Raises:
        CheckpointError, DataError: if something cannot be read, or does not fit.
    """

    def __init__(self, request: Request) -> None:
        import torch  # the reference needs it; the process that asks does not

        from capsnet.checkpoint import load_checkpoint
        from capsnet.runtime.proof.reference import EagerModel

        self._request = request
        self._model: CapsNet = load_checkpoint(request.checkpoint)
        self._digest = file_sha256(request.checkpoint)
        self._source, self._images, self._labels = load_images(
            request, self._model.config, self._digest
        )
        self._golden = EagerModel(self._model, torch.float64)
        self._baseline = EagerModel(self._model, torch.float32)
        self._hard_inputs = HardInputs(self._golden, self._baseline, self._images)
        for reference in (self._golden, self._baseline):  # now, while there is no file to judge
            reference.run(self._images, ())

    def judge(self, artifact: Path) -> dict[str, Any]:
        """Compare an artifact with its reference.

        Args:
            artifact: the file.

        Returns:
            The certificate's document: verdict, artifact, environment, images, the parity report
            and the hard inputs' results; and the details, if they were asked for.

        Raises:
            ArtifactError, DeviceError: if it cannot be read or run.
            ResultError: if it was not exported from this checkpoint.
        """
        request = self._request
        session = open_session(artifact, request.device)
        # Others may run the file without this session: its large batches are proven undivided.
        session.largest_batch = LARGE_BATCH
        claimed = session.metadata.checkpoint_sha256
        if (
            claimed not in (None, self._digest)
            or CapsNetConfig.from_dict(session.metadata.config) != self._model.config
        ):
            raise ResultError(
                f"{artifact} was not exported from {request.checkpoint}: it names a checkpoint "
                f"with SHA-256 {claimed}, this one has {self._digest}; give the right one with "
                "--checkpoint"
            )
        parity = compare(
            self._golden, self._baseline, session, self._images, self._labels, request.tolerance
        )
        hard = self._hard_inputs.check(session)
        document = {
            "schema_version": SCHEMA_VERSION,
            "verdict": "pass" if parity.passed and not any(h.failures for h in hard) else "fail",
            "artifact": {
                "file": artifact.name,
                "bytes": artifact.stat().st_size,
                "sha256": file_sha256(artifact),
                "format": session.format,
                "metadata": to_values(session.metadata),
            },
            "checkpoint_sha256": self._digest,
            "images": {"source": self._source, "count": len(self._images)},
            "device": session.device,
            "device_reason": session.device_reason,
            "providers": session.providers(),
            "environment": environment(),
            "parity": parity.to_dict(),
            "hard_inputs": [dataclasses.asdict(result) for result in hard],
        }
        if request.details:
            from capsnet.runtime.proof.details import collect_details

            document["details"] = collect_details(
                self._golden, self._baseline, session, self._images
            )
        return document


class FreshProcess:
    """Judges artifacts in a process of its own, which shares nothing with this one.

    The process computes the reference while the artifacts are still being exported. Used as a
    context manager, it is killed at the end of the block if it still runs.

    Args:
        request: what to verify them against.
    """

    def __init__(self, request: Request) -> None:
        self._timeout = _TIMEOUT_BASE + _TIMEOUT_PER_IMAGE * (request.samples or 10_000)
        self._process = ChildProcess(__name__, dataclasses.asdict(request))
        self._submitted: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def submit(self, artifact: Path) -> None:
        """Hand in a file, which must stay as it is until its document is there."""
        self._submitted.append(artifact)
        self._process.send({"artifact": str(artifact)})

    def documents(self) -> list[dict[str, Any]]:
        """What :meth:`Judge.judge` returns for each file that was handed in, in order.

        Raises:
            CapsNetError: what :class:`Judge` raises there, with its exit code.
            ResultError: if the process crashes, hangs, or gives no verdict.
        """
        documents = []
        artifact = self._submitted[0]
        try:
            self._process.receive(self._timeout)
            for artifact in self._submitted:
                documents.append(self._process.receive(self._timeout))
                if documents[-1].get("verdict") not in ("pass", "fail"):
                    raise ResultError(f"verification of {artifact} gave no verdict")
            self._process.finish()
        except TimeoutError:
            raise ResultError(
                f"verification of {artifact} hung: no verdict within {self._timeout:.0f} s"
            ) from None
        except ChildProcessEnded as error:
            raise ResultError(f"verification of {artifact} crashed: {error}") from error
        return documents


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


def _start(values: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    images, tolerance = values["images"], values["tolerance"]
    request = Request(
        **{
            **values,
            "checkpoint": Path(values["checkpoint"]),
            "images": None if images is None else Path(images),
            "tolerance": None if tolerance is None else Tolerance(**tolerance),
        }
    )
    judge = Judge(request)
    return {}, lambda asked: judge.judge(Path(asked["artifact"]))


if __name__ == "__main__":
    serve(_start)
