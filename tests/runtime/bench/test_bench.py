"""The benchmark: nothing is timed that is not proven, and what is reported was measured."""

import csv
import dataclasses
import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from rich.console import Console
from support.artifacts import edited, metadata_of, onnx_bytes, parsed, with_weight
from support.networks import SMALL, lively_model, random_images

from capsnet.artifact import ArtifactMetadata
from capsnet.checkpoint import save_checkpoint
from capsnet.cli.bench import _raise_if_wrong
from capsnet.cli.main import main
from capsnet.definitions import load_definitions
from capsnet.documents import from_values, to_values
from capsnet.errors import ArtifactError, ConfigError, DataError, ResultError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.formats.torchscript import to_torchscript
from capsnet.export.lower import lower
from capsnet.runtime.bench import harness, worker
from capsnet.runtime.bench.candidates import (
    Artifact,
    Candidate,
    Compiled,
    Eager,
    PlainOnnx,
    PlainTorchScript,
    TrainingStep,
)
from capsnet.runtime.bench.encoder import benchmark_encoder
from capsnet.runtime.bench.harness import Settings, Worker
from capsnet.runtime.bench.machine import describe_machine
from capsnet.runtime.bench.operations import network_operations
from capsnet.runtime.bench.plot import draw_plot
from capsnet.runtime.bench.profile import floating_point_operations, profile_onnx, profile_table
from capsnet.runtime.bench.routing import benchmark_routing, cut_routing
from capsnet.runtime.bench.tables import bench_table, noise_notes, write_csv
from capsnet.runtime.bench.training import benchmark_training
from capsnet.runtime.proof.reference import EagerModel

IMAGES = random_images(SMALL, 6)


def perturb(weights):
    weights.reshape(-1)[0] += 0.01


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("bench")
    model = lively_model(SMALL)
    save_checkpoint(model, folder / "model.safetensors")
    np.save(folder / "images.npy", IMAGES)
    (folder / "model.onnx").write_bytes(onnx_bytes())
    (folder / "wrong.onnx").write_bytes(
        edited(onnx_bytes(), with_weight("stem.conv.bias", perturb))
    )
    to_onnx(lower(model, as_written=True), folder / "naive.onnx")
    plain = onnx.load(folder / "naive.onnx")
    plain.ClearField("metadata_props")  # any ONNX file, not an artifact
    onnx.save(plain, folder / "naive.onnx")
    to_torchscript(lower(model), folder / "model.pt")
    return folder


@pytest.fixture(autouse=True)
def short(monkeypatch):
    """Bursts of a moment: these tests ask whether there is a speed, not what it is."""
    monkeypatch.setattr(harness, "_BURST", 0.005)
    monkeypatch.setattr(harness, "_LONGEST_WARM_UP", 2)


def settings(*batches, **options):
    return Settings(batches, **({"rounds": 3, "device": "cpu", "threads": 1} | options))


def references():
    model = lively_model(SMALL)
    return [EagerModel(model, dtype) for dtype in (torch.float64, torch.float32)]


def run(candidates, *batches, **options):
    return benchmark_encoder(candidates, *references(), IMAGES, settings(*batches), **options)


def eager(folder):
    return Eager("eager", folder / "model.safetensors", baseline=True)


@pytest.fixture(scope="module")
def results(folder):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(harness, "_BURST", 0.005)
        patch.setattr(harness, "_LONGEST_WARM_UP", 2)
        return run(
            [
                eager(folder),
                PlainOnnx("onnx-naive", folder / "naive.onnx", baseline=True),
                Artifact("onnx", folder / "model.onnx"),
                Artifact("wrong", folder / "wrong.onnx"),
                Artifact("missing", folder / "missing.onnx"),
            ],
            *(1, 40),
        )


@pytest.mark.slow
def test_there_is_a_result_for_every_candidate_and_batch_size(results):
    names = ["eager", "onnx-naive", "onnx", "wrong", "missing"]
    assert [(r.batch, r.candidate) for r in results] == [(b, n) for b in (1, 40) for n in names]


