"""The doctor: what is broken is found, and what was never promised is no problem."""

import ctypes
import json
import re
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from types import ModuleType, SimpleNamespace

import onnxruntime
import pytest

from capsnet.cli.main import main
from capsnet.runtime import doctor
from capsnet.runtime.doctor import Finding, examine
from capsnet.runtime.sessions import cuda
from capsnet.runtime.sessions.cuda import CUDA, Gpu, find_gpu, find_libraries, why_no_cuda

CPU = "CPUExecutionProvider"
H100 = Gpu(("NVIDIA H100",), "13.0", "")
NO_DRIVER = Gpu((), None, "there is no NVIDIA driver on this machine")
LOADED = {"libcudart.so.13": None, "libcudnn.so.9": None}
LACKING = {"libcudart.so.13": None, "libcudnn.so.9": "libcudnn.so.9: cannot open"}


@pytest.fixture
def machine(monkeypatch):
    """Pretend to be on some machine."""

    def pretend(
        gpu=NO_DRIVER, libraries=LOADED, providers=(CUDA, CPU), wheels=("onnxruntime-gpu",)
    ):
        for module in (cuda, doctor):
            monkeypatch.setattr(module, "find_gpu", lambda: gpu)
            monkeypatch.setattr(module, "find_libraries", lambda: dict(libraries))
            monkeypatch.setattr(module, "installed_runtimes", lambda: dict.fromkeys(wheels, "1.31"))
        monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: list(providers))
        monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)

    cuda.why_no_cuda.cache_clear()
    yield pretend
    cuda.why_no_cuda.cache_clear()


def by_subject(findings):
    return {finding.subject: finding for finding in findings}


def problems(findings):
    return [finding.subject for finding in findings if finding.status == "problem"]


def test_machine_without_a_gpu_has_notes_and_no_problems(machine):
    machine(libraries=LACKING)
    findings = examine()
    assert problems(findings) == []
    found = by_subject(findings)
    assert found["GPU"].status == found["libcudnn.so.9"].status == "note"
    assert found[f"self-test on {CPU}"].status == "good"
    assert found[f"self-test on {CUDA}"].status == "note"
    assert found[f"self-test on {CUDA}"].detail == f"not tried: {NO_DRIVER.problem}"
    assert found["torch and CUDA"].status in ("good", "note")


def test_library_that_is_missing_beside_a_gpu_is_a_problem_with_its_cure(machine):
    machine(H100, LACKING)
    findings = examine()
    assert problems(findings) == ["libcudnn.so.9"]
    assert (
        "pip install 'onnxruntime-gpu[cuda,cudnn]'" in by_subject(findings)["libcudnn.so.9"].advice
    )


def test_provider_that_becomes_another_one_is_a_problem_where_nothing_is_missing(machine):
    machine(H100)
    findings = examine()
    assert problems(findings) == [f"self-test on {CUDA}"]
    detail = by_subject(findings)[f"self-test on {CUDA}"].detail
    assert "made a session on CPUExecutionProvider" in detail


def test_two_wheels_are_a_problem(machine):
    machine(wheels=("onnxruntime", "onnxruntime-gpu"))
    findings = examine()
    assert problems(findings) == ["onnxruntime wheels"]
    assert "pip uninstall" in by_subject(findings)["onnxruntime wheels"].advice


