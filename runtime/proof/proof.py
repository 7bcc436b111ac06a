"""Proving artifacts in this process: parity on real images, and on hard inputs."""

import functools
from pathlib import Path

import torch

from capsnet.errors import ResultError
from capsnet.runtime.certificate import SCHEMA_VERSION, environment
from capsnet.runtime.proof.collect import LARGE_BATCH, SAMPLE, Reference, collect
from capsnet.runtime.proof.details import details_of
from capsnet.runtime.proof.hard_inputs import HardInputs
from capsnet.runtime.proof.judge import judge
from capsnet.runtime.proof.networks import RequestedNetwork
from capsnet.runtime.proof.reference import EagerModel, OnBytes
from capsnet.runtime.proof.request import Request
from capsnet.runtime.proof.results import (
    ArtifactFile,
    Certificate,
    HardInput,
    ImageSet,
    ParityResult,
    Proof,
)
from capsnet.runtime.sessions.base import Session
from capsnet.runtime.sessions.opening import open_session

__all__ = ["Prover", "prove"]


def prove(artifact: Path, request: Request) -> Proof:
    """Prove one artifact, in this process.

    A fresh process, which sees what a user will see, is
    :class:`capsnet.runtime.proof.fresh.FreshProcess`.

    Args:
        artifact: the file.
        request: what to verify it against.

    Returns:
        Its certificate, and the details where they were asked for.

    Raises:
        ConfigError, CheckpointError, DataError: if something that the request names cannot be read,
            or does not fit.
        ArtifactError, DeviceError: if the artifact cannot be read or run.
        ResultError: if it was not exported from this checkpoint.
    """
    return Prover(request).prove(artifact)


class Prover:
    """Proves file after file against one reference, whose results are computed once.

    Args:
        request: what to verify them against.

    Raises:
        ConfigError, CheckpointError, DataError: if something that it names cannot be read, or does
            not fit.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._requested = RequestedNetwork(request)

    @functools.cached_property
    def _golden(self) -> EagerModel:
        return EagerModel(self._requested.network, torch.float64)

    @functools.cached_property
    def _baseline(self) -> EagerModel:
        return EagerModel(self._requested.network, torch.float32)

    def prepare(self) -> None:
        """Compute the reference's results now, while another process makes the artifact.

        That process needs a processor, too: threads that wait for their turn would slow both. The
        results of many images wait until all processors are free.
        """
        if len(self._requested.given.images) > SAMPLE:
            return
        threads = torch.get_num_threads()
        torch.set_num_threads(max(1, threads - 1))
        assert self._hard_inputs
        torch.set_num_threads(threads)

    def prove(self, artifact: Path) -> Proof:
        """Compare an artifact with its reference; see :func:`prove`."""
        request = self._request
        session = open_session(artifact, request.device, runtime=request.runtime)
        # Others may run the file without this session: its large batches are proven undivided.
        session.largest_batch = LARGE_BATCH
        differs = self._requested.differs(session)
        if differs is not None:
            raise ResultError(
                f"{artifact} was not exported from {request.network.name}: {differs}; "
                "give the right one with --checkpoint, or --model"
            )
        given = self._requested.given
        golden: Reference = self._golden
        baseline: Reference = self._baseline
        suite = self._hard_inputs
        if session.metadata.inputs[0].dtype == "uint8":
            golden, baseline = OnBytes(self._golden), OnBytes(self._baseline)
            suite = HardInputs(golden, baseline, given.images, self._golden.decision)
        collected = collect(golden, baseline, session, given.images)
        parity = judge(collected, session.metadata, given.labels, request.tolerance)
        hard = suite.check(session)
        details = None
        if request.details:
            details = details_of(collected, session.metadata, given.images, given.labels)
        return Proof(self._certificate(artifact, session, parity, hard), details)

    @functools.cached_property
    def _hard_inputs(self) -> HardInputs:
        images = self._requested.given.images
        return HardInputs(self._golden, self._baseline, images, self._golden.decision)

    def _certificate(
        self,
        artifact: Path,
        session: Session,
        parity: ParityResult,
        hard_inputs: tuple[HardInput, ...],
    ) -> Certificate:
        passed = parity.passed and all(result.passed for result in hard_inputs)
        given = self._requested.given
        count = len(given.images)
        return Certificate(
            schema_version=SCHEMA_VERSION,
            verdict="pass" if passed else "fail",
            artifact=ArtifactFile.describe(artifact, session),
            checkpoint_sha256=self._requested.digest,
            images=ImageSet(
                given.source, count, given.total if count < given.total else None, given.warnings
            ),
            device=session.device,
            device_reason=session.device_reason,
            providers=session.providers(),
            environment=environment(),
            parity=parity,
            hard_inputs=hard_inputs,
        )
