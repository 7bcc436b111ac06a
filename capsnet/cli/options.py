"""What commands share: their options, and where their output goes."""

import functools
import json
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click
from click.core import ParameterSource

from capsnet.bundled import BUNDLED
from capsnet.cli.streams import check_standard_output
from capsnet.device import Device
from capsnet.errors import ResourceError, ResultError
from capsnet.files import atomic_path, check_working_folder, check_writable, clash
from capsnet.precision import PRECISIONS

try:
    import resource
except ImportError:  # Windows has no limits of this kind
    resource = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from rich.console import Console

__all__ = [
    "CALIBRATED",
    "FILE",
    "JUDGING",
    "STANDARD_OUTPUT",
    "CountOr",
    "Counts",
    "FiniteRange",
    "InputFile",
    "Output",
    "OutputFile",
    "OutputPath",
    "arrays_option",
    "calibrate_option",
    "checkpoint_option",
    "classes_option",
    "device_option",
    "given_options",
    "invert_option",
    "judging",
    "reading_options",
    "settings_option",
    "strict_option",
    "warn_of_odd_images",
    "with_output",
]

CALIBRATED = ", ".join(name for name, row in PRECISIONS.items() if row.calibrated)
"""The precisions that take images to calibrate with, for messages."""

READING = ("--resize", "--invert", "--arrays")
"""The options that :func:`reading_options` gives."""

JUDGING = ("--images", *READING, "--samples", "--atol", "--rtol", "--report")
"""The options that :func:`judging` gives."""

STANDARD_OUTPUT = Path("-")

_FILE_WIDTH = 120  # columns of tables that go to a file or a pipe
_LEAST_MEMORY = 200 << 20  # bytes; with less, not even an ONNX file can be opened


def _is_count(word: str) -> bool:
    return word.isascii() and word.isdigit() and int(word) > 0


class CountOr(click.ParamType[int | None]):
    """A positive number, or a word that stands for no number."""

    def __init__(self, word: str) -> None:
        self.word = word
        self.name = f"{word}|N"

    def convert(self, value: Any, param: Any, ctx: Any) -> int | None:
        if value is None or value == self.word:
            return None
        if not _is_count(str(value)):
            self.fail(f"{value!r} is neither a positive number nor {self.word!r}.", param, ctx)
        return int(value)


class Counts(click.ParamType[tuple[int, ...]]):
    """Positive numbers, separated by commas."""

    name = "N,N,..."

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[int, ...]:
        if isinstance(value, tuple):
            return value
        words = str(value).split(",")
        if not all(map(_is_count, words)):
            self.fail(f"{value!r} is not a list of positive numbers, such as 1,8,32.", param, ctx)
        return tuple(int(word) for word in words)


class NamePair(click.ParamType[tuple[str, str]]):
    """Two names, separated by a comma."""

    name = "IMAGES,LABELS"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, str]:
        if isinstance(value, tuple):
            return value
        names = tuple(name.strip() for name in str(value).split(","))
        if len(names) != 2 or not all(names):
            self.fail(f"{value!r} is not two names, such as pixels,target.", param, ctx)
        return names[0], names[1]


class FiniteRange(click.FloatRange):
    """A range of numbers; NaN and infinity are in none."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        number = super().convert(value, param, ctx)
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number


class _FilePath(click.Path):
    """The name of a file or a folder; an empty one, which Path takes for ``.``, is an error.

    Args:
        allow_dash: whether ``-`` stands for standard output; else it is an error, too.
    """

    def __init__(self, allow_dash: bool = False) -> None:
        super().__init__(path_type=Path, allow_dash=allow_dash)

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        name = os.fspath(value)
        if not name or (name == "-" and not self.allow_dash):
            self.fail(f"{name!r} is not the name of a file.", param, ctx)
        return super().convert(value, param, ctx)  # a Path, as path_type says


class InputFile(_FilePath):
    """A file or a folder that the command reads."""


class OutputPath(_FilePath):
    """A file that the command will write, or an existing folder for it."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        name = os.fspath(value)
        if name.endswith(os.sep) and not Path(name).is_dir():  # Path drops the slash
            self.fail(f"there is no folder {name!r}.", param, ctx)
        return super().convert(value, param, ctx)


class OutputFile(OutputPath):
    """A file that the command will write: an error, before any work, where it cannot be written."""

    def convert(self, value: Any, param: Any, ctx: Any) -> Any:
        path = super().convert(value, param, ctx)
        if path != STANDARD_OUTPUT:
            check_writable(path)
        return path