def test_what_is_not_proven_has_a_reason_and_no_speed(results):
    for result in results:
        if result.candidate == "wrong":
            assert result.failure.startswith("parity: batch 1: ")
            assert "above the budget" in result.failure
        elif result.candidate == "missing":
            assert "cannot read" in result.failure
        else:
            assert result.failure is None
            continue
        assert result.latency is None
        assert result.images_per_second is None
        assert result.ratios == {}


def test_speeds_belong_together(results):
    for result in results:
        if result.failure is None:
            latency = result.latency
            assert 0 < latency.p50 <= latency.p90 <= latency.p99
            assert result.images_per_second == pytest.approx(result.batch / latency.p50)
            assert result.open_seconds > 0
            assert 0 < result.idle_bytes <= result.peak_bytes
            assert result.device == "cpu"
            assert set(result.ratios) == {"eager", "onnx-naive"} - {result.candidate}
            for ratio in result.ratios.values():
                assert ratio.low <= ratio.estimate <= ratio.high


def test_ratios_of_a_pair_are_each_other_s_inverse(results):
    by_name = {(r.candidate, r.batch): r for r in results}
    for batch in (1, 40):
        there = by_name["eager", batch].ratios["onnx-naive"].estimate
        back = by_name["onnx-naive", batch].ratios["eager"].estimate
        assert there * back == pytest.approx(1)


def test_table_shows_speeds_and_reasons(results):
    console = Console(width=200, record=True, file=io.StringIO())
    console.print(bench_table(results))
    text = console.export_text()
    assert "x eager" in text
    assert text.count(" cpu ") == sum(result.device == "cpu" for result in results) > 0
    assert text.count("above the budget") == 2
    for result in results:
        if result.latency is not None:
            assert f"{1e3 * result.latency.p50:.2f}" in text


