"""What is shown of a file: of a checkpoint all of it, of an artifact what it can."""

from pathlib import Path

import numpy as np
import numpy.typing as npt

from capsnet.about import About
from capsnet.config import CapsNetConfig
from capsnet.definitions import load_definitions
from capsnet.errors import ArtifactError
from capsnet.files import file_sha256
from capsnet.runtime.proof.images import load_images
from capsnet.runtime.proof.request import Request
from capsnet.runtime.sessions.opening import artifact_format, open_session
from capsnet.runtime.show.collect import collect
from capsnet.runtime.show.results import Array, Shown

__all__ = ["shown_of"]


def shown_of(path: Path, request: Request) -> Shown:
    """Run the network of a file on images, and collect what is shown of it.

    Args:
        path: a checkpoint or an artifact.
        request: names the images, how many of them, and the device.

    Raises:
        CheckpointError, ArtifactError: if the file is neither, or its network classifies nothing.
        DataError, ConfigError: if the images or their labels cannot be read, or do not fit.
        DeviceError: if the device that was asked for is not there.
        ResultError: if the network computes NaN or infinity.
    """
    load_definitions(request.network.definitions)
    try:
        artifact_format(path)
    except ArtifactError:
        return _of_checkpoint(path, request)
    return _of_artifact(path, request)


def _of_checkpoint(path: Path, request: Request) -> Shown:
    import torch  # an artifact may need none

    from capsnet.checkpoint import load_checkpoint
    from capsnet.device import choose_device, why_torch_has_no_cuda

    model = load_checkpoint(path)
    why = why_torch_has_no_cuda() if request.device != "cpu" else ""
    where = choose_device(request.device, why, path).device
    model.to(where)

    def run(images: npt.NDArray[np.float32]) -> dict[str, Array]:
        with torch.no_grad():
            outputs = model.outputs_by_name(torch.from_numpy(images).to(where))
        return {name: values.cpu().numpy() for name, values in outputs.items()}

    given = load_images(request, model.config, file_sha256(path), model.about)
    names = model.about.class_names
    return collect(path.name, run, "lengths", given, names=names, model=model)


def _of_artifact(path: Path, request: Request) -> Shown:
    session = open_session(path, request.device)
    metadata = session.metadata
    if metadata.decision is None:
        raise ArtifactError(
            f"{path} classifies nothing, expected a network with an output that names the class; "
            "run its session instead"
        )
    if metadata.is_own:
        raise ArtifactError(
            f"{path} is a network of a user's own, expected one of capsule layers alone; run its "
            "session instead"
        )
    config = CapsNetConfig.from_dict(metadata.config)
    about = About(metadata.class_names, metadata.training_inputs)
    given = load_images(request, config, metadata.checkpoint_sha256 or "", about)
    return collect(path.name, session.run, metadata.decision, given, names=about.class_names)
