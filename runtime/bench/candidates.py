"""What a benchmark compares: one class for each kind of candidate.

A candidate is values alone, so that it can travel to a process of its own, where it opens itself.
Another kind is one more class::

    @dataclass(frozen=True)
    class MyCandidate(Candidate, kind="mine"):
        def open(self, device: Device, threads: int) -> Opened:
            engine = ...
            return Opened(engine.run, "cpu", outputs=("lengths", "capsules"))

Needs neither torch nor onnxruntime until one is opened.
"""

import functools
import itertools
import os
import shutil
import sys
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from capsnet.artifact import METADATA_KEY, OUTPUT_NAMES, ArtifactMetadata
from capsnet.errors import ArtifactError, ConfigError, DeviceError
from capsnet.runtime.sessions.base import Arrays, Device, Images
from capsnet.runtime.sessions.cuda import CUDA

if TYPE_CHECKING:
    import onnxruntime
    import torch

__all__ = [
    "Artifact",
    "Candidate",
    "Compiled",
    "Eager",
    "Opened",
    "PlainOnnx",
    "PlainTorchScript",
    "TrainingStep",
]

Call = Callable[[], object]
_Network = Callable[["torch.Tensor"], Sequence["torch.Tensor"]]

_CLASSIFIER = OUTPUT_NAMES[:2]  # what the forward pass of a readable network gives
_DTYPES = {"fp32": "float32", "fp16": "float16"}


@dataclass(frozen=True)
class Opened:
    """A candidate that is ready to run.

    Attributes:
        run: float32 images ``[batch, channels, height, width]`` to float32 outputs by name.
        device: where it runs.
        metadata: of an artifact; None for everything else.
        outputs: names of the outputs; those of the metadata where there is one.
        resident: puts images on the device, and gives the call that computes on them and leaves its
            outputs there; None where a call takes the images and gives back the outputs.
    """

    run: Callable[[Images], Arrays]
    device: str
    metadata: ArtifactMetadata | None = None
    outputs: tuple[str, ...] = ()
    resident: Callable[[Images], Call] | None = None

    def call(self, images: Images) -> Call:
        """What is timed, on these images."""
        if self.resident is not None:
            return self.resident(images)
        return functools.partial(self.run, images)


@dataclass(frozen=True)
class Candidate(ABC):
    """What to time. A subclass is a kind of candidate.

    Attributes:
        name: for the table.
        path: the file that it opens: an artifact, an ONNX file, a checkpoint.
        baseline: whether the ratios of the others to this one are of interest.
        precision: the one whose budget judges it; None for that of the artifact, and fp32 where
            there is none.
        optional: of the kind: whether the others are a result without it where the machine lacks
            what it needs, which :meth:`open` says by a DeviceError. All else is a failure.
    """

    kind: ClassVar[str]
    optional: ClassVar[bool] = False
    _known: ClassVar[dict[str, type["Candidate"]]] = {}

    name: str
    path: Path
    baseline: bool = field(default=False, kw_only=True)
    precision: str | None = field(default=None, kw_only=True)

    def __init_subclass__(cls, *, kind: str | None = None) -> None:
        if kind is not None:
            cls.kind = kind
            Candidate._known[kind] = cls

    @classmethod
    def of_kind(cls, kind: str) -> type[Self]:
        """The class of that kind.

        Raises:
            ValueError: if there is none.
        """
        found = Candidate._known.get(kind)
        if found is None or not issubclass(found, cls):
            known = ", ".join(Candidate._known)
            raise ValueError(f"{kind!r} is no kind of candidate, expected one of {known}")
        return found

    @abstractmethod
    def open(self, device: Device, threads: int) -> Opened:
        """Open it in this process, which holds nothing else.

        Args:
            device: where to run.
            threads: to compute with.

        Raises:
            DeviceError: if the machine lacks what it needs.
            CapsNetError: if it cannot be opened there.
        """


