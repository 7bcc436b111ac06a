"""Requests of many clients computed together."""

import asyncio
from collections import deque
from typing import Any

import numpy as np
import numpy.typing as npt

from capsnet.runtime.sessions.base import Arrays, Session

__all__ = ["Batches"]

_Images = npt.NDArray[Any]


class Batches:
    """What arrives while one batch is computed makes up the next: nothing waits for a timer.

    Args:
        session: the artifact.
        largest: images at once; a request with more is computed alone.
    """

    def __init__(self, session: Session, largest: int = 32) -> None:
        self._session = session
        self._largest = largest
        self._waiting: deque[tuple[_Images, asyncio.Future[Arrays]]] = deque()
        self._worker: asyncio.Task[None] | None = None

    async def run(self, images: _Images) -> Arrays:
        """The artifact's outputs for these images.

        Args:
            images: what the session takes, at least one.

        Raises:
            ArtifactError: if the runtime fails.
        """
        done: asyncio.Future[Arrays] = asyncio.get_running_loop().create_future()
        self._waiting.append((images, done))
        if self._worker is None or self._worker.done():
            self._worker = asyncio.create_task(self._work())
        return await done

    async def _work(self) -> None:
        while self._waiting:
            requests = [self._waiting.popleft()]
            count = len(requests[0][0])
            while self._waiting and count + len(self._waiting[0][0]) <= self._largest:
                requests.append(self._waiting.popleft())
                count += len(requests[-1][0])
            images = np.concatenate([given for given, _ in requests])
            try:
                outputs = await asyncio.to_thread(self._session.run, images)
            except Exception as error:  # whatever it is, each client gets it as its answer
                for _, done in requests:
                    if not done.done():
                        done.set_exception(error)
                continue
            start = 0
            for given, done in requests:
                part = slice(start, start := start + len(given))
                if not done.done():  # its client is gone
                    done.set_result({name: values[part] for name, values in outputs.items()})
