"""Sessions on onnxruntime. Needs neither torch nor onnx."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy.typing as npt
import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as status

from capsnet.artifact import METADATA_KEY, TensorSpec
from capsnet.device import Choice, Device, choose_device
from capsnet.errors import ArtifactError, DeviceError, first_line
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions.base import Arrays, Session, refuse_foreign
from capsnet.runtime.sessions.bound import GRAPH, NO_GRAPH, BoundBatch
from capsnet.runtime.sessions.cuda import CPU, CUDA
from capsnet.runtime.sessions.onnx_check import check_onnx
from capsnet.runtime.sessions.onnx_sizes import check_sizes_of_onnx
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["OrtSession", "create_session"]

_FATAL = 4  # onnxruntime's log severity: what goes wrong is raised, not logged
_ERRORS = (
    status.Fail,
    status.EPFail,
    status.EngineError,
    status.InvalidArgument,
    status.InvalidGraph,
    status.InvalidProtobuf,
    status.NoSuchFile,
    status.NotImplemented,
    status.RuntimeException,
    RuntimeError,
)


class OrtSession(Session):
    """An ONNX artifact in onnxruntime.

    Args:
        path: the ``.onnx`` file, for messages.
        content: of the file.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``.
        threads: to compute with; None for all CPUs that this process may use.
        tf32: let CUDA round the inputs of float32 products to 10 bits.
        cuda_graphs: let batches that are bound (see :meth:`bind`) replay their kernels as one
            graph, which saves the time to launch them.

    Raises:
        ArtifactError: if onnxruntime cannot load the file, or it is not from this toolkit.
        DeviceError: if CUDA was asked for and the session would not run there.
    """

    format = "onnx"

    def __init__(
        self,
        path: Path,
        content: bytes,
        device: Device,
        threads: int | None = None,
        tf32: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        refuse_foreign(path, content, check_onnx)
        refuse_foreign(path, content, check_sizes_of_onnx)
        choice = _choose(device, path)
        if choice.device == "cuda":
            try:
                self._open_on_cuda(path, content, threads, tf32, cuda_graphs)
            except (ArtifactError, DeviceError) as error:
                if device == "cuda":
                    raise
                choice = Choice("cpu", f"CUDA failed: {error}")
        if choice.device == "cpu":
            if cuda_graphs:
                raise DeviceError(
                    f"CUDA graphs need CUDA, and {path} runs on the CPU ({choice.reason}); "
                    "open it without them"
                )
            self._session = create_session(content, "cpu", threads=threads, name=str(path))
        self.device, self.device_reason = choice.device, choice.reason
        self._graphs: Iterator[int] | None = None
        self._run_options: onnxruntime.RunOptions | None = None
        if cuda_graphs:
            self._graphs = itertools.count(1)
            # Runs on other memory than a graph was captured on must not replay it.
            self._run_options = onnxruntime.RunOptions()
            self._run_options.add_run_config_entry(GRAPH, NO_GRAPH)
        try:
            document = self._session.get_modelmeta().custom_metadata_map.get(METADATA_KEY)
        except UnicodeDecodeError as error:
            raise ArtifactError(
                f"{path}: the metadata is damaged: {error}; export again"
            ) from error
        self._take_metadata(path, document)
        self._check_interface(path)
        self._check_claims(path)

    def _open_on_cuda(
        self, path: Path, content: bytes, threads: int | None, tf32: bool, cuda_graphs: bool
    ) -> None:
        """Make a session whose nodes all run on CUDA; raise DeviceError where there is none."""
        try:
            self._session = create_session(
                content,
                "cuda",
                threads=threads,
                tf32=tf32,
                cuda_graphs=cuda_graphs,
                name=str(path),
            )
        except ArtifactError as error:
            if not cuda_graphs:
                raise
            raise DeviceError(
                f"{path} cannot run in CUDA graphs: {error}; open it without them"
            ) from error
        if set(self.placement.values()) != {CUDA}:
            raise DeviceError(
                f"{path} does not run on CUDA alone, its nodes are on {self.providers()}; "
                "use --device cpu, or find out more: capsnet doctor"
            )

    @property
    def placement(self) -> Mapping[str, str]:
        """The execution provider of every node that onnxruntime kept."""
        nodes = [
            (node.name or f"{node.op_type} (added by onnxruntime)", part.ep_name)
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        ]
        seen: Counter[str] = Counter()
        placement = {}
        for name, provider in nodes:  # added nodes may share a name, and none must be lost
            seen[name] += 1
            placement[name if seen[name] == 1 else f"{name} #{seen[name]}"] = provider
        return placement

    @property
    def operators(self) -> Mapping[str, int]:
        """Operator types of the nodes that onnxruntime kept."""
        return Counter(
            node.op_type
            for part in self._session.get_provider_graph_assignment_info()
            for node in part.get_nodes()
        )

    def bind(self, batch: int) -> BoundBatch:
        """Buffers on the device for one batch size, for serving it without the copies.

        Args:
            batch: images a run.

        Returns:
            The buffers; any number of them can share a session.

        Raises:
            DataError: if the artifact does not take this batch size.
            ArtifactError: if the device has no memory for it.
        """
        graph = None if self._graphs is None else next(self._graphs)
        return BoundBatch(self._session, self.metadata, batch, self.device, graph)

    def _compute(self, inputs: Mapping[str, npt.NDArray[Any]]) -> Arrays:
        names = [spec.name for spec in self.metadata.outputs]
        try:
            values = self._session.run(names, inputs, self._run_options)
        except _ERRORS as error:
            count = len(next(iter(inputs.values())))
            raise ArtifactError(
                f"onnxruntime failed on a batch of {count}: {first_line(error)}"
            ) from error
        return dict(zip(names, values, strict=True))

    def _check_interface(self, path: Path) -> None:
        """Raise ArtifactError where the graph contradicts the metadata."""

        def spec(value: onnxruntime.NodeArg) -> TensorSpec:
            dtype = {"tensor(float)": "float32", "tensor(uint8)": "uint8"}.get(
                value.type, value.type
            )
            return TensorSpec(value.name, dtype, tuple(value.shape))

        for side, found, expected in (
            ("inputs", self._session.get_inputs(), self.metadata.inputs),
            ("outputs", self._session.get_outputs(), self.metadata.outputs),
        ):
            specs = tuple(spec(value) for value in found)
            if specs != expected:
                raise ArtifactError(
                    f"{path}: the metadata contradicts the graph: its {side} are "
                    f"{_show(specs)}, the metadata says {_show(expected)}; export it again"
                )


def create_session(
    model: str | Path | bytes,
    device: Device = "cpu",
    *,
    threads: int | None = None,
    tf32: bool = False,
    cuda_graphs: bool = False,
    profile_prefix: str | None = None,
    cuda_options: Mapping[str, str] | None = None,
    name: str = "a model in memory",
) -> onnxruntime.InferenceSession:
    """Open any ONNX model in onnxruntime.

    Args:
        model: its file, or its content.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; onnxruntime runs a node on the CPU all the same
            where CUDA cannot, which is for the caller to judge.
        threads: to compute with; None for all CPUs that this process may use.
        tf32: let CUDA round the inputs of float32 products to 10 bits: onnxruntime's own default,
            but not the same numbers.
        cuda_graphs: let runs on bound memory be captured and replayed.
        profile_prefix: start of the name of the profile that the session's ``end_profiling``
            writes; None for no profile.
        cuda_options: more options of the CUDA provider, such as ``{"prefer_nhwc": "1"}``.
        name: of a model that is given by its content, for messages.

    Raises:
        ArtifactError: if onnxruntime cannot load the model.
        DeviceError: if CUDA was asked for and is not there.
    """
    what = name if isinstance(model, bytes) else str(model)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads or usable_cpus()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    providers: list[str | tuple[str, dict[str, str]]] = [CPU]
    if _choose(device, what).device == "cuda":
        settings = {"use_tf32": str(int(tf32)), "enable_cuda_graph": str(int(cuda_graphs))}
        providers.insert(0, (CUDA, settings | dict(cuda_options or {})))
    try:
        # Without its fallback: onnxruntime would go on on the CPU, and print that it does.
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except _ERRORS as error:
        raise ArtifactError(
            f"onnxruntime cannot load {what}: {first_line(error)}; the file is truncated, "
            "damaged, or needs a newer onnxruntime: export it again or upgrade"
        ) from error


def _choose(device: Device, what: object) -> Choice:
    # What CUDA lacks takes long to find out, and loads its libraries.
    return choose_device(device, "" if device == "cpu" else cuda.why_no_cuda(), what)


def _show(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(
        f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs
    )