def test_everything_that_cuda_lacks_is_a_problem_where_it_must_work(machine, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    machine(libraries=LACKING)
    found = by_subject(examine(cuda=True))
    for subject in ("onnxruntime and CUDA", "torch and CUDA"):
        assert found[subject].status == "problem"


def test_package_that_is_missing_is_a_problem(machine, monkeypatch):
    machine()
    needed = ["no-such-package>=1.0; os_name == 'posix'", "click>=8", "pytest; extra == 'test'"]
    monkeypatch.setattr(doctor, "requires", lambda _: needed)
    findings = examine()
    assert problems(findings) == ["no-such-package"]
    found = by_subject(findings)
    assert found["no-such-package"].advice == "pip install no-such-package"
    assert found["click"].status == found["capsnet-export"].status == "good"
    assert "pytest" not in found


def test_packages_are_those_that_this_one_needs(machine):
    machine()
    found = by_subject(examine())
    needed = {"torch", "einops", "onnx", "onnxscript", "numpy", "click", "safetensors", "rich"}
    assert needed | {"capsnet-export", "onnxruntime-gpu", "onnxruntime"} <= found.keys()


def test_package_that_was_never_installed_is_the_one_problem(machine, monkeypatch):
    def missing(name):
        raise PackageNotFoundError(name)

    machine()
    monkeypatch.setattr(doctor, "requires", missing)
    monkeypatch.setattr(doctor, "version", missing)
    assert problems(examine()) == ["capsnet-export"]


def test_opsets_are_those_that_the_export_takes(machine):
    machine()
    assert by_subject(examine())["opset and IR"].detail.endswith(
        "the toolkit exports opset 17 to 23"
    )


def test_provider_with_wrong_numbers_is_a_problem(machine, monkeypatch):
    machine()
    monkeypatch.setattr(doctor, "_ACCURATE", 0.0)
    assert problems(examine()) == [f"self-test on {CPU}"]


def test_provider_that_raises_is_a_problem(machine, monkeypatch):
    def fail(*arguments, **options):
        raise RuntimeError("illegal instruction\nand more")

    machine(providers=(CPU,))
    monkeypatch.setattr(onnxruntime, "InferenceSession", fail)
    finding = by_subject(examine())[f"self-test on {CPU}"]
    assert (finding.status, finding.detail) == ("problem", "illegal instruction")


# Libraries that are missing or broken

HOLLOW = "sys.modules[name] = types.ModuleType(name)"  # what a removed wheel beside another leaves
MISSING = "sys.modules[name] = None"
UNLOADABLE = """
class Finder:
    def find_spec(self, full, *_):
        if full == name:
            raise OSError(f"lib{name}.so: cannot open shared object file")
sys.meta_path.insert(0, Finder())
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [HOLLOW, MISSING, UNLOADABLE], ids=["hollow", "missing", "unload"])
@pytest.mark.parametrize(
    ("name", "subject", "advice"),
    [
        ("onnxruntime", "onnxruntime", "pip uninstall onnxruntime onnxruntime-gpu, then pip ins"),
        ("onnx", "opset and IR", "reinstall onnx"),
        ("torch", "torch and CUDA", "reinstall torch"),
    ],
)
def test_library_that_does_not_work_is_a_finding_and_no_crash(name, subject, advice, how):
    code = f"""
import sys, types
name = {name!r}
{how}
from capsnet.cli.main import main
main(["doctor", "--json", "-"])
"""
    done = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True)
    findings = [Finding(**values) for values in json.loads(done.stdout)["findings"]]
    assert problems(findings) == [subject]
    found = by_subject(findings)
    assert found[subject].detail.startswith("cannot be used: ")
    assert found[subject].advice.startswith(advice)
    assert done.returncode == 3
    assert f"error: what is installed does not work: {subject}" in done.stderr
    assert "Traceback" not in done.stderr
    others = {"opset and IR", "torch and CUDA", f"self-test on {CPU}"} - {subject}
    if name == "onnxruntime":
        others.remove(f"self-test on {CPU}")
    assert all(found[other].status != "problem" for other in others)


def test_wheel_that_took_the_files_of_the_other_is_reinstalled_by_its_name(machine, monkeypatch):
    machine(wheels=("onnxruntime",))
    monkeypatch.setitem(sys.modules, "onnxruntime", ModuleType("onnxruntime"))
    finding = by_subject(examine())["onnxruntime"]
    assert "no attribute 'get_available_providers'" in finding.detail
    assert finding.advice.endswith("then pip install onnxruntime")


def test_examining_imports_no_library_before_it_is_looked_at():
    code = "import sys, capsnet.runtime.doctor; print(*sys.modules)"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    loaded = set(done.stdout.split())
    assert "capsnet.runtime.doctor" in loaded
    assert loaded & {"numpy", "onnx", "onnxruntime", "torch", "rich", "click"} == set()


# Why there is no CUDA


@pytest.mark.parametrize(
    ("pretence", "reason"),
    [
        ({"providers": (CPU,)}, "install the GPU build: pip install onnxruntime-gpu"),
        (
            {"providers": (CPU,), "wheels": ("onnxruntime", "onnxruntime-gpu")},
            "both installed and overwrite each other; pip uninstall both",
        ),
        ({}, "there is no NVIDIA driver"),
        ({"gpu": Gpu((), None, "finds no usable GPU (cuInit says 100)")}, "cuInit says 100"),
        (
            {"gpu": H100, "libraries": LACKING},
            "needs libcudnn.so.9, which cannot be loaded .* pip install 'onnxruntime-gpu\\[cuda",
        ),
        (
            {"gpu": Gpu(("NVIDIA V100",), "12.4", "")},
            "driver supports CUDA 12.4, this onnxruntime was built for 13.0; update the driver",
        ),
        ({"gpu": H100}, "^$"),
    ],
    ids=["CPU build", "two wheels", "no driver", "no GPU", "no cuDNN", "old driver", "all there"],
)
def test_what_is_missing_is_named_with_its_cure(machine, pretence, reason):
    machine(**pretence)
    assert re.search(reason, why_no_cuda())


class Driver:
    """A made-up libcuda."""

    def __init__(self, code=0, names=("NVIDIA H100 80GB HBM3",)):
        self.code, self.names = code, names

    def cuInit(self, flags):  # noqa: ARG002, N802
        return self.code

    def cuDriverGetVersion(self, number):  # noqa: N802
        number._obj.value = 13000

    def cuDeviceGetCount(self, count):  # noqa: N802
        count._obj.value = len(self.names)

    def cuDeviceGet(self, device, index):  # noqa: N802
        device._obj.value = index

    def cuDeviceGetName(self, text, size, device):  # noqa: ARG002, N802
        text.value = self.names[device.value].encode()


@pytest.mark.parametrize(
    ("driver", "names", "problem"),
    [
        (Driver(), ("NVIDIA H100 80GB HBM3",), ""),
        (Driver(code=100), (), "cuInit says 100"),
        (Driver(names=()), (), "CUDA_VISIBLE_DEVICES"),
    ],
    ids=["one", "broken", "hidden"],
)
def test_driver_is_asked_for_devices(monkeypatch, driver, names, problem):
    calls = SimpleNamespace(**{**vars(ctypes), "CDLL": lambda _: driver})
    monkeypatch.setattr(cuda, "ctypes", calls)
    gpu = find_gpu()
    assert gpu.names == names
    assert problem in gpu.problem
    assert bool(gpu.problem) == bool(problem)
    if names:
        assert gpu.driver == "13.0"


def test_libraries_are_those_of_the_cuda_that_onnxruntime_was_built_for(monkeypatch, capsys):
    asked = []

    def load(name):
        asked.append(name)
        if "cudnn" in name:
            raise OSError(f"{name}: cannot open shared object file")

    def preload():
        print("Failed to load libcudnn.so.9")

    monkeypatch.setattr(cuda, "ctypes", SimpleNamespace(CDLL=load))
    monkeypatch.setattr(cuda, "_in_wheels", lambda _: [])
    monkeypatch.setattr(onnxruntime, "cuda_version", "12.8", raising=False)
    monkeypatch.setattr(onnxruntime, "preload_dlls", preload)
    found = find_libraries()
    assert ["libnvrtc.so.12", *found] == asked  # the first one helps, and is not required
    assert {"libcudart.so.12", "libcublas.so.12", "libcufft.so.11", "libcudnn.so.9"} <= found.keys()
    assert [name for name, reason in found.items() if reason] == ["libcudnn.so.9"]
    assert capsys.readouterr().out == ""


def test_libraries_are_found_in_wheels_that_are_not_beside_onnxruntime(monkeypatch, tmp_path):
    for name in ("cu13/lib/libcublas.so.13", "cudnn/lib/libcudnn.so.9"):
        path = tmp_path / "nvidia" / name
        path.parent.mkdir(parents=True)
        path.touch()

    def load(name):
        if not name.startswith(str(tmp_path)):
            raise OSError(f"{name}: not found")

    monkeypatch.setattr(cuda, "ctypes", SimpleNamespace(CDLL=load))
    monkeypatch.setattr(onnxruntime, "cuda_version", "13.0", raising=False)
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    assert find_libraries()["libcudnn.so.9"] == "libcudnn.so.9: not found"
    monkeypatch.syspath_prepend(str(tmp_path))
    found = find_libraries()
    loaded = {name for name, reason in found.items() if reason is None}
    assert loaded == {"libcublas.so.13", "libcudnn.so.9"}
    assert found["libcudart.so.13"] == "libcudart.so.13: not found"


def test_cpu_build_has_no_libraries(monkeypatch):
    monkeypatch.setattr(onnxruntime, "cuda_version", "", raising=False)
    assert find_libraries() == {}


# Command


def run(*arguments):
    with pytest.raises(SystemExit) as caught:
        main(["doctor", *arguments])
    return caught.value.code or 0


def test_command_shows_and_writes_every_finding(machine, tmp_path, capsys):
    machine(libraries=LACKING)
    assert run("--json", str(tmp_path / "out.json")) == 0
    findings = json.loads((tmp_path / "out.json").read_text())["findings"]
    text = capsys.readouterr().out
    assert len(findings) > 10
    for finding in findings:
        assert finding["subject"] in text
        assert finding["detail"] in text


def test_command_exits_with_3_where_a_promise_is_broken(machine, capsys):
    machine(H100, LACKING)
    assert run() == 3
    output = capsys.readouterr()
    assert "does not work: libcudnn.so.9" in output.err
    assert "pip install 'onnxruntime-gpu[cuda,cudnn]'" in output.out


def test_command_exits_with_3_where_cuda_is_asked_for_and_absent(machine, capsys):
    machine()
    assert run("--device", "cuda") == 3
    assert "CUDA" in capsys.readouterr().err
