"""The tests have no network, and neither have the processes that they start."""

import socket
import subprocess
import sys

import pytest

CONNECT = """
import socket
try:
    socket.create_connection(("192.0.2.1", 80), timeout=1)
except RuntimeError as error:
    print(error)
"""


@pytest.mark.parametrize("host", ["192.0.2.1", "2001:db8::1", "example.invalid"])
def test_this_process_reaches_no_other_host(host):
    with pytest.raises(RuntimeError, match="the tests have no network"):
        socket.create_connection((host, 80), timeout=1)


def test_this_process_sends_nothing_to_other_hosts():
    with (
        pytest.raises(RuntimeError, match="the tests have no network"),
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender,
    ):
        sender.sendto(b"?", ("192.0.2.1", 53))


@pytest.mark.parametrize("options", [[], ["-P", "-W", "error"]])
def test_a_process_of_a_test_reaches_no_other_host(options, tmp_path):
    command = [sys.executable, *options, "-c", CONNECT]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True)
    assert "the tests have no network" in done.stdout


def test_this_machine_is_reached():
    with socket.create_server(("127.0.0.1", 0)) as server:
        socket.create_connection(server.getsockname(), timeout=1).close()