@dataclass(frozen=True)
class Artifact(Candidate, kind="artifact"):
    """An artifact of any format, as ``open_session`` opens it.

    Attributes:
        runtime: another one than the format's own.
    """

    runtime: str | None = field(default=None, kw_only=True)

    def open(self, device: Device, threads: int) -> Opened:
        from capsnet.runtime.sessions.opening import open_session

        session = open_session(self.path, device, threads=threads, runtime=self.runtime)
        return Opened(session.run, session.device, session.metadata)


@dataclass(frozen=True)
class PlainOnnx(Candidate, kind="onnxruntime"):
    """Any ONNX file, as a user opens it in onnxruntime.

    Attributes:
        cuda_options: more options of the CUDA provider, such as ``{"use_tf32": "1"}``.
        cuda_graphs: whether the kernels of a batch are replayed as one graph; of artifacts.
        resident: whether images and outputs stay on the device while it is timed; of artifacts.
    """

    cuda_options: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    cuda_graphs: bool = field(default=False, kw_only=True)
    resident: bool = field(default=False, kw_only=True)

    def open(self, device: Device, threads: int) -> Opened:
        from capsnet.runtime.sessions.onnx import create_session

        session = create_session(
            self.path,
            device,
            threads=threads,
            cuda_graphs=self.cuda_graphs,
            cuda_options=self.cuda_options,
        )
        [given] = session.get_inputs()
        names = tuple(value.name for value in session.get_outputs())
        document = session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        metadata = None if document is None else ArtifactMetadata.from_json(document)
        where = _device_of(session)
        if self.resident or self.cuda_graphs:
            return self._open_bound(session, where, metadata)

        def run(images: Images) -> Arrays:
            return dict(zip(names, session.run(names, {given.name: images}), strict=True))

        return Opened(run, where, metadata, names)

    def _open_bound(
        self,
        session: "onnxruntime.InferenceSession",
        device: str,
        metadata: ArtifactMetadata | None,
    ) -> Opened:
        """On buffers on the device, one for each batch size."""
        from capsnet.runtime.sessions.bound import BoundBatch

        if metadata is None:
            raise ArtifactError(
                f"{self.path} is no artifact, so the shapes of its buffers are not known; "
                "time it without resident and cuda_graphs"
            )
        if self.cuda_graphs and device != "cuda":
            raise ArtifactError(
                f"CUDA graphs need every node there, {self.path} has them on {device}; time it "
                "without cuda_graphs"
            )
        where = "cuda" if "cuda" in device else "cpu"
        graphs = itertools.count(1)

        @functools.cache
        def bind(batch: int) -> BoundBatch:
            graph = next(graphs) if self.cuda_graphs else None
            return BoundBatch(session, metadata, batch, where, graph)

        def run(images: Images) -> Arrays:
            bound = bind(len(images))
            bound.write(images)
            bound.run()
            return bound.read()

        def resident(images: Images) -> Call:
            bound = bind(len(images))
            bound.write(images)
            return bound.run

        return Opened(run, device, metadata, resident=resident if self.resident else None)


def _device_of(session: "onnxruntime.InferenceSession") -> str:
    """The device of every node, or both where they are on both."""
    parts = session.get_provider_graph_assignment_info()
    devices = {"cuda" if part.ep_name == CUDA else "cpu" for part in parts}
    return " and ".join(sorted(devices)) or "cpu"


@dataclass(frozen=True)
class TorchCandidate(Candidate):
    """What the candidates share that torch runs.

    Attributes:
        resident: whether images and outputs stay on the device while it is timed.
    """

    resident: bool = field(default=False, kw_only=True)

    @abstractmethod
    def load(self, device: str) -> "_Network":
        """The network on that device: images to the outputs of a classifier."""

    def open(self, device: Device, threads: int) -> Opened:
        import torch

        device = _prepare_torch(device, threads, self.path)
        network = self.load(device)
        dtype = self.input_dtype()

        def compute(images: torch.Tensor) -> Sequence[torch.Tensor]:
            with torch.inference_mode():
                return network(images)

        def put(images: Images) -> torch.Tensor:
            return torch.from_numpy(images).to(device, dtype)

        def run(images: Images) -> Arrays:
            found = (value.float().cpu().numpy() for value in compute(put(images)))
            return dict(zip(_CLASSIFIER, found, strict=True))

        def resident(images: Images) -> Call:
            there = put(images)

            def call() -> None:
                compute(there)
                if device == "cuda":
                    torch.cuda.synchronize()

            return call

        return Opened(
            run, device, outputs=_CLASSIFIER, resident=resident if self.resident else None
        )

    def input_dtype(self) -> "torch.dtype":
        """In which the network takes images."""
        import torch

        return torch.float32


