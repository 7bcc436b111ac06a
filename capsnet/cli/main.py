"""The command line's process: the exit code and the message of every error and signal.

The commands are imported when signals are handled, so that Ctrl-C is answered from the start.
"""

import contextlib
import sys

from capsnet.cli.signals import Interruption

__all__ = ["export_main", "main"]

_ENVIRONMENT = 3
_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> None:
    """Run ``capsnet``; ends the process with the documented exit code."""
    interruption = Interruption()
    interruption.install()
    try:
        code, message = _outcome(sys.argv[1:] if arguments is None else arguments)
    except KeyboardInterrupt:
        code, message = _INTERRUPTED, "interrupted"
    interruption.finish()
    if interruption.code is not None:  # also where a library raised another error
        code, message = interruption.code, "interrupted"
    if message is not None:
        _say(message)
    sys.exit(code)


def export_main() -> None:
    """Run ``capsnet-export``, which is ``capsnet export``."""
    main(["export", *sys.argv[1:]])


def _outcome(arguments: list[str]) -> tuple[int, str | None]:
    """Carry out a command line: its exit code, and a message where there is one."""
    from capsnet.cli.streams import ReaderGoneError, end_standard_output, prepare_streams

    try:
        prepare_streams()
        try:
            outcome = _carry_out(arguments)
            end_standard_output()
            return outcome
        finally:
            with contextlib.suppress(OSError, ReaderGoneError):
                end_standard_output()
    except ReaderGoneError as error:
        return error.exit_code, None
    except Exception as error:  # every error is one message; --debug shows where it came from
        if "--debug" in arguments:
            import traceback

            traceback.print_exc()
        code, message = _explain(error)
        return code, f"error: {message}"


def _carry_out(arguments: list[str]) -> tuple[int, str | None]:
    import click

    from capsnet.cli.commands import cli

    try:
        return int(cli.main(arguments, prog_name="capsnet", standalone_mode=False) or 0), None
    except click.ClickException as error:
        error.show()
        return error.exit_code, None
    except click.Abort:
        raise KeyboardInterrupt from None


def _explain(error: Exception) -> tuple[int, str]:
    from capsnet.errors import CapsNetError, lacks_memory

    if isinstance(error, CapsNetError):
        return error.exit_code, str(error)
    if lacks_memory(f"{type(error).__name__}: {error}"):
        return _ENVIRONMENT, "out of memory; use fewer images at once, or a larger machine"
    if isinstance(error, OSError):
        return _ENVIRONMENT, f"{error.filename or _unnamed()}: {error.strerror or error}"
    return _ENVIRONMENT, f"unexpected {type(error).__name__}: {error}; --debug shows the traceback"


def _unnamed() -> str:
    """What a file is whose name the system's error lacks: outputs and inputs are named before."""
    import tempfile

    try:
        return f"a file in the temporary folder {tempfile.gettempdir()}"
    except OSError:
        return "the temporary folder"


def _say(message: str) -> None:
    """Print a message on standard error, without what would control a terminal."""
    from capsnet.errors import printable

    try:
        print(printable(message), file=sys.stderr, flush=True)
    except OSError:  # it is closed; the exit code says enough
        sys.stderr = None
