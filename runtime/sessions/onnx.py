"""Sessions on onnxruntime. Needs neither torch nor onnx."""

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import onnxruntime
import onnxruntime.capi.onnxruntime_pybind11_state as status

from capsnet.artifact import METADATA_KEY, TensorSpec
from capsnet.errors import ArtifactError, DeviceError, first_line
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions.base import Arrays, Device, Images, Session
from capsnet.runtime.sessions.bound import GRAPH, NO_GRAPH, BoundBatch
from capsnet.runtime.sessions.cuda import CUDA
from capsnet.runtime.sessions.threads import usable_cpus

__all__ = ["OrtSession", "create_session"]

_CPU = "CPUExecutionProvider"
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
        path: the ``.onnx`` file.
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
        device: Device,
        threads: int | None = None,
        tf32: bool = False,
        cuda_graphs: bool = False,
    ) -> None:
        self.device, self.device_reason = _choose(path, device)
        try:
            self._session = create_session(
                path, self.device, threads=threads, tf32=tf32, cuda_graphs=cuda_graphs
            )
        except ArtifactError as error:
            if cuda_graphs:  # onnxruntime wants every node on CUDA for them
                raise DeviceError(
                    f"{path} cannot run in CUDA graphs: {error}; open it without them"
                ) from error
            if device != "auto" or self.device == "cpu":
                raise
            self.device, self.device_reason = "cpu", f"CUDA failed: {error}"
            self._session = create_session(path, "cpu", threads=threads)
        if self.device == "cuda" and set(self.placement.values()) != {CUDA}:
            if device == "cuda":
                raise DeviceError(
                    f"{path} does not run on CUDA alone, its nodes are on {self.providers()}; "
                    "use --device cpu, or find out more: capsnet doctor"
                )
            self.device = "cpu"
            self.device_reason = "CUDA did not take all nodes; find out more: capsnet doctor"
            self._session = create_session(path, "cpu", threads=threads)
        if cuda_graphs and self.device != "cuda":
            raise DeviceError(
                f"CUDA graphs need CUDA, and {path} runs on the CPU ({self.device_reason}); "
                "open it without them"
            )
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

    def _compute(self, images: Images) -> Arrays:
        names = [spec.name for spec in self.metadata.outputs]
        try:
            values = self._session.run(
                names, {self.metadata.inputs[0].name: images}, self._run_options
            )
        except _ERRORS as error:
            raise ArtifactError(
                f"onnxruntime failed on a batch of {len(images)}: {first_line(error)}"
            ) from error
        return dict(zip(names, values, strict=True))

    def _check_interface(self, path: Path) -> None:
        """Raise ArtifactError where the graph contradicts the metadata."""

        def spec(value: onnxruntime.NodeArg) -> TensorSpec:
            dtype = {"tensor(float)": "float32"}.get(value.type, value.type)
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
    model: Path | bytes,
    device: Device = "cpu",
    *,
    threads: int | None = None,
    tf32: bool = False,
    cuda_graphs: bool = False,
    profile_prefix: str | None = None,
    cuda_options: Mapping[str, str] | None = None,
) -> onnxruntime.InferenceSession:
    """Open any ONNX model in onnxruntime.

    Args:
        model: the file, or its bytes.
        device: ``"auto"``, ``"cpu"`` or ``"cuda"``; onnxruntime runs a node on the CPU all the same
            where CUDA cannot, which is for the caller to judge.
        threads: to compute with; None for all CPUs that this process may use.
        tf32: let CUDA round the inputs of float32 products to 10 bits: onnxruntime's own default,
            but not the same numbers.
        cuda_graphs: let runs on bound memory be captured and replayed.
        profile_prefix: of the file that the time of every node is written to; None for no profile.
        cuda_options: more options of the CUDA provider, such as ``{"prefer_nhwc": "1"}``.

    Raises:
        ArtifactError: if onnxruntime cannot load the model.
        DeviceError: if CUDA was asked for and is not there.
    """
    name = model if isinstance(model, Path) else Path("the model")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = _FATAL
    options.intra_op_num_threads = threads or usable_cpus()
    options.add_session_config_entry("session.record_ep_graph_assignment_info", "1")
    if profile_prefix is not None:
        options.enable_profiling = True
        options.profile_file_prefix = profile_prefix
    providers: list[str | tuple[str, dict[str, str]]] = [_CPU]
    if _choose(name, device)[0] == "cuda":
        settings = {"use_tf32": tf32, "enable_cuda_graph": cuda_graphs}
        chosen = {key: str(int(on)) for key, on in settings.items()} | dict(cuda_options or {})
        providers.insert(0, (CUDA, chosen))
    try:
        # Without its fallback: onnxruntime would go on on the CPU, and print that it does.
        return onnxruntime.InferenceSession(model, options, providers=providers, enable_fallback=0)
    except _ERRORS as error:
        raise ArtifactError(
            f"onnxruntime cannot load {name}: {first_line(error)}; the file is truncated, "
            "damaged, or needs a newer onnxruntime: export it again or upgrade"
        ) from error


def _choose(path: Path, device: Device) -> tuple[Literal["cpu", "cuda"], str]:
    """The device to try, and why."""
    if device == "cpu":
        return "cpu", "as asked"
    reason = cuda.why_no_cuda()
    if device == "cuda" and reason:
        raise DeviceError(f"no CUDA for {path}: {reason}; use --device cpu or auto")
    return ("cpu", reason) if reason else ("cuda", "as asked" if device == "cuda" else "it works")


def _show(specs: tuple[TensorSpec, ...]) -> str:
    return "; ".join(
        f"{spec.name} {spec.dtype} [{', '.join(map(str, spec.shape))}]" for spec in specs
    )
