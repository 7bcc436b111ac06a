"""Proving artifacts in a fresh process.

The process that exported a model holds its graph, its weights and its libraries' state; one that
only reads the file from disk sees what a user will see. This module, run as a program, is that
process: it computes the reference once, and then proves file after file.
"""

from pathlib import Path
from typing import Any, Self

from capsnet.data.options import ImageOptions
from capsnet.documents import from_values, to_values
from capsnet.errors import ResultError
from capsnet.networks import NetworkSource
from capsnet.runtime.process import ChildProcess, ChildProcessEnded, Handler, serve
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import Proof, Tolerance

__all__ = ["FreshProcess"]

_PATHS = ("images", "labels")
_TIMEOUT_BASE, _TIMEOUT_PER_IMAGE = 120.0, 2.0  # seconds; far above what slow machines need


class FreshProcess:
    """Proves artifacts in a process of its own, which shares nothing with this one.

    Used as a context manager, it is killed at the end of the block if it still runs.

    Args:
        request: what to verify them against.
        prepare: whether to compute the reference now, while the artifacts are still being exported.
            Else it is computed for the first artifact, after that was opened: a device that is not
            there is then an error at once.
    """

    def __init__(self, request: Request, prepare: bool = True) -> None:
        self._timeout = _TIMEOUT_BASE + _TIMEOUT_PER_IMAGE * (request.samples or 10_000)
        start = {"request": to_values(request), "prepare": prepare}
        self._process = ChildProcess(__name__, start)
        self._submitted: list[Path] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()

    def submit(self, artifact: Path) -> None:
        """Hand in a file, which must stay as it is until its proof is there."""
        self._submitted.append(artifact)
        self._process.send({"artifact": str(artifact)})

    def proofs(self) -> list[Proof]:
        """The proof of each file that was handed in, at least one, in order.

        Raises:
            CapsNetError: what :func:`capsnet.runtime.proof.proof.prove` raises there, with its exit
                code; ResourceError where the machine has too little memory for it.
            ResultError: if the process crashes, does not answer in time, or gives no verdict.
        """
        proofs = []
        artifact = self._submitted[0]
        try:
            self._process.receive(self._timeout)
            for artifact in self._submitted:
                proofs.append(_proof(self._process.receive(self._timeout), artifact))
            self._process.finish()
        except TimeoutError:
            raise ResultError(
                f"verification of {artifact} hung: no verdict within {self._timeout:.0f} s"
            ) from None
        except ChildProcessEnded as error:
            raise ResultError(f"verification of {artifact} crashed: {error}") from error
        return proofs


def _proof(answer: dict[str, Any], artifact: Path) -> Proof:
    try:
        return from_values(Proof, answer)
    except ValueError as error:
        raise ResultError(f"verification of {artifact} gave no verdict: {error}") from error


def _request(values: dict[str, Any]) -> Request:
    """The request that became JSON values on the way to this process."""
    paths = {name: None if values[name] is None else Path(values[name]) for name in _PATHS}
    network = from_values(NetworkSource, values["network"])
    tolerance = from_values(Tolerance, values["tolerance"]) if values["tolerance"] else None
    reading = from_values(ImageOptions, values["reading"])
    parsed = {"network": network, "tolerance": tolerance, "reading": reading}
    return Request(**{**values, **paths, **parsed})


def _start(values: dict[str, Any]) -> tuple[dict[str, Any], Handler]:
    from capsnet.runtime.proof.proof import Prover  # torch is needed here, not where files are sent

    prover = Prover(_request(values["request"]))
    if values["prepare"]:
        prover.prepare()
    return {}, lambda asked: to_values(prover.prove(Path(asked["artifact"])))


if __name__ == "__main__":
    serve(_start)
