"""What reads each kind of file that travels between people, and one sound file of each."""

import gzip
import itertools
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from support.networks import SMALL, lively_model, random_images

import capsnet
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.data.idx import read_idx
from capsnet.data.stream import count_images, stream_images
from capsnet.files import file_sha256
from capsnet.runtime.certificate import require_certificate
from capsnet.runtime.sessions.opening import open_session

__all__ = ["READERS", "read", "write_sound_files"]

_MOST = 20_000  # images: enough to see that memory stays flat


def _artifact(path: Path) -> None:
    session = open_session(path, "cpu", threads=1)
    session.run(np.zeros((2, *session.metadata.image_shape), np.float32))


def _certificate(path: Path) -> None:
    artifact = path.with_name(path.name.removesuffix(".parity.json"))
    require_certificate(artifact, file_sha256(artifact))


def _checkpoint(path: Path) -> None:
    load_checkpoint(path)


def _images(path: Path) -> None:
    count_images([path], SMALL.image_shape)
    for _ in itertools.islice(stream_images([path], SMALL.image_shape), _MOST):
        pass


def _labels(path: Path) -> None:
    read_idx(path)


READERS: dict[str, Callable[[Path], None]] = {
    "model.onnx": _artifact,
    "half.onnx": _artifact,
    "int8.onnx": _artifact,
    "model.pt": _artifact,
    "model.pt2": _artifact,
    "sound.onnx.parity.json": _certificate,
    "model.safetensors": _checkpoint,
    "readable_capsnet.pt": _checkpoint,
    "images.npy": _images,
    "fortran.npy": _images,
    "images.npz": _images,
    "images-idx3-ubyte": _images,
    "images-idx3-ubyte.gz": _images,
    "labels-idx1-ubyte": _labels,
    "labels-idx1-ubyte.gz": _labels,
    "image.png": _images,
    "image.jpg": _images,
}


def read(path: Path) -> None:
    """Read a file as what its name says it is."""
    READERS[path.name](path)


def write_sound_files(folder: Path) -> None:
    """Write one sound file of every kind."""
    model, images = lively_model(SMALL), random_images(SMALL, 40)
    for name, precision in (
        ("model.onnx", "fp32"),
        ("half.onnx", "fp16"),
        ("int8.onnx", "int8"),
        ("model.pt", "fp32"),
        ("model.pt2", "fp32"),
    ):
        capsnet.export_model(
            model,
            folder / name,
            precision=precision,
            images=images,
            calibration=images if precision == "int8" else None,
            device="cpu",
        )
    shutil.copy(folder / "model.onnx", folder / "sound.onnx")  # its certificate alone is damaged
    shutil.copy(folder / "model.onnx.parity.json", folder / "sound.onnx.parity.json")
    save_checkpoint(model, folder / "model.safetensors")
    names = {"image2primary_capsules.0": model.stem, "image2primary_capsules.2": model.primary}
    state = {f"{n}.{k}": v for n, m in names.items() for k, v in m.state_dict().items()}
    state["primary2digit_capsules.input_caps2U.weight"] = model.capsule_layers[0].weight.detach()
    torch.save(state, folder / "readable_capsnet.pt")
    pixels = (images[:, 0] * 255).astype(np.uint8)
    np.save(folder / "images.npy", images)
    np.save(folder / "fortran.npy", np.asfortranarray(images))
    np.savez_compressed(folder / "images.npz", x=pixels)
    idx = b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()
    labels = b"\0\0\x08\x01" + np.array(40, ">u4").tobytes() + bytes(range(40))
    for name, content in (("images-idx3-ubyte", idx), ("labels-idx1-ubyte", labels)):
        (folder / name).write_bytes(content)
        (folder / f"{name}.gz").write_bytes(gzip.compress(content))
    for name in ("image.png", "image.jpg"):
        Image.fromarray(pixels[0]).save(folder / name)