def test_csv_holds_the_measured_numbers(results, tmp_path):
    write_csv(results, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(results)
    for row, result in zip(rows, results, strict=True):
        assert (row["candidate"], int(row["batch"])) == (result.candidate, result.batch)
        if result.latency is None:
            assert row["failure"] == result.failure
            assert row["p50_s"] == row["ratio_to_eager"] == ""
        else:
            assert float(row["p50_s"]) == result.latency.p50
            assert int(row["peak_bytes"]) == result.peak_bytes


@pytest.fixture
def noisy(results):
    """The same, with the naive export too noisy at batch 1."""
    return [
        dataclasses.replace(r, noise="p99 is 12 times p50")
        if (r.candidate, r.batch) == ("onnx-naive", 1)
        else dataclasses.replace(r, noise=None)
        for r in results
    ]


def test_a_machine_that_is_too_noisy_is_named_in_text_csv_and_json(noisy, tmp_path):
    console = Console(width=200, file=io.StringIO())
    console.print(bench_table(noisy), *noise_notes(noisy))
    text = console.file.getvalue()
    assert text.count("too noisy (") == 1
    assert "onnx-naive at batch 1: p99 is 12 times p50" in text
    assert noise_notes([r for r in noisy if r.batch != 1]) == []
    write_csv(noisy, tmp_path / "out.csv")
    with (tmp_path / "out.csv").open(newline="") as file:
        rows = [row["noise"] for row in csv.DictReader(file)]
    assert [bool(row) for row in rows] == [r.noise is not None for r in noisy]
    assert "12 times p50" in json.dumps([dataclasses.asdict(r) for r in noisy])


@pytest.fixture
def drawn(monkeypatch):
    from matplotlib.figure import Figure

    figures, savefig = [], Figure.savefig

    def keep(figure, *arguments, **options):
        figures.append(figure)
        savefig(figure, *arguments, **options)

    monkeypatch.setattr(Figure, "savefig", keep)
    return figures


MACHINE = {"cpu": "Some CPU", "cpus": "2", "torch": "2.13.0"}


def test_plot_is_a_picture_with_a_line_for_each_timed_candidate(noisy, tmp_path, drawn):
    draw_plot(noisy, MACHINE, tmp_path / "out.png")
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")
    throughput, latency = drawn[0].axes
    assert {bars.get_label() for bars in throughput.containers} == {"eager", "onnx-naive", "onnx"}
    for bars in latency.containers:
        timed = [r.latency for r in noisy if r.candidate == bars.get_label()]
        line, _, [reach] = bars
        assert list(line.get_xdata()) == [1, 40]
        assert list(line.get_ydata()) == [1e3 * t.p50 for t in timed]
        ends = [[y for _, y in segment] for segment in reach.get_segments()]
        expected = [[1e3 * min(t.fastest, t.p50), 1e3 * max(t.slowest, t.p50)] for t in timed]
        np.testing.assert_allclose(ends, expected)
    words = drawn[0].get_supxlabel()
    assert "Some CPU" in words
    assert "2.13.0" in words
    assert "TOO NOISY" in words


def test_plot_of_one_batch_size_has_a_bar_for_each_candidate(noisy, tmp_path, drawn):
    draw_plot([r for r in noisy if r.batch == 1], MACHINE, tmp_path / "out.png")
    names = [label.get_text() for label in drawn[0].axes[0].get_yticklabels()]
    for axes in drawn[0].axes:
        filled = [bar.get_facecolor()[3] > 0 for bar in axes.patches]
        assert dict(zip(names, filled, strict=True)) == {
            "eager": True,
            "onnx-naive": False,
            "onnx": True,
        }
        assert axes.get_title().endswith("batch 1")
    draw_plot([r for r in noisy if r.batch == 40], MACHINE, tmp_path / "out.png")
    assert "NOISY" not in drawn[1].get_supxlabel()


def test_the_machine_is_described_by_its_processor_and_versions(tmp_path):
    (tmp_path / "cpuinfo").write_text("processor : 0\nmodel name\t: Some CPU\nmodel name : no\n")
    found = describe_machine(tmp_path / "cpuinfo")
    assert found["cpu"] == "Some CPU"
    assert int(found["cpus"]) >= 1
    assert {"python", "torch", "numpy"} <= found.keys()
    assert describe_machine(tmp_path / "absent")["cpu"]


@pytest.mark.slow
def test_routing_is_cut_out_and_timed_alone(folder):
    candidates = [
        PlainOnnx("onnx-naive", folder / "naive.onnx", baseline=True),
        Artifact("onnx", folder / "model.onnx"),
        Artifact("torchscript", folder / "model.pt"),
    ]
    results = benchmark_routing(candidates, *references(), IMAGES, settings(4))
    assert [result.failure is None for result in results] == [True, True, False]
    assert "only the routing of ONNX files" in results[2].failure
    assert set(results[1].ratios) == {"onnx-naive"}


@pytest.mark.parametrize("name", ["naive.onnx", "model.onnx"])
def test_cut_routing_gives_the_outputs_of_the_whole(folder, tmp_path, name):
    path, capsules = cut_routing(folder / name, IMAGES, tmp_path)
    model = onnx.load(path)
    assert "Conv" not in {node.op_type for node in model.graph.node}
    session = Worker(PlainOnnx("", path), settings(1))
    found = session.run(capsules)
    session.close()
    lengths, _ = lively_model(SMALL)(torch.from_numpy(IMAGES))
    np.testing.assert_allclose(found["lengths"], lengths.detach().numpy(), atol=1e-5)


def test_file_without_capsules_has_no_routing(tmp_path):
    node = onnx.helper.make_node("Identity", ["image"], ["lengths"])
    values = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, [1])
        for name in ("image", "lengths")
    ]
    graph = onnx.helper.make_graph([node], "none", values[:1], values[1:])
    onnx.save(onnx.helper.make_model(graph), tmp_path / "none.onnx")
    with pytest.raises(ArtifactError, match=r"none\.onnx cannot .*: the graph has no primary caps"):
        cut_routing(tmp_path / "none.onnx", IMAGES, tmp_path)


