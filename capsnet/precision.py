"""The precisions that a network can be exported in: one row each. Needs neither torch nor onnx."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from capsnet.artifact import Claim
from capsnet.definitions import deferred
from capsnet.errors import ConfigError

__all__ = ["PRECISIONS", "Budget", "Precision", "find_precision"]


@dataclass(frozen=True)
class Budget:
    """How far an artifact may be from the golden results.

    For each of max, p99 and RMS: ``factor`` times the baseline's own error, plus a share of the
    largest golden value. And of the images, at most a share may lose their right class.

    Attributes:
        factor: multiple of the baseline's own error.
        max: share allowed to the largest error.
        p99: share allowed to the 99th percentile.
        rms: share allowed to the RMS error.
        lost: share of the images that may be lost in accuracy.
        flips: share of the images that may change their class, where that and the accuracy decide,
            and the shares above are nothing but a bound for what is plainly broken. None where a
            class may change only if the golden gap is below the measured error.
        clips: whether values outside 0..1 may be clipped; they must then give finite results only.
    """

    factor: float
    max: float
    p99: float
    rms: float
    lost: float = 0.001
    flips: float | None = None
    clips: bool = False

    def allows(self, own: Mapping[str, float], largest: float) -> dict[str, float]:
        """The limits, given the baseline's errors (max, p99, rms) and the largest golden value."""
        return {
            key: self.factor * own[key] + getattr(self, key) * largest
            for key in ("max", "p99", "rms")
        }


def _unchanged(network: Any) -> Any:
    return network


@dataclass(frozen=True)
class Precision:
    """One row of the table.

    Attributes:
        name: as the command line and the metadata call it.
        budget: how far its artifacts may be from the golden results.
        claims: what a graph of this precision must contain.
        formats: names of the formats that have it; None for all.
        float32: whether the convolutions are computed in float32, so that forms which need its
            accuracy fit.
        convert: turns a lowered network into this precision, as a module.
        finish: turns the exported ONNX graph into this precision, given calibration images or
            None; None where there is nothing left to do.
        calibrated: whether an export needs images to calibrate it with.
        opset: ONNX operator set to write where none is asked for; None for the oldest that the
            network allows.
    """

    name: str
    budget: Budget
    claims: tuple[Claim, ...] = ()
    formats: tuple[str, ...] | None = None
    float32: bool = False
    convert: Callable[[Any], Any] = _unchanged
    finish: Callable[[Any, Any], Any] | None = None
    calibrated: bool = False
    opset: int | None = None


_QUANTISED = ("QuantizeLinear", "QLinearConv")
_CASTS = ("Cast", "aten::to", "aten.to.dtype", "aten._to_copy.default")
_NOT_QUANTISED = Claim("no quantisation", _QUANTISED, 0, 0)

PRECISIONS: dict[str, Precision] = {
    row.name: row
    for row in (
        Precision(
            "fp32",
            # One unit in the last place: where the baseline happens to be almost exact, rounding
            # alone must not fail an artifact.
            Budget(factor=4.0, max=2.0**-23, p99=2.0**-23, rms=2.0**-23),
            claims=(_NOT_QUANTISED,),
            float32=True,
        ),
        Precision(
            "fp16",
            # float16 rounds by 2^-11 of a value. The bundled model, whose weights are float16
            # already, is off by at most 1.1 of that on all 10,000 test images (p99 0.2, RMS 0.06),
            # and by 3 on values from -1 to 2; small networks with rounded weights by up to 2 (p99
            # 1.3, RMS 0.5).
            Budget(factor=4.0, max=2.0**-8, p99=2.0**-9, rms=2.0**-10),
            claims=(_NOT_QUANTISED, Claim("float16", _CASTS, 1)),
            convert=deferred("capsnet.export.precision.fp16:convert"),
        ),
        Precision(
            "int8",
            # The bundled model loses 1 of the 10,000 test images, and changes the class of 3; it is
            # off by at most 5.7 % (p99 1.1 %, RMS 0.32 %).
            Budget(factor=4.0, max=0.25, p99=0.08, rms=0.03, flips=0.01, clips=True),
            claims=(Claim("int8", _QUANTISED, 1),),
            formats=("onnx",),
            finish=deferred("capsnet.export.precision.int8:quantise"),
            calibrated=True,
            opset=19,  # since which ONNX itself, and not onnxruntime alone, says what these do
        ),
    )
}
"""The precisions by name; a new one is one more row (see docs/extending.md)."""


def find_precision(name: str) -> Precision:
    """The row of that name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in PRECISIONS:
        raise ConfigError(f"precision must be one of {', '.join(PRECISIONS)}, got {name!r}")
    return PRECISIONS[name]
