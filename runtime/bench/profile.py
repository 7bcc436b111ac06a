"""Where an ONNX artifact spends its time, and how close that is to what the hardware can do."""

import functools
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from rich.table import Table

from capsnet.artifact import METADATA_KEY, ArtifactMetadata
from capsnet.runtime.bench.harness import cycled
from capsnet.runtime.bench.onnx_files import read_model, run_model
from capsnet.runtime.bench.operations import network_operations
from capsnet.runtime.sessions.onnx import create_session

__all__ = [
    "Profile",
    "Row",
    "floating_point_operations",
    "profile_onnx",
    "profile_table",
]

_CALLS = 10
_PRODUCTS = (512, 1024, 2048)  # rows and columns of the products that show the hardware's limit


@dataclass(frozen=True)
class Row:
    """Time of one kind of operator in one stage, in seconds a call."""

    stage: str
    operator: str
    seconds: float


@dataclass(frozen=True)
class Profile:
    """What a profile found.

    Attributes:
        candidate: name of the artifact.
        batch: images a call.
        rows: operators by stage, slowest first.
        seconds: a call, without the profiler.
        operations: floating-point operations of the graph's products, a call.
        network_operations: those of the readable network as it is written.
        limit: operations a second of a plain float32 matrix product, measured here and now: of
            several sizes the fastest.
    """

    candidate: str
    batch: int
    rows: tuple[Row, ...]
    seconds: float
    operations: int
    network_operations: int
    limit: float

    @property
    def share(self) -> float:
        """Share of the hardware limit that the call as a whole reaches."""
        return self.operations / self.seconds / self.limit

    @property
    def network_share(self) -> float:
        """The same, had it computed the network as it is written: above 1 if it need not."""
        return self.network_operations / self.seconds / self.limit


def profile_onnx(
    name: str, path: Path, images: npt.NDArray[np.float32], batch: int, threads: int | None
) -> Profile:
    """Profile an artifact on the CPU.

    Args:
        name: of the artifact, for the table.
        path: the ONNX file.
        images: float32 ``[n, channels, height, width]``.
        batch: images a call.
        threads: to compute with; None for all CPUs that this process may use.

    Returns:
        The profile.

    Raises:
        ArtifactError: if the file cannot be read, holds anything but a network, or does not run.
    """
    model = read_model(path)
    content = model.SerializeToString()
    [document] = [entry.value for entry in model.metadata_props if entry.key == METADATA_KEY]
    metadata = ArtifactMetadata.from_json(document)
    # A fixed batch size is the one that there is to profile.
    batch = model.graph.input[0].type.tensor_type.shape.dim[0].dim_value or batch
    given = cycled(images, batch)

    def timed(session: onnxruntime.InferenceSession) -> float:
        return _median_seconds(lambda: run_model(session, given, str(path)))

    seconds = timed(create_session(content, threads=threads, name=str(path)))
    with tempfile.TemporaryDirectory() as folder:
        prefix = str(Path(folder, "profile"))
        profiled = create_session(content, threads=threads, profile_prefix=prefix, name=str(path))
        timed(profiled)
        events = json.loads(Path(profiled.end_profiling()).read_text(encoding="utf-8"))
    return Profile(
        candidate=name,
        batch=batch,
        rows=_rows(events, {node.name.partition("/")[0] for node in model.graph.node}),
        seconds=seconds,
        operations=floating_point_operations(model, batch),
        network_operations=batch * network_operations(metadata),
        limit=_hardware_limit(threads),
    )