@pytest.mark.parametrize("work", [cut_routing, profile_onnx])
def test_what_is_no_network_is_refused_before_onnx_parses_it(folder, tmp_path, work, monkeypatch):
    def foreign(model):
        model.graph.node[0].domain = "evil"

    (tmp_path / "foreign.onnx").write_bytes(edited(onnx_bytes(), foreign))
    monkeypatch.setattr(onnx, "load_model_from_string", None)
    options = (IMAGES, tmp_path) if work is cut_routing else (IMAGES, 1, 1)
    name = () if work is cut_routing else ("name",)
    with pytest.raises(ArtifactError, match=r"not what capsnet-export writes: .*evil::"):
        work(*name, tmp_path / "foreign.onnx", *options)


def test_images_that_do_not_fit_are_an_error_with_its_reason(folder, tmp_path):
    wrong = IMAGES[:, :, :-1]
    with pytest.raises(ArtifactError, match=r"the head of .* does not take 6 images: .*[Ii]nvalid"):
        cut_routing(folder / "model.onnx", wrong, tmp_path)
    with pytest.raises(ArtifactError, match=r"model\.onnx does not take 2 images: .*[Ii]nvalid"):
        profile_onnx("onnx", folder / "model.onnx", wrong, 2, 1)


def test_what_cannot_be_measured_is_refused_before_anything_starts(folder, monkeypatch):
    monkeypatch.setattr(harness, "Worker", None)
    with pytest.raises(DataError, match="batch sizes of at least 1, got \\[0\\]"):
        settings(0)
    with pytest.raises(DataError, match="batch sizes"):
        settings()
    with pytest.raises(ConfigError, match="at least 2 rounds"):
        settings(1, rounds=1)
    with pytest.raises(DataError, match="needs images"):
        benchmark_encoder([eager(folder)], *references(), IMAGES[:0], settings(1))
    with pytest.raises(ConfigError, match="different names, got eager, eager"):
        run([eager(folder), eager(folder)], 1)


@pytest.mark.slow
def test_candidate_that_dies_is_a_failure_of_its_own(folder, monkeypatch):
    real = harness.ChildProcess

    def dying(module, request):
        dies = request["candidate"]["path"].endswith("onnx")
        return real("capsnet.no_such_module" if dies else module, request)

    monkeypatch.setattr(harness, "ChildProcess", dying)
    results = run([eager(folder), Artifact("onnx", folder / "model.onnx")], 2)
    assert results[0].failure is None
    assert "ended with code 1" in results[1].failure
    assert "no_such_module" in results[1].failure


def steps(*paths):
    literal, trainer = paths
    return [
        TrainingStep("literal", literal, "literal", baseline=True),
        TrainingStep("trainer", trainer, "trainer"),
    ]


@pytest.mark.slow
def test_steps_of_training_are_timed_where_their_losses_agree(folder):
    path = folder / "model.safetensors"
    results = benchmark_training(steps(path, path), IMAGES, settings(4))
    assert [result.failure for result in results] == [None, None]
    assert set(results[1].ratios) == {"literal"}


@pytest.mark.slow
def test_steps_of_training_with_other_losses_get_no_speed(folder, tmp_path):
    other = lively_model(SMALL)
    other.stem.bias.data += 0.01
    save_checkpoint(other, tmp_path / "other.safetensors")
    paths = (folder / "model.safetensors", tmp_path / "other.safetensors")
    results = benchmark_training(steps(*paths), IMAGES, settings(4))
    assert results[0].failure is None
    assert results[1].failure.startswith("losses [")
    assert results[1].latency is None


@pytest.mark.slow
def test_candidate_that_dies_after_its_start_does_not_stop_the_others(folder, monkeypatch):
    """It dies at its first request; every later one finds the same end, and nothing waits."""
    real = harness.ChildProcess

    class Dying(real):
        def send(self, request):
            if self.doomed:
                self._process.kill()
                self._process.wait()
            super().send(request)

    def start(module, request):
        process = Dying(module, request)
        process.doomed = request["candidate"]["path"].endswith("onnx")
        return process

    monkeypatch.setattr(harness, "ChildProcess", start)
    results = run([eager(folder), Artifact("onnx", folder / "model.onnx")], 1, 2, 3)
    assert [result.failure is None for result in results] == [True, False] * 3
    assert "was killed (SIGKILL)" in results[1].failure


