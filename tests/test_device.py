"""The device is decided in one place: what was asked for, what is there, and why."""

import subprocess
import sys

import pytest
import torch

from capsnet.device import Choice, choose_device, why_torch_has_no_cuda
from capsnet.errors import DeviceError


@pytest.mark.parametrize(
    ("asked", "why_no_cuda", "expected"),
    [
        ("cpu", "", Choice("cpu", "as asked")),
        ("cpu", "no driver", Choice("cpu", "as asked")),
        ("cuda", "", Choice("cuda", "as asked")),
        ("auto", "", Choice("cuda", "it works")),
        ("auto", "no driver", Choice("cpu", "no driver")),
    ],
)
def test_device_is_chosen_and_the_reason_is_given(asked, why_no_cuda, expected):
    assert choose_device(asked, why_no_cuda, "model.onnx") == expected


def test_cuda_that_is_not_there_is_refused_with_the_reason_and_what_to_do():
    with pytest.raises(DeviceError) as caught:
        choose_device("cuda", "there is no driver", "model.onnx")
    assert str(caught.value) == (
        "no CUDA for model.onnx: there is no driver; set the device to cpu or auto"
    )


@pytest.mark.parametrize(
    ("available", "built_for", "expected"),
    [
        (True, "13.0", ""),
        (False, None, "is a CPU build"),
        (False, "13.0", "was built for CUDA 13.0 but finds no device"),
    ],
)
def test_torch_says_why_it_has_no_cuda(monkeypatch, available, built_for, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    monkeypatch.setattr(torch.version, "cuda", built_for)
    assert expected in why_torch_has_no_cuda()
    assert bool(why_torch_has_no_cuda()) == bool(expected)


def test_deciding_needs_no_torch():
    code = (
        "import sys; from capsnet.device import choose_device\n"
        "choose_device('auto', 'no driver', 'it'); print('torch' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "False"