FILE = InputFile()


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
        return self._json_file == STANDARD_OUTPUT

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


def given_options() -> set[str]:
    """The options on the command line, such as ``--images``; not what they are by default."""
    context = click.get_current_context()
    return {
        param.opts[0]
        for param in context.command.params
        if context.get_parameter_source(param.name or "") is ParameterSource.COMMANDLINE
    }


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
                if path is not None and path != STANDARD_OUTPUT:
                    found[f"{name} {number + 1}" if len(given) > 1 else name] = path
    return found


def _list_bundled(context: click.Context, _: click.Parameter, value: Path | None) -> Path | None:
    if value == Path("list"):
        click.echo("\n".join(BUNDLED))
        context.exit()
    return value


checkpoint_option = click.option(
    "--checkpoint",
    type=FILE,
    callback=_list_bundled,
    help="Trained weights: a file, or the name of what is bundled ('list' prints the names).  "
    "[default: mnist]",
)
device_option = click.option(
    "--device",
    type=click.Choice(get_args(Device)),
    default="auto",
    show_default=True,
    help="Where to run; auto takes CUDA where it works.",
)
calibrate_option = click.option(
    "--calibrate",
    type=FILE,
    help=f"Training images for {CALIBRATED}, as of --images.  [default: 256 of MNIST]",
)
_model = click.option(
    "--model",
    metavar="FILE.py:FACTORY",
    help="A network of your own: a function in a Python file that makes a torch.nn.Module; "
    "--checkpoint then is its state_dict. Runs that file.",
)
_images = click.option(
    "--images",
    type=FILE,
    help="Images to verify on: a file, a folder, or a data set; of a network of your own, its "
    "inputs in an .npz or .npy file.  [default: MNIST test set]",
)
_samples = click.option(
    "--samples",
    type=CountOr("all"),
    default="64",
    show_default=True,
    help="How many of the images to verify on, spread evenly.",
)


invert_option = click.option(
    "--invert", is_flag=True, help="Exchange black and white in all images."
)
arrays_option = click.option(
    "--arrays",
    type=NamePair(),
    help="Names of the arrays in .npz and .npy files.  [default: x,y, images,labels, ...]",
)


classes_option = click.option(
    "--classes", type=FILE, help="Text file with the names of the classes, one a line."
)


strict_option = click.option(
    "--strict",
    is_flag=True,
    help="Exit with 1 where the images do not look like the training images.",
)


def warn_of_odd_images(warnings: Sequence[str], strict: bool) -> None:
    """Print warnings of images that do not look like the training images.

    Raises:
        ResultError: if there is one, and that is not allowed.
    """
    if strict and warnings:
        raise ResultError(warnings[0])
    for warning in warnings:
        click.echo(f"warning: {warning}", err=True)


settings_option = click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="KEY=VALUE",
    help="Change the network: stem.channels=128; can be repeated.",
)


def reading_options(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what reading images needs to know, as one argument ``reading``."""

    @click.option(
        "--resize", is_flag=True, help="Resize images of another size to that of the network."
    )
    @invert_option
    @arrays_option
    @functools.wraps(function)
    def command(resize: bool, invert: bool, arrays: tuple[str, str] | None, **options: Any) -> None:
        from capsnet.data.options import ImageOptions

        function(reading=ImageOptions(resize, invert, arrays), **options)

    return command


def judging(function: Callable[..., None]) -> Callable[..., None]:
    """Give a command what verification needs to know."""

    @_model
    @_images
    @reading_options
    @_samples
    @click.option("--atol", type=FiniteRange(min=0), help="Own limit on the errors: absolute.")
    @click.option("--rtol", type=FiniteRange(min=0), help="And relative to the largest value.")
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
        from capsnet.networks import NetworkSource
        from capsnet.runtime.proof.request import Request
        from capsnet.runtime.proof.results import Tolerance

        atol, rtol = options.pop("atol"), options.pop("rtol")
        tolerance = None if atol is None and rtol is None else Tolerance(atol or 0.0, rtol or 0.0)
        checkpoint, model = options.pop("checkpoint"), options.pop("model")
        if model is None:
            checkpoint = checkpoint_file(checkpoint)
        request = Request(
            NetworkSource(checkpoint, model),
            images=options.pop("images"),
            samples=options.pop("samples"),
            device=options.pop("device"),
            tolerance=tolerance,
            details=options["page"] is not None,
            reading=options.pop("reading"),
        )
        function(request=request, **options)

    return command
