"""A user's own network: what is known is lowered, all is proven, what cannot be is refused."""

import copy
import dataclasses
import json
import subprocess
import sys

import numpy as np
import onnx
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import capsnet
from capsnet.cli.main import main
from capsnet.data.batch import Batch
from capsnet.errors import CheckpointError, ConfigError, DataError
from capsnet.export.formats.onnx import to_onnx
from capsnet.export.lower_own import lower_own
from capsnet.formats import FORMATS
from capsnet.jobs import ExportSettings, export_artifacts, locate_fault
from capsnet.networks import NetworkSource
from capsnet.own import OwnNetwork, input_names, weights_digest
from capsnet.runtime.proof.networks import RequestedNetwork
from capsnet.runtime.proof.proof import prove
from capsnet.runtime.proof.request import Request
from capsnet.runtime.sessions.opening import open_session

HEAD = """
import torch
from torch import nn
from capsnet.layers.dynamic import DynamicConfig
from capsnet.layers.primary import PrimaryConfig
"""
NET = (
    HEAD
    + """
class Net(nn.Module):
    decision = "scores"

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 6, 5)
        self.relu = nn.ReLU(inplace=True)
        self.primary = PrimaryConfig(groups=2, dim=4, kernel=3).build((6, 8, 8))
        self.routed = DynamicConfig(capsules=3, dim=5).build((18, 4))
        self.out = nn.Linear(5, 2)

    def forward(self, image, shift):
        features = self.relu(self.conv(image))
        features += 0.25
        capsules = self.routed(self.primary(features))
        return {"scores": capsules.norm(dim=-1) + shift, "sizes": self.out(capsules)}

def make():
    torch.manual_seed(0)
    return Net().eval()
"""
)
ROWS = {
    "image": np.random.default_rng(0).random((12, 1, 12, 12), np.float32),
    "shift": np.random.default_rng(1).random((12, 3), np.float32),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    (folder / "net.py").write_text(NET)
    np.savez(folder / "rows.npz", **ROWS)
    return folder


def request_of(folder, model="net.py:make", images="rows.npz", **options):
    network = NetworkSource(options.pop("checkpoint", None), f"{folder / model}")
    return Request(network, folder / images, device="cpu", **options)


def network_of(request):
    return RequestedNetwork(request).network


@pytest.fixture(scope="module")
def network(folder):
    return network_of(request_of(folder))


@pytest.fixture(scope="module")
def artifacts(folder):
    targets = {name: folder / FORMATS[name].file for name in FORMATS}
    export_artifacts(targets, request_of(folder), proven=False)
    return targets


def test_inputs_outputs_and_parts_have_the_names_that_the_module_gives_them(network):
    assert network.input_shapes == {"image": (1, 12, 12), "shift": (3,)}
    assert network.output_shapes == {"scores": (3,), "sizes": (3, 2)}
    assert list(network.parts()) == ["primary", "routed"]
    assert network.decision == "scores"
    assert network.identity == {"module": "Net", "weights": weights_digest(network.module)}


@pytest.mark.parametrize(
    ("result", "names"),
    [
        ("x", ["output"]),
        ("(x, x + 1)", ["output0", "output1"]),
        ("Pair(x, x + 1)", ["first", "second"]),
    ],
)
def test_what_forward_returns_names_the_outputs(result, names):
    scope = {"nn": nn}
    exec(
        "from collections import namedtuple\nPair = namedtuple('Pair', ['first', 'second'])\n"
        f"class Net(nn.Module):\n    def forward(self, x):\n        return {result}",
        scope,
    )
    assert list(OwnNetwork(scope["Net"](), {"x": torch.zeros(2, 3)}).output_shapes) == names


def test_inputs_are_those_without_a_default():
    class Net(nn.Module):
        def forward(self, image, mask, scale=2.0):
            return image * mask * scale

    assert input_names(Net()) == ("image", "mask")


def test_known_parts_are_lowered_and_nothing_changes_in_float64(network):
    double = copy.deepcopy(network).double()
    lowered = lower_own(double)
    assert list(lowered.lowered_layers) == ["primary", "routed"]
    rows = [torch.from_numpy(rows).double() for rows in ROWS.values()]
    with torch.no_grad():
        for expected, found in zip(double(*rows), lowered(*rows), strict=True):
            assert float((expected - found).abs().max()) < 1e-12


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_is_proven_and_runs_from_named_arrays(folder, network, artifacts, name):
    certificate = prove(artifacts[name], request_of(folder)).certificate
    assert certificate.passed, certificate.failures
    assert certificate.parity.agreement == 1
    assert {check.output for check in certificate.parity.checks} == {"scores", "sizes"}
    session = open_session(artifacts[name], "cpu")
    assert [spec.name for spec in session.metadata.inputs] == ["image", "shift"]
    found = session.run({name: rows[:5] for name, rows in ROWS.items()})
    with torch.no_grad():
        expected = network(*(torch.from_numpy(rows[:5]) for rows in ROWS.values()))
    for one, other in zip(found.values(), expected, strict=True):
        np.testing.assert_allclose(one, other.numpy(), atol=1e-5)


def test_several_inputs_are_given_by_name(artifacts):
    session = open_session(artifacts["onnx"], "cpu")
    for given, message in (
        (ROWS["image"], "give each by name"),
        ({"image": ROWS["image"]}, "the artifact takes image, shift"),
        ({**ROWS, "shift": ROWS["shift"][:3]}, "expected equally many"),
    ):
        with pytest.raises(DataError, match=message):
            session.run(given)
    with pytest.raises(DataError, match="only one input can be bound"):
        session.bind(2)


def test_commands_for_images_say_what_the_network_takes(folder, artifacts, capsys):
    np.save(folder / "images.npy", ROWS["image"])
    assert run(["predict", str(artifacts["onnx"]), str(folder / "images.npy")]) == 3
    assert "run its session with arrays instead" in capsys.readouterr().err
    assert run(["inspect", str(artifacts["onnx"]), "--device", "cpu"]) == 0
    assert "shift" in capsys.readouterr().out


def test_exports_are_the_same_bytes_again(folder, artifacts, tmp_path):
    again = {name: tmp_path / path.name for name, path in artifacts.items()}
    export_artifacts(again, request_of(folder), proven=False)
    for name, path in artifacts.items():
        assert path.read_bytes() == again[name].read_bytes()
        assert str(folder).encode() not in path.read_bytes()


def test_fixed_batch_runs_any_number_of_rows(folder, network, tmp_path):
    path = tmp_path / "fixed.onnx"
    export_artifacts({"onnx": path}, request_of(folder), ExportSettings(batch=5), proven=False)
    assert prove(path, request_of(folder)).certificate.passed
    assert open_session(path, "cpu").run(ROWS)["scores"].shape == (12, 3)


@pytest.mark.parametrize(
    ("sizes", "stage"),
    [([18, 4, 15], "routed"), ([5, 2], "sizes"), ([8, 6, 3, 3], "primary")],
)
def test_a_planted_fault_fails_and_is_found(folder, artifacts, tmp_path, sizes, stage):
    model = onnx.load(artifacts["onnx"])
    [tensor] = [t for t in model.graph.initializer if list(t.dims) == sizes]
    values = onnx.numpy_helper.to_array(tensor) * np.float32(1.01)
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    onnx.save(model, tmp_path / "wrong.onnx")
    request = request_of(folder)
    assert not prove(tmp_path / "wrong.onnx", request).certificate.passed
    stages = locate_fault(tmp_path / "wrong.onnx", request)
    assert next(found.name for found in stages if not found.passed).startswith(stage)


def test_fault_location_of_a_right_file_finds_none(folder, artifacts):
    for path in artifacts.values():
        assert all(stage.passed for stage in locate_fault(path, request_of(folder)))


def test_fp16_is_for_known_layers(folder, tmp_path):
    path = tmp_path / "half.onnx"
    export_artifacts({"onnx": path}, request_of(folder), ExportSettings("fp16"), proven=False)
    assert prove(path, request_of(folder)).certificate.passed
    plain = folder / "plain.py"
    plain.write_text(HEAD + "def make():\n    return nn.Linear(3, 2).eval()\n")
    np.save(folder / "plain.npy", ROWS["shift"])
    request = request_of(folder, "plain.py:make", "plain.npy")
    with pytest.raises(ConfigError, match="none: export it in fp32"):
        export_artifacts({"onnx": path}, request, ExportSettings("fp16"), proven=False)


def test_int8_of_several_inputs_is_refused(folder, tmp_path):
    with pytest.raises(ConfigError, match="takes something else: export it in fp32 or fp16"):
        export_artifacts(
            {"onnx": tmp_path / "x.onnx"}, request_of(folder), ExportSettings("int8"), proven=False
        )


def test_weights_of_another_run_are_loaded_and_named(folder, network, artifacts, tmp_path):
    state = {k: v * 1.5 for k, v in network.module.state_dict().items()}
    save_file(state, tmp_path / "w.safetensors")
    torch.save(state, tmp_path / "w.pt")
    digests = {
        RequestedNetwork(request_of(folder, checkpoint=tmp_path / f"w.{kind}")).digest
        for kind in ("safetensors", "pt")
    }
    assert len(digests) == 1
    assert digests != {weights_digest(network.module)}
    request = request_of(folder, checkpoint=tmp_path / "w.pt")
    with pytest.raises(capsnet.ResultError, match="was not exported from"):
        prove(artifacts["onnx"], request)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda state: state.pop("out.bias"), r'does not fit Net: Missing key.*"out.bias"'),
        (lambda state: state.update(more=torch.zeros(1)), r'Unexpected key.*"more"'),
        (lambda state: state.update({"out.bias": torch.zeros(7)}), "size mismatch for out.bias"),
    ],
)
def test_weights_that_do_not_fit_are_an_error(folder, network, tmp_path, change, message):
    state = dict(network.module.state_dict())
    change(state)
    save_file(state, tmp_path / "w.safetensors")
    with pytest.raises(CheckpointError, match=message):
        network_of(request_of(folder, checkpoint=tmp_path / "w.safetensors"))


