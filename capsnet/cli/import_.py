"""``capsnet import``: weights that another project trained, as a checkpoint."""

from pathlib import Path

import click

from capsnet.cli.options import FILE, Counts, Output, OutputFile, with_output
from capsnet.importers import LAYOUTS
from capsnet.limits import MOST_ITERATIONS

__all__ = ["import_command"]

_LIST = "list"


def _list_layouts(context: click.Context, _: click.Parameter, value: str) -> str:
    if value == _LIST:
        width = max(map(len, LAYOUTS))
        click.echo("\n".join(f"{row.name:{width}}  {row.project}" for row in LAYOUTS.values()))
        context.exit()
    return value


def _three(
    _: click.Context, __: click.Parameter, value: tuple[int, ...] | None
) -> tuple[int, ...] | None:
    if value is not None and len(value) != 3:
        raise click.BadParameter("expected channels, height and width, such as 1,28,28.")
    return value


@click.command("import")
@click.argument("source", type=FILE)
@click.option(
    "--layout",
    type=click.Choice([*LAYOUTS, _LIST]),
    required=True,
    is_eager=True,
    callback=_list_layouts,
    help="Whose weights they are; 'list' prints all.",
)
@click.option(
    "--output",
    type=OutputFile(),
    required=True,
    metavar="FILE.safetensors",
    help="The checkpoint to write.",
)
@click.option(
    "--routing-iterations",
    type=click.IntRange(0, MOST_ITERATIONS),
    help="Rounds of routing, as that project counts them.  [default: that project's]",
)
@click.option(
    "--image-shape",
    type=Counts(),
    callback=_three,
    help="Channels, height and width.  [default: square images]",
)
@click.option(
    "--mapping",
    type=FILE,
    metavar="FILE.toml",
    help="Where each tensor is, for --layout mapping.",
)
@with_output
def import_command(
    out: Output,
    source: Path,
    layout: str,
    output: Path,
    routing_iterations: int | None,
    image_shape: tuple[int, int, int] | None,
    mapping: Path | None,
) -> None:
    """Make a checkpoint of weights that another project trained.

    The network computes what that project's code does; an export of it is proven against that.
    """
    from rich.markup import escape

    from capsnet.checkpoint import save_checkpoint
    from capsnet.documents import to_values
    from capsnet.importers.reading import import_network
    from capsnet.importers.weights import Given

    if (layout == "mapping") != (mapping is not None):
        raise click.UsageError("--mapping FILE.toml and --layout mapping go together")
    given = Given(routing_iterations, image_shape, mapping)
    model, assumed = import_network(layout, source, given)
    project = LAYOUTS[layout].project
    origin = {"project": project, "assumed": list(assumed)}
    save_checkpoint(model, output, training={"imported": origin})
    out.write_json({"output": output.name, **origin, "config": to_values(model.config)})
    shape = "x".join(map(str, model.config.image_shape))
    out.console.print(
        f"[bold]{escape(str(output))}[/]: a network of {project} for images of {shape}, "
        f"{model.config.classes} classes"
    )
    for words in assumed:
        out.console.print(f"assumed: {escape(words)}")
