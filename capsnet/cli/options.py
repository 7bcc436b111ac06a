"""What commands share: their options, and where their output goes."""

import functools
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capsnet.cli.streams import check_standard_output
from capsnet.errors import ResourceError
from capsnet.files import atomic_path, check_working_folder, check_writable, clash
from capsnet.formats import FORMATS
from capsnet.precision import PRECISIONS
from capsnet.presets import PRESETS

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "DEVICES",
    "FILE",
    "FORMAT",
    "PRECISION",
    "PRESET",
    "STARTED",
    "CountOr",
    "Counts",
    "InputFile",
    "Output",
    "OutputFile",
    "calibrate_option",
    "checkpoint_option",
    "device_option",
    "judging",
    "with_output",
]

STARTED = time.monotonic()  # before anything slow is imported
DEVICES = ("auto", "cpu", "cuda")
FORMAT = click.Choice(list(FORMATS))
PRECISION = click.Choice(list(PRECISIONS))
PRESET = click.Choice(list(PRESETS))

_FILE_WIDTH = 120  # columns of tables that go to a file or a pipe
_STANDARD_OUTPUT = Path("-")
_LEAST_MEMORY = 200 << 20  # bytes; with less, not even an ONNX file can be opened


class CountOr(click.ParamType[int | None]):
    """A positive number, or a word that stands for no number."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name = f"{word}|N"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> int | None:
        if value is None or value == self.word:
            return None
        if not str(value).isascii() or not str(value).isdigit() or int(value) < 1:
            self.fail(f"{value!r} is neither a positive number nor {self.word!r}.", param, ctx)
        return int(value)


class Counts(click.ParamType[tuple[int, ...]]):
    """Positive numbers, separated by commas."""

    name = "N,N,..."

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(word.isascii() and word.isdigit() and int(word) > 0 for word in words):
            self.fail(f"{value!r} is not a list of positive numbers, such as 1,8,32.", param, ctx)
        return tuple(int(word) for word in words)


class InputFile(click.Path):
    """A file or a folder that the command reads."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)


FILE = InputFile()


class OutputFile(click.Path):
    """A file that the command will write: an error, before any work, where it cannot be written.

    Args:
        allow_dash: whether ``-`` stands for standard output.
    """

    def __init__(self, allow_dash: bool = False) -> None:
        super().__init__(path_type=Path, allow_dash=allow_dash)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        path: Any = super().convert(value, param, ctx)  # a Path, as path_type says
        if not (self.allow_dash and path == _STANDARD_OUTPUT):
            check_writable(path)
        return path


class Output:
    """Where a command's output goes: text to the console, all of it as JSON to ``--json``.

    Args:
        json_file: the file for the JSON; ``-`` is standard output, None is nowhere.
        outputs: the files that the options say to write, by the option's name.
        inputs: the files and folders that the options and arguments say to read.

    Raises:
        UsageError: if an output is one of the inputs, or another output.
        OutputError: if the JSON is for standard output, and that is closed.
    """

    def __init__(
        self, json_file: Path | None, outputs: Mapping[str, Path], inputs: Mapping[str, Path]
    ) -> None:
        self._json_file = json_file
        self._outputs, self._inputs = dict(outputs), dict(inputs)
        self.reserve({})
        if self.to_standard_output:
            check_standard_output()

    def reserve(
        self, outputs: Mapping[str, Path], inputs: Mapping[str, Path] | None = None
    ) -> None:
        """Name what the command writes and reads besides its options, before it writes anything.

        Args:
            outputs: such as the certificate beside an artifact, by what the user calls them.
            inputs: such as what an option stands for where it is not given.

        Raises:
            UsageError: as above.
        """
        self._outputs |= outputs
        self._inputs |= inputs or {}
        problem = clash(self._outputs, self._inputs)
        if problem is not None:
            raise click.UsageError(problem)

    @property
    def to_standard_output(self) -> bool:
        """Whether standard output carries the JSON."""
        return self._json_file == _STANDARD_OUTPUT

    @functools.cached_property
    def console(self) -> "Console":
        """Standard output, unless that carries the JSON."""
        from rich.console import Console

        console = Console(stderr=self.to_standard_output, highlight=False, soft_wrap=True)
        if not console.is_terminal:
            console.width = _FILE_WIDTH
        return console

    def write_json(self, document: Any) -> None:
        """Everything that the command found, where JSON was asked for."""
        if self._json_file is None:
            return
        text = json.dumps(document, indent=2) + "\n"
        if self.to_standard_output:
            click.echo(text, nl=False)
            return
        with atomic_path(self._json_file) as temporary:
            temporary.write_text(text, encoding="utf-8")