@pytest.mark.slow
def test_failure_while_timing_is_the_failure_of_one_candidate_at_one_size(folder, monkeypatch):
    prepare = Worker.prepare

    def fail(self, images):
        if self.about.metadata is not None and len(images) == 3:
            self.time = out_of_memory
        return prepare(self, images)

    def out_of_memory(count):
        raise ArtifactError("out of memory")

    monkeypatch.setattr(Worker, "prepare", fail)
    results = run([eager(folder), Artifact("onnx", folder / "model.onnx")], 2, 3)
    assert [result.failure for result in results] == [None, None, None, "out of memory"]


@pytest.mark.slow
def test_failure_in_a_later_round_takes_the_candidate_out(folder, monkeypatch):
    calls = []

    def fail(self, count):
        if self.about.metadata is not None:
            calls.append(count)
            if len(calls) == 4:  # the second round, behind two bursts of the warm-up
                raise ArtifactError("out of memory")
        return time(self, count)

    time = Worker.time
    monkeypatch.setattr(Worker, "time", fail)
    results = run([eager(folder), Artifact("onnx", folder / "model.onnx")], 2)
    assert [result.failure for result in results] == [None, "out of memory"]
    assert len(calls) == 4


@pytest.mark.slow
def test_only_a_missing_compiler_excuses_torch_compile(folder, monkeypatch, capsys):
    monkeypatch.setenv("CXX", "no-such-compiler")
    path = folder / "model.safetensors"
    results = run(
        [eager(folder), Compiled("compiled", path), Eager("int8", path, precision="int8")], 1
    )
    assert "there is no no-such-compiler" in results[1].failure
    assert [result.excused for result in results] == [False, True, False]
    _raise_if_wrong(results[:2])
    with pytest.raises(ResultError, match="int8: torch computes"):
        _raise_if_wrong(results)
    broken = dataclasses.replace(results[1], candidate="compile", excused=False)
    with pytest.raises(ResultError, match="compile: "):
        _raise_if_wrong([broken])


def test_memory_of_the_gpu_is_read_without_keeping_its_context(monkeypatch):
    """Contexts that are retained and not released stay for as long as the process."""
    retained = []

    class Driver:
        def __getattr__(self, name):
            return lambda *_: 0

        def cuDevicePrimaryCtxRetain(self, *_):  # noqa: N802
            retained.append(1)
            return self.refuses

        def cuDevicePrimaryCtxRelease_v2(self, *_):  # noqa: N802
            retained.pop()
            return 0

        refuses = 0

    monkeypatch.setattr(worker.ctypes, "CDLL", lambda _: Driver())
    assert worker._used_device_bytes() == 0
    assert retained == []
    monkeypatch.setattr(Driver, "refuses", 2)  # out of memory: nothing to release
    assert worker._used_device_bytes() == 0
    assert retained == [1]


# Kinds of candidates


def test_every_kind_of_candidate_travels_as_json():
    path = Path("folder", "file")
    for candidate in (
        Artifact("a", path),
        Eager("b", path, baseline=True, precision="fp16", resident=True),
        Compiled("c", path, mode="max-autotune"),
        PlainOnnx("d", path, cuda_options={"prefer_nhwc": "1"}, cuda_graphs=True),
        PlainTorchScript("e", path, resident=True),
        TrainingStep("f", path, "literal"),
    ):
        text = json.dumps(to_values(candidate))
        assert from_values(Candidate, json.loads(text)) == candidate
    with pytest.raises(ValueError, match="'abacus' is no kind of candidate, expected one of art"):
        from_values(Candidate, {"kind": "abacus", "name": "a", "path": "b"})


@pytest.mark.slow
def test_images_and_outputs_may_stay_on_the_device(folder):
    """The same numbers are proven; the timed call neither takes nor gives any."""
    candidates = [
        dataclasses.replace(eager(folder), resident=True),
        PlainOnnx("onnx", folder / "model.onnx", resident=True),
        PlainTorchScript("torchscript", folder / "model.pt", resident=True),
        PlainOnnx("onnx-naive", folder / "naive.onnx", resident=True),
        PlainOnnx("wrong", folder / "wrong.onnx", resident=True),
    ]
    results = run(candidates, 1, 4)
    failures = [result.failure for result in results]
    assert failures[:3] == failures[5:8] == [None] * 3
    assert "is no artifact" in failures[3]
    assert failures[4].startswith("parity: batch 1")
    assert set(results[1].ratios) == {"eager"}