def floating_point_operations(model: onnx.ModelProto, batch: int) -> int:
    """Operations of all convolutions and matrix products, a multiplication and an addition each.

    Args:
        model: with a batch axis that is symbolic, or fixed to ``batch``.
        batch: images a call.

    Returns:
        The number of operations.
    """
    fixed = onnx.ModelProto()
    fixed.CopyFrom(model)
    fixed.graph.input[0].type.tensor_type.shape.dim[0].dim_value = batch
    del fixed.graph.value_info[:]
    for output in fixed.graph.output:
        output.type.tensor_type.shape.dim[0].dim_value = batch
    graph = onnx.shape_inference.infer_shapes(fixed, data_prop=True).graph
    shapes = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for value in (*graph.input, *graph.value_info, *graph.output):
        shapes[value.name] = [dim.dim_value for dim in value.type.tensor_type.shape.dim]
    total = 0
    for node in graph.node:
        result = int(np.prod(shapes.get(node.output[0], [0])))
        if node.op_type == "Conv":
            total += 2 * result * int(np.prod(shapes[node.input[1]][1:]))
        elif node.op_type in ("MatMul", "Gemm"):
            total += 2 * result * int(shapes[node.input[0]][-1])
        elif node.op_type == "Einsum":
            equation = node.attribute[0].s.decode().replace(" ", "")
            letters = equation.partition("->")[0].split(",")
            sizes = {
                letter: size
                for operand, name in zip(letters, node.input, strict=True)
                for letter, size in zip(operand, shapes[name], strict=True)
            }
            total += 2 * int(np.prod(list(sizes.values())))
    return total


def profile_table(profile: Profile) -> Table:
    """The stages and their operators, slowest first, and the share of the hardware limit."""
    table = Table(
        title=(
            f"{profile.candidate}, batch {profile.batch}: {1e3 * profile.seconds:.2f} ms, "
            f"{profile.operations / profile.seconds / 1e9:.0f} of "
            f"{profile.limit / 1e9:.0f} GFLOP/s ({profile.share:.0%}); of the network as it is "
            f"written {profile.network_operations / profile.seconds / 1e9:.0f} "
            f"({profile.network_share:.0%})"
        ),
        box=None,
        header_style="bold",
        title_justify="left",
    )
    table.add_column("stage")
    table.add_column("operator")
    table.add_column("ms", justify="right")
    table.add_column("share", justify="right")
    whole = sum(row.seconds for row in profile.rows)
    for row in profile.rows:
        table.add_row(
            row.stage, row.operator, f"{1e3 * row.seconds:.3f}", f"{row.seconds / whole:.1%}"
        )
    return table


def _median_seconds(call: Callable[[], object]) -> float:
    call()
    seconds = []
    for _ in range(_CALLS):
        started = time.perf_counter()
        call()
        seconds.append(time.perf_counter() - started)
    return float(np.median(seconds))


def _rows(events: list[dict[str, Any]], stages: set[str]) -> tuple[Row, ...]:
    """Seconds of the profiler's node events, without the first call."""
    calls: defaultdict[str, list[tuple[str, float]]] = defaultdict(list)
    for event in events:
        name = event["name"]
        if event.get("cat") == "Node" and name.endswith("_kernel_time"):
            node = name.removesuffix("_kernel_time")
            calls[node].append((event["args"]["op_name"], event["dur"]))
    seconds: defaultdict[tuple[str, str], float] = defaultdict(float)
    for node, timed in calls.items():
        # Convolutions in onnxruntime's own layout are called after their result.
        stage = node.partition("/")[0].removesuffix("_nchwc")
        if stage not in stages:
            stage = "added by onnxruntime"
        seconds[stage, timed[0][0]] += float(np.mean([t for _, t in timed[1:]])) / 1e6
    return tuple(
        Row(stage, operator, duration)
        for (stage, operator), duration in sorted(seconds.items(), key=lambda item: -item[1])
    )


def _hardware_limit(threads: int | None) -> float:
    """Operations a second of a float32 matrix product in onnxruntime."""
    random = np.random.default_rng(0)
    speeds = []
    for size in _PRODUCTS:
        shape = ["rows", "inner"], ["inner", "columns"], ["rows", "columns"]
        values = [
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, dims)
            for name, dims in zip("abc", shape, strict=True)
        ]
        product = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
        graph = onnx.helper.make_graph([product], "product", values[:2], values[2:])
        model = onnx.helper.make_model(
            graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=10
        )
        feed = {name: random.random((size, size), np.float32) for name in "ab"}
        session = create_session(model.SerializeToString(), threads=threads)
        run = functools.partial(session.run, None, feed)
        speeds.append(2 * size**3 / _median_seconds(run))
    return max(speeds)
