"""A folder to prove artifacts in, and the two ways to do it: shared by the tests of proofs."""

import contextlib
import struct
from pathlib import Path

import numpy as np
from support.artifacts import onnx_bytes
from support.networks import SMALL, lively_model, random_images

from capsnet.checkpoint import save_checkpoint
from capsnet.networks import NetworkSource
from capsnet.runtime.proof.fresh import FreshProcess
from capsnet.runtime.proof.proof import Prover, prove
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import Certificate


def fill_folder(folder: Path) -> Path:
    """Write a checkpoint of the small network, its artifact, and five images."""
    save_checkpoint(lively_model(SMALL), folder / "model.safetensors")
    (folder / "model.onnx").write_bytes(onnx_bytes())
    np.save(folder / "images.npy", random_images(SMALL, 5))
    return folder


def request_in(
    folder: Path,
    checkpoint: str = "model.safetensors",
    images: str | None = "images.npy",
    definitions: tuple[Path, ...] = (),
    **options: object,
) -> Request:
    """A request for files of the folder, on the CPU."""
    where = None if images is None else folder / images
    network = NetworkSource(folder / checkpoint, definitions=definitions)
    return Request(network, where, device="cpu", **options)


def verify(folder: Path, artifact: str = "model.onnx", **changes: object) -> Certificate:
    """The certificate, from this process."""
    return prove(folder / artifact, request_in(folder, **changes)).certificate


def verify_in_fresh_process(
    folder: Path, artifact: str = "model.onnx", **changes: object
) -> Certificate:
    """The certificate, from a process of its own."""
    with FreshProcess(request_in(folder, **changes)) as process:
        process.submit(folder / artifact)
        [proof] = process.proofs()
    return proof.certificate


def idx_folder(folder: Path, images: np.ndarray, labels: np.ndarray) -> Path:
    """A folder with a labelled test split in MNIST's format."""
    folder.mkdir()
    for name, array in (("images-idx3", images), ("labels-idx1", labels)):
        header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
        (folder / f"t10k-{name}-ubyte").write_bytes(header + array.astype(np.uint8).tobytes())
    return folder


class InThisProcess(contextlib.nullcontext):
    """Proves where a fresh process would, but at once."""

    def __init__(self, request, **_):
        super().__init__(self)
        self.prover, self.artifacts = Prover(request), []

    def submit(self, artifact):
        self.artifacts.append(artifact)

    def proofs(self):
        return [self.prover.prove(artifact) for artifact in self.artifacts]