@pytest.mark.parametrize("kind", [Eager, PlainTorchScript, PlainOnnx])
def test_call_on_the_device_computes_on_the_images_that_were_put_there(folder, kind):
    name = {Eager: "model.safetensors", PlainTorchScript: "model.pt", PlainOnnx: "model.onnx"}
    opened = kind("", folder / name[kind], resident=True).open("cpu", 1)
    expected = opened.run(IMAGES)["lengths"]
    call = opened.call(IMAGES)
    assert call() is None
    np.testing.assert_array_equal(opened.run(IMAGES)["lengths"], expected)
    assert list(kind("", folder / name[kind]).open("cpu", 1).call(IMAGES)()) == [
        "lengths",
        "capsules",
    ]


def test_cuda_graphs_are_refused_on_the_cpu(folder):
    [result] = run([PlainOnnx("graphs", folder / "model.onnx", cuda_graphs=True)], 1)
    assert "need every node there" in result.failure


@pytest.mark.slow
def test_half_precision_is_judged_by_its_own_budget(folder, tmp_path):
    half = dataclasses.replace(eager(folder), name="half", precision="fp16")
    rough = Eager("int8", folder / "model.safetensors", precision="int8")
    results = run([eager(folder), half, rough], 4)
    assert [result.failure is None for result in results] == [True, True, False]
    assert "fp32 or fp16, not in int8" in results[2].failure

    def shift(weights):
        weights += 1e-5

    path = tmp_path / "rounded.onnx"
    path.write_bytes(edited(onnx_bytes(), with_weight("stem.conv.bias", shift)))
    candidates = [Artifact("strict", path), Artifact("loose", path, precision="fp16")]
    assert [result.failure is None for result in run(candidates, 4)] == [False, True]


def test_candidate_with_other_outputs_than_the_readable_model_is_a_failure(folder, tmp_path):
    model = onnx.load(folder / "naive.onnx")
    model.graph.output[0].name = "norms"
    for node in model.graph.node:
        node.output[:] = ["norms" if name == "lengths" else name for name in node.output]
    onnx.save(model, tmp_path / "renamed.onnx")
    [result] = run([PlainOnnx("renamed", tmp_path / "renamed.onnx")], 1)
    assert "norms" in result.failure
    assert "model has no" in result.failure


def test_another_kind_of_candidate_is_one_class_in_a_file_of_the_user_s_own(folder, tmp_path):
    source = """
from dataclasses import dataclass
from capsnet.runtime.bench.candidates import Candidate, Opened
from capsnet.runtime.sessions.opening import open_session

@dataclass(frozen=True)
class Doubling(Candidate, kind="doubling"):
    factor: float = 1.0

    def open(self, device, threads):
        session = open_session(self.path, device, threads=threads)

        def run(images):
            outputs = session.run(images)
            return {name: (self.factor * values).astype("f") for name, values in outputs.items()}

        return Opened(run, "cpu", outputs=("lengths", "capsules"))
"""
    (tmp_path / "doubling.py").write_text(source)
    load_definitions([tmp_path / "doubling.py"])
    doubling = Candidate.of_kind("doubling")
    path = folder / "model.onnx"
    right, wrong = run([doubling("right", path), doubling("wrong", path, 2.0)], 2)
    assert right.failure is None
    assert wrong.failure.startswith("parity: batch 2: ")


