"""The command line: its commands, and the exit code and message of every error."""

import sys
import traceback

import click

from capsnet.cli.bench import bench_command
from capsnet.cli.doctor import doctor_command
from capsnet.cli.export import export_command
from capsnet.cli.inspect import inspect_command
from capsnet.cli.predict import predict_command
from capsnet.cli.train import train_command
from capsnet.cli.verify import verify_command
from capsnet.errors import CapsNetError

__all__ = ["cli", "export_main", "main"]

_INTERRUPTED = 130
_ENVIRONMENT = 3


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="capsnet-export", prog_name="capsnet")
def cli() -> None:
    """Capsule networks, from readable PyTorch to a proven production artifact."""


for _command in (
    export_command,
    verify_command,
    inspect_command,
    predict_command,
    bench_command,
    train_command,
    doctor_command,
):
    cli.add_command(_command)


def main(arguments: list[str] | None = None) -> None:
    """Run ``capsnet``; ends the process with the documented exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        code = cli.main(arguments, prog_name="capsnet", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = error.exit_code
    except (KeyboardInterrupt, click.Abort):
        click.echo("interrupted", err=True)
        code = _INTERRUPTED
    except Exception as error:  # every error is one message; --debug shows where it came from
        if "--debug" in arguments:
            traceback.print_exc()
        code, message = _explain(error)
        click.echo(f"error: {message}", err=True)
    sys.exit(code)


def export_main() -> None:
    """Run ``capsnet-export``, which is ``capsnet export``."""
    main(["export", *sys.argv[1:]])


def _explain(error: Exception) -> tuple[int, str]:
    if isinstance(error, CapsNetError):
        return error.exit_code, str(error)
    if isinstance(error, MemoryError):
        return _ENVIRONMENT, "out of memory; use fewer images at once, or a larger machine"
    if isinstance(error, OSError):
        return _ENVIRONMENT, f"{error.filename or 'a file'}: {error.strerror or error}"
    return _ENVIRONMENT, f"unexpected {type(error).__name__}: {error}; --debug shows the traceback"