ONE = "class Net(nn.Module):\n    {}\n    def forward(self, image):\n        {}\n"
MAKE = "\ndef make():\n    return Net().eval()\n"
INIT = "def __init__(self):\n        super().__init__()\n        self.part = Part()\n        "
PART = "class Part(nn.Module):\n    {}\n    def forward(self, x):\n        return {}\n"
REFUSED = {
    "no file": (None, "there is no file"),
    "no function": ("", r"defines no function make, expected one of \(none\)"),
    "syntax": ("def make(:", "cannot be imported: SyntaxError"),
    "needs arguments": ("def make(n): ...", "make.. failed: TypeError"),
    "raises": ("def make():\n    return 1 / 0", r"ZeroDivisionError.*n\w*\.py:\d+, in make"),
    "no module": ("def make():\n    return 3", "returned int, expected a torch.nn.Module"),
    "training": (ONE.format("", "return image") + "make = Net", "is in training mode; call eval"),
    "part in training": (
        ONE.format(INIT, "return image")
        + PART.format("", "x")
        + "\ndef make():\n    net = Net().eval()\n    net.part.train()\n    return net\n",
        "its part part is in training mode",
    ),
    "other shapes": (
        ONE.format("", "return image @ torch.zeros(5, 2)") + MAKE,
        r"does not take image \[3, 1, 12, 12\]: .*n\w*\.py:\d+, in forward",
    ),
    "no tensor": (ONE.format("", "return [1, 2]") + MAKE, "returned output0: int, output1: int"),
    "nothing": (ONE.format("", "return {}") + MAKE, "returned nothing"),
    "integers": (ONE.format("", "return image.argmax(-1)") + MAKE, "give scores in place of ind"),
    "batch not first": (ONE.format("", "return image.flatten(1).T") + MAKE, "the batch first"),
    "float32 inside": (
        ONE.format(INIT, "return self.part(image)") + PART.format("", "x.float() + 1") + MAKE,
        r"computes in float32 in a float64 run \(\w+\.py:\d+, in the part part\)",
    ),
    "not in float64": (
        ONE.format("", "return image @ torch.ones(12, 2, dtype=torch.float32)") + MAKE,
        r"computes in float32 in a float64 run",
    ),
    "branch": (
        ONE.format("", "return image if image.sum() > 0 else -image") + MAKE,
        r"lets values decide what is computed: \w+\.py:\d+, in forward",
    ),
    "item": (
        ONE.format("", "return image * image.max().item()") + MAKE,
        r"lets values decide what is computed",
    ),
    "mask": (
        ONE.format("", "return image + image[image > 0.5].sum()") + MAKE,
        r"lets values decide what is computed",
    ),
    "random": (
        ONE.format(INIT, "return self.part(image)")
        + PART.format("", "nn.functional.dropout(x, 0.5, True)")
        + MAKE,
        r"the part part draws random numbers \(\w+\.py:\d+, in forward\)",
    ),
    "state": (
        ONE.format("", "self.runs = getattr(self, 'runs', 0) + 1; return image + self.runs") + MAKE,
        r"Net.forward, \w+\.py:\d+\) gives other values when it runs again",
    ),
    "mixes": (
        ONE.format(INIT, "return self.part(image) + 1") + PART.format("", "x - x.mean(0)") + MAKE,
        r"the part part \(Part.forward, \w+\.py:\d+\) gives a row other values",
    ),
    "statistics of the batch": (
        ONE.format(
            INIT + "self.norm = nn.BatchNorm2d(1, track_running_stats=False)",
            "return self.norm(image)",
        )
        + PART.format("", "x")
        + MAKE,
        r"the output output \(Net.forward.*gives a row other values|the part norm",
    ),
    "decision": (
        ONE.format("decision = 'scores'", "return image") + MAKE,
        r"'scores' decides the class, expected an output \[batch, classes\]; it gives output",
    ),
    "open number of inputs": (
        "class Net(nn.Module):\n    def forward(self, *images):\n        return images[0]" + MAKE,
        "does not name its inputs",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_proven_is_refused_with_its_place(tmp_path, case):
    code, message = REFUSED[case]
    file = f"n{abs(hash(case))}.py"  # a file is imported once in a process
    if code is not None:
        (tmp_path / file).write_text(HEAD + code)
    np.save(tmp_path / "rows.npy", ROWS["image"])
    with pytest.raises(ConfigError, match=message):
        network_of(request_of(tmp_path, f"{file}:make", "rows.npy"))


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"image": ROWS["image"]}, "holds image, the network takes image, shift"),
        ({**ROWS, "shift": ROWS["shift"][:3]}, "expected equally many of each"),
        ({**ROWS, "shift": ROWS["shift"] > 0}, "shift is bool, expected floating-point"),
        ({**ROWS, "shift": ROWS["shift"] * np.nan}, "shift holds NaN"),
        ({name: rows[:1] for name, rows in ROWS.items()}, "1 row of inputs, expected at least 2"),
    ],
)
def test_inputs_that_do_not_fit_are_an_error(folder, tmp_path, arrays, message):
    np.savez(tmp_path / "rows.npz", **arrays)
    request = dataclasses.replace(request_of(folder), images=tmp_path / "rows.npz")
    with pytest.raises(DataError, match=message):
        network_of(request)