def with_output(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what every command has: ``--json`` and ``--debug``."""

    @click.option(
        "--json",
        "json_file",
        type=OutputFile(allow_dash=True),
        metavar="FILE",
        help="Write all of it as JSON (-: stdout).",
    )
    @click.option("--debug", is_flag=True, expose_value=False, help="Show tracebacks of errors.")
    @functools.wraps(function)
    def command(json_file: Path | None, **options: Any) -> None:
        check_working_folder()
        _check_memory_limit()
        context = click.get_current_context()
        out = Output(json_file, _paths(context, OutputFile), _paths(context, InputFile))
        function(out=out, **options)

    return command


def _check_memory_limit() -> None:
    """Raise ResourceError where numpy's libraries would end the process themselves, with 1."""
    if resource is not None:
        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if 0 <= limit < _LEAST_MEMORY:
            raise ResourceError(
                f"this process may take {limit >> 20} MiB of memory, expected at least "
                f"{_LEAST_MEMORY >> 20}; raise the limit (ulimit -v)"
            )


def _paths(context: click.Context, kind: type[click.Path]) -> dict[str, Path]:
    """What was given for the parameters of a kind, by the names that the user knows."""
    found: dict[str, Path] = {}
    for param in context.command.params:
        if isinstance(param.type, kind):
            value = context.params.get(param.name or "")
            given = value if isinstance(value, tuple) else (value,)
            name = param.human_readable_name if isinstance(param, click.Argument) else param.opts[0]
            for number, path in enumerate(given):
                if path is not None and path != _STANDARD_OUTPUT:
                    found[f"{name} {number + 1}" if len(given) > 1 else name] = path
    return found


checkpoint_option = click.option(
    "--checkpoint", type=FILE, help="Trained weights.  [default: the bundled MNIST model]"
)
device_option = click.option(
    "--device",
    type=click.Choice(DEVICES),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where it works.",
)
calibrate_option = click.option(
    "--calibrate",
    type=FILE,
    help="Training images for int8, a file or a folder.  [default: 256 of MNIST]",
)
_images = click.option(
    "--images",
    type=FILE,
    help="Images to verify on: a file, a folder, or labelled IDX files.  [default: MNIST test set]",
)
_samples = click.option(
    "--samples",
    type=CountOr("all"),
    default="64",
    show_default=True,
    help="How many of the images to verify on, spread evenly.",
)


def judging(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what verification needs to know."""

    @_images
    @_samples
    @click.option("--atol", type=click.FloatRange(min=0), help="Own limit on the errors: absolute.")
    @click.option("--rtol", type=click.FloatRange(min=0), help="And relative to the largest value.")
    @click.option(
        "--report",
        "page",
        type=OutputFile(),
        metavar="FILE.html",
        help="Write a page to look at.",
    )
    @functools.wraps(function)
    def command(**options: Any) -> None:
        from capsnet.bundled import checkpoint_file
        from capsnet.runtime.proof.request import Request
        from capsnet.runtime.proof.results import Tolerance

        atol, rtol = options.pop("atol"), options.pop("rtol")
        tolerance = None if atol is None and rtol is None else Tolerance(atol or 0.0, rtol or 0.0)
        request = Request(
            checkpoint=checkpoint_file(options.pop("checkpoint")),
            images=options.pop("images"),
            samples=options.pop("samples"),
            device=options.pop("device"),
            tolerance=tolerance,
            details=options["page"] is not None,
        )
        function(request=request, **options)

    return command