@dataclass(frozen=True)
class Eager(TorchCandidate, kind="eager"):
    """The readable model of a checkpoint, eagerly in torch; all of it in its ``precision``."""

    def load(self, device: str) -> "_Network":
        from capsnet.checkpoint import load_checkpoint

        model = load_checkpoint(self.path).requires_grad_(False)
        return model.eval().to(device, self.input_dtype())

    def input_dtype(self) -> "torch.dtype":
        import torch

        precision = self.precision or "fp32"
        if precision not in _DTYPES:
            raise ConfigError(
                f"torch computes the readable model in {' or '.join(_DTYPES)}, not in {precision}"
            )
        dtype: torch.dtype = getattr(torch, _DTYPES[precision])
        return dtype


@dataclass(frozen=True)
class Compiled(Eager, kind="compile"):
    """The readable model under ``torch.compile``.

    Attributes:
        mode: of the compilation.
    """

    optional = True

    mode: str = field(default="default", kw_only=True)

    def load(self, device: str) -> "_Network":
        import torch

        if device == "cpu":
            _require_compiler()
        network: _Network = torch.compile(super().load(device), mode=self.mode)
        return network


def _require_compiler() -> None:
    """Raise DeviceError where torch.compile finds nothing that compiles C++ for the CPU."""
    usual = {"win32": "cl", "darwin": "clang++"}.get(sys.platform, "g++")
    compiler = os.environ.get("CXX", usual)
    if shutil.which(compiler) is None:
        raise DeviceError(
            f"torch.compile needs a C++ compiler, and there is no {compiler}: install it, or name "
            "yours in the environment variable CXX"
        )


@dataclass(frozen=True)
class PlainTorchScript(TorchCandidate, kind="torchscript"):
    """A TorchScript file of a classifier, as a user opens it in torch."""

    def load(self, device: str) -> "_Network":
        import torch

        with warnings.catch_warnings():
            notice = r"`torch\.jit\.load` is deprecated"
            warnings.filterwarnings("ignore", notice, DeprecationWarning)
            network: _Network = torch.jit.load(self.path, map_location=device)
        return network


@dataclass(frozen=True)
class TrainingStep(Candidate, kind="training"):
    """A step of training from a checkpoint; it gives the loss.

    Attributes:
        encoder: the forward pass in the trainer's form, or ``"literal"``, as the model is written.
    """

    encoder: Literal["trainer", "literal"] = "trainer"

    def open(self, device: Device, threads: int) -> Opened:
        import torch

        from capsnet.checkpoint import load_checkpoint
        from capsnet.training.forms import encode
        from capsnet.training.step import reuse_freed_memory, training_step

        device = _prepare_torch(device, threads, self.path)
        model = load_checkpoint(self.path).to(device).train()
        if self.encoder == "trainer":
            reuse_freed_memory()
        encoder = encode if self.encoder == "trainer" else lambda model, images: model(images)[1]
        optimizer = torch.optim.Adam(model.parameters(), 1e-4)

        def step(images: Images) -> Arrays:
            labels = torch.arange(len(images), device=device) % model.config.classes
            batch = torch.from_numpy(images).to(device)
            loss, _ = training_step(model, optimizer, batch, labels, encoder)
            return {"loss": np.asarray(loss.cpu().numpy())}

        return Opened(step, device, outputs=("loss",))


def _prepare_torch(device: Device, threads: int, path: Path) -> Literal["cpu", "cuda"]:
    """Settings of torch for this process, and the device to take."""
    import torch

    from capsnet.device import choose_device, why_torch_has_no_cuda

    torch.set_num_threads(threads)
    # The numbers that are proven are those of float32.
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    return choose_device(device, why_torch_has_no_cuda(), path).device