@pytest.mark.parametrize("labelled", [True, False])
def test_the_only_input_may_be_a_folder_of_pictures(tmp_path, labelled):
    (tmp_path / "one.py").write_text(HEAD + ONE.format("", "return image.mean((2, 3))") + MAKE)
    for number in range(6):
        folder = tmp_path / "pictures" / ("ab"[number % 2] if labelled else "")
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (5, 4), (40 * number, 0, 255)).save(folder / f"{number}.png")
    requested = RequestedNetwork(request_of(tmp_path, "one.py:make", "pictures"))
    assert requested.network.input_shapes == {"image": (3, 4, 5)}
    rows = requested.given.images.arrays["image"]
    assert sorted(rows[:, 0, 0, 0] * 255) == pytest.approx([40 * number for number in range(6)])
    assert (rows[:, 2] == 1).all()
    labels = requested.given.labels
    assert labels.tolist() == [0, 0, 0, 1, 1, 1] if labelled else labels is None


def test_pictures_are_one_input(folder, tmp_path):
    Image.new("L", (12, 12)).save(tmp_path / "a.png")
    request = dataclasses.replace(request_of(folder), images=tmp_path / "a.png")
    with pytest.raises(DataError, match="holds images alone, the network takes image, shift"):
        network_of(request)


def test_without_inputs_the_message_names_them(folder):
    with pytest.raises(DataError, match=r"an \.npz file with the arrays image, shift"):
        network_of(dataclasses.replace(request_of(folder), images=None))


