"""No network in any process of the tests: Python imports this where it lies on PYTHONPATH."""

import sys
from typing import Any

_EVENTS = {
    "socket.connect": 1,
    "socket.sendto": 1,
    "socket.sendmsg": 1,
    "socket.getaddrinfo": 0,
    "socket.gethostbyname": 0,
}
"""Audit events, and which of their arguments is the address."""


def _refuse(event: str, arguments: tuple[Any, ...]) -> None:
    if event not in _EVENTS:
        return
    address = arguments[_EVENTS[event]]
    host = address[0] if isinstance(address, tuple) and address else address
    local = host in (None, "", "localhost", "::1") or str(host).startswith("127.")
    if local or (event == "socket.connect" and isinstance(address, str | bytes)):  # a Unix socket
        return
    raise RuntimeError(f"the tests have no network, and {event} was asked for {address!r}")


sys.addaudithook(_refuse)