def test_opening_an_onnx_candidate_imports_no_torch(folder):
    code = (
        "import sys; from pathlib import Path; from capsnet.runtime.bench import worker; "
        "from capsnet.runtime.bench.candidates import Artifact; "
        f"Artifact('', Path({str(folder / 'model.onnx')!r})).open('cpu', 1); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, check=True)
    assert done.stdout.split() == [b"False"]


# Profile


def test_operations_are_counted_by_hand():
    """Convolutions, and the routing's products: one, and two in each further iteration."""
    batch, config = 3, SMALL
    stem_side = 12 - 5 + 1
    primary_side = (stem_side - 3) // 2 + 1
    capsules = 2 * primary_side**2
    stem = stem_side**2 * 4 * 25
    primary = primary_side**2 * 8 * 4 * 9
    [layer] = config.capsule_layers
    routing = capsules * 4 * layer.capsules * layer.dim * (1 + 2 * (layer.routing_iterations - 1))
    found = floating_point_operations(parsed(onnx_bytes()), batch)
    assert found == 2 * batch * (stem + primary + routing)


@pytest.mark.slow
def test_operations_of_an_einsum_are_counted(folder):
    # The readable network: votes, then a sum and (but once) an agreement in each iteration.
    batch = 2
    capsules = 2 * 3**2
    votes = capsules * 5 * 6
    convolutions = 8**2 * 4 * 25 + 3**2 * 8 * 4 * 9
    expected = 2 * batch * (convolutions + votes * 4 + votes * (3 + 2))
    assert floating_point_operations(onnx.load(folder / "naive.onnx"), batch) == expected
    # As it is written, it computes the last agreement, too.
    last_agreement = 2 * batch * votes
    found = batch * network_operations(ArtifactMetadata.from_json(_document(reconstruction=False)))
    assert found == expected + last_agreement
    decoder = 2 * batch * (5 * 6 * 8 + 8 * 12 * 12)
    found = batch * network_operations(ArtifactMetadata.from_json(_document(reconstruction=True)))
    assert found == expected + last_agreement + decoder


def _document(**options):
    return json.dumps(metadata_of(onnx_bytes(**options)))


@pytest.mark.slow
def test_profile_adds_up(folder):
    profile = profile_onnx("onnx", folder / "model.onnx", IMAGES, 6, threads=1)
    stages = {row.stage for row in profile.rows}
    assert {"stem", "primary_capsules"} <= stages
    assert any(stage.startswith("layer0.iteration3") for stage in stages)
    assert {"Conv", "MatMul"} <= {row.operator for row in profile.rows}
    assert all(row.seconds >= 0 for row in profile.rows)
    assert [row.seconds for row in profile.rows] == sorted(
        (row.seconds for row in profile.rows), reverse=True
    )
    expected = profile.operations / profile.seconds / profile.limit
    assert profile.share == pytest.approx(expected)
    assert 0 < profile.share < 2
    ratio = profile.network_operations / profile.operations
    assert profile.network_share == pytest.approx(profile.share * ratio)
    console = Console(width=120, record=True, file=io.StringIO())
    console.print(profile_table(profile))
    assert "GFLOP/s" in console.export_text()


# Command


def bench(folder, *arguments):
    common = ("--checkpoint", folder / "model.safetensors", "--device", "cpu", "--threads", "1")
    with pytest.raises(SystemExit) as caught:
        main(["bench", *(str(argument) for argument in (*arguments, *common))])
    return caught.value.code or 0


@pytest.fixture
def own_images(monkeypatch):
    """The bundled images do not fit the small network."""
    from capsnet.runtime.proof import images as proof_images

    monkeypatch.setattr(proof_images, "load_images", lambda *_: ("random", IMAGES, None))


@pytest.mark.slow
def test_command_writes_all_that_it_measured(folder, tmp_path, own_images, capsys):
    code = bench(
        folder,
        *(folder / "model.onnx", "--candidate", "onnx", "--batch", "1,2", "--rounds", "7"),
        *("--csv", tmp_path / "out.csv", "--plot", tmp_path / "out.png", "--profile"),
        *("--json", tmp_path / "out.json"),
    )
    assert code == 0
    document = json.loads((tmp_path / "out.json").read_text())
    names = ["eager", "onnx", str(folder / "model.onnx")]
    assert [r["candidate"] for r in document["results"]] == names * 2
    assert [p["batch"] for p in document["profiles"]] == [1, 2, 1, 2]
    assert document["rounds"] == 7
    assert {"cpu", "cpus", "python", "torch", "numpy"} <= document["environment"].keys()
    assert (tmp_path / "out.csv").is_file()
    assert (tmp_path / "out.png").is_file()
    assert "GFLOP/s" in capsys.readouterr().out


def test_command_refuses_what_is_no_artifact_before_it_starts(folder, own_images, capsys):
    code = bench(folder, folder / "missing.onnx", "--candidate", "eager", "--batch", "1")
    assert code == 3
    assert "cannot read" in capsys.readouterr().err


@pytest.mark.slow
def test_command_fails_where_a_candidate_is_wrong(folder, own_images, capsys):
    code = bench(folder, folder / "wrong.onnx", "--candidate", "eager", "--batch", "1")
    assert code == 1
    assert "no speed for what is not proven" in capsys.readouterr().err


def test_command_checks_what_it_will_write_before_it_starts(folder, tmp_path, capsys, monkeypatch):
    from capsnet.runtime.bench import harness

    monkeypatch.setattr(harness, "Worker", None)
    for option in ("--csv", "--plot", "--json"):
        assert bench(folder, "--candidate", "onnx", option, tmp_path / "absent" / "file") == 3
        assert "absent/file: No such file or directory" in capsys.readouterr().err


def test_command_checks_that_it_can_draw_before_it_starts(folder, tmp_path, capsys, monkeypatch):
    import importlib.util

    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "matplotlib" else find(name)
    )
    assert bench(folder, "--candidate", "eager", "--plot", tmp_path / "speed.png") == 3
    assert 'pip install "capsnet-export[plot]"' in capsys.readouterr().err
    assert not any(tmp_path.iterdir())