def run(arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    return ended.value.code


def test_command_line_refuses_before_it_writes(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    options = ["export", "--format", "onnx", "--images", str(folder / "rows.npz")]
    for more, code in (
        (["--model", "net.txt"], 3),
        (["--model", f"{folder / 'net.py'}:none"], 3),
        (["--model", f"{folder / 'net.py'}:make", "--reconstruction", "--no-verify"], 3),
    ):
        assert run([*options, *more]) == code
        assert capsys.readouterr().err.startswith("error: ")
    assert list(tmp_path.iterdir()) == []


SCRIPT = (
    NET
    + """
if __name__ == "__main__":
    import sys
    import numpy as np
    import capsnet
    rows = dict(np.load(sys.argv[1]))
    certificate = capsnet.export_model(make(), "own.onnx", images=rows, device="cpu")
    print(certificate.verdict, certificate.parity.agreement)
    print(capsnet.verify("own.onnx", make(), images=rows, device="cpu").passed)
"""
)


@pytest.mark.slow
def test_front_door_takes_a_module_of_the_script_itself(folder, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [sys.executable, "script.py", str(folder / "rows.npz")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["pass", "1.0", "True"]


@pytest.mark.slow
def test_command_line_exports_proves_and_verifies(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = ["--model", f"{folder / 'net.py'}:make", "--images", str(folder / "rows.npz")]
    assert run(["export", "--format", "onnx", *model, "--json", "e.json", "--device", "cpu"]) == 0
    [found] = json.loads((tmp_path / "e.json").read_text())["artifacts"]
    assert found["verdict"] == "pass"
    assert run(["verify", "capsnet.onnx", *model, "--device", "cpu", "--report", "r.html"]) == 0
    assert (tmp_path / "r.html").stat().st_size > 1000


def test_a_module_that_cannot_be_sent_says_what_to_do():
    class Local(nn.Module):
        def forward(self, image):
            return image

    with pytest.raises(ConfigError, match=r"FILE\.py:FACTORY|interactively"):
        capsnet.export_model(Local().eval(), "x.onnx", images=ROWS["image"])


def test_rows_of_several_inputs_are_chosen_together():
    batch = Batch(ROWS)
    assert len(batch) == 12
    part = batch[np.array([3, 1])]
    assert np.array_equal(part.arrays["shift"], ROWS["shift"][[3, 1]])


def test_stages_of_in_place_operations_have_one_name(network, tmp_path):
    to_onnx(lower_own(network), tmp_path / "own.onnx")
    names = {name for node in onnx.load(tmp_path / "own.onnx").graph.node for name in node.output}
    assert {"primary", "routed.iteration2.capsules", "scores", "sizes"} <= names
    assert not any(node.endswith("/Identity") for node in names)
