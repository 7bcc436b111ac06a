"""Runs artifacts in one runtime, in an environment that has little more than that.

``python one.py RUNTIME FOLDER NAME...`` compares ``NAME.onnx`` with the values in ``NAME.json`` and
prints a line of JSON for each: its name, and its largest error or what went wrong.
"""

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Run = Callable[[np.ndarray], dict[str, np.ndarray]]


def _onnxruntime(path: str) -> Run:
    import onnxruntime

    onnxruntime.set_default_logger_severity(4)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_outputs()]
    return lambda images: dict(zip(names, session.run(names, {"image": images}), strict=True))


def _openvino(path: str) -> Run:
    import openvino

    hint = {"INFERENCE_PRECISION_HINT": "f32"}
    model = openvino.Core().compile_model(path, "CPU", hint)
    return lambda images: {
        port.get_any_name(): np.array(values) for port, values in model({"image": images}).items()
    }


def _tinygrad(path: str) -> Run:
    from tinygrad.nn.onnx import OnnxRunner

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        model = OnnxRunner(path)  # it keeps the batch size of its first run
        return {name: values.numpy() for name, values in model({"image": images}).items()}

    return run


def _reference(path: str) -> Run:
    import onnx
    from onnx.reference import ReferenceEvaluator

    model = ReferenceEvaluator(onnx.load(path))
    names = model.output_names
    return lambda images: dict(zip(names, model.run(None, {"image": images}), strict=True))


def _onnx2torch(path: str) -> Run:
    import onnx
    import torch

    # It imports torchvision for two operators that artifacts do not have; torchvision's wheels
    # go with one build of torch each.
    operators: Any = types.ModuleType("torchvision.ops")
    operators.roi_align = None
    sys.modules["torchvision"] = types.ModuleType("torchvision")
    sys.modules["torchvision.ops"] = operators
    from onnx2torch import convert

    parsed = onnx.load(path)
    model = convert(parsed)
    names = [value.name for value in parsed.graph.output]

    def run(images: np.ndarray) -> dict[str, np.ndarray]:
        with torch.no_grad():
            outputs = model(torch.from_numpy(images))
        return dict(zip(names, (values.numpy() for values in outputs), strict=True))

    return run


RUNTIMES = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "tinygrad": _tinygrad,
    "reference": _reference,
    "onnx2torch": _onnx2torch,
}


def largest_error(run: Run, document: dict[str, Any]) -> float:
    """The largest error of all outputs at several batch sizes.

    Args:
        run: the runtime.
        document: of :func:`tests.compatibility.artifacts.write_artifacts`.

    Raises:
        ValueError: if an output is missing or of another shape or type, or not finite.
    """
    images = _array(document["images"]).astype(np.float32)
    golden = {name: _array(values) for name, values in document["golden"].items()}
    errors = []
    for batch in document["batches"]:
        outputs = run(images[:batch])
        for name, expected in golden.items():
            found = outputs[name]
            if found.shape != expected[:batch].shape or found.dtype != np.float32:
                raise ValueError(f"{name} is {found.dtype} {list(found.shape)}")
            if not np.isfinite(found).all():
                raise ValueError(f"{name} is not finite")
            errors.append(float(np.abs(found - expected[:batch]).max()))
    return max(errors)


def _array(values: dict[str, Any]) -> np.ndarray:
    return np.array(values["values"]).reshape(values["shape"])


def main() -> None:
    runtime, folder, *names = sys.argv[1:]
    for name in names:
        result: dict[str, Any] = {"artifact": name}
        try:
            document = json.loads(Path(folder, f"{name}.json").read_text(encoding="utf-8"))
            run = RUNTIMES[runtime](str(Path(folder, f"{name}.onnx")))
            result["error"] = largest_error(run, document)
        except Exception as error:  # whatever a runtime raises is its result
            result["failure"] = f"{type(error).__name__}: {' '.join(str(error).split())[-160:]}"
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