@pytest.mark.slow
def test_command_adds_precisions_and_counts_right_classes(folder, tmp_path, monkeypatch, capsys):
    from capsnet.runtime.proof import images as proof_images

    golden, _ = references()
    labels = golden.run(IMAGES, ("lengths",))["lengths"].argmax(-1)
    labels[0] += 1
    np.save(tmp_path / "many.npy", random_images(SMALL, 32))
    monkeypatch.setattr(proof_images, "load_images", lambda *_: ("random", IMAGES, labels))
    code = bench(
        folder,
        *("--precision", "fp16", "--precision", "int8", "--calibrate", tmp_path / "many.npy"),
        *("--candidate", "onnx", "--batch", "2", "--rounds", "7", "--json", tmp_path / "out.json"),
    )
    document = json.loads((tmp_path / "out.json").read_text())
    found = {result["candidate"]: result for result in document["results"]}
    assert list(found) == ["eager", "onnx", "onnx-fp16", "onnx-int8"]
    failures = {name for name, result in found.items() if result["failure"]}
    assert code == bool(failures)
    assert failures <= {"onnx-int8"}  # random weights leave no room for 8 bits
    assert {found[name]["accuracy"] for name in found.keys() - failures} == {5 / 6}
    assert "accuracy" in capsys.readouterr().out


@pytest.mark.slow
def test_command_times_each_part(folder, own_images, tmp_path):
    for part, names in (("routing", ["onnx-naive", "onnx"]), ("training", ["literal", "trainer"])):
        options = ("--part", part, "--candidate", names[1], "--batch", "2", "--rounds", "7")
        assert bench(folder, *options, "--json", tmp_path / "out.json") == 0
        document = json.loads((tmp_path / "out.json").read_text())
        assert [result["candidate"] for result in document["results"]] == names
        assert list(document["results"][1]["ratios"]) == names[:1]
        assert document["part"] == part


@pytest.mark.parametrize(
    "arguments",
    [
        ("--rounds", "6"),
        ("--batch", "0"),
        ("--batch", "1,x"),
        ("--candidate", "tensorrt"),
        ("--part", "routing", "--candidate", "eager"),
        ("--part", "training", "model.onnx"),
    ],
)
def test_command_line_that_is_wrong_exits_with_2(folder, arguments):
    assert bench(folder, *arguments) == 2


def test_results_are_json_values(results):
    text = json.dumps([dataclasses.asdict(result) for result in results], allow_nan=False)
    assert json.loads(text)[0]["latency"]["p50"] == results[0].latency.p50
