"""``capsnet config``: print a network's configuration as a file to change."""

import click

from capsnet.cli.options import Output, settings_option, with_output
from capsnet.presets import PRESETS

__all__ = ["config_command"]


@click.command("config")
@click.option("--preset", type=click.Choice(list(PRESETS)), default="mnist", show_default=True)
@settings_option
@with_output
def config_command(out: Output, preset: str, settings: tuple[str, ...]) -> None:
    """Print a network as a TOML file, with what every field means, for `capsnet train --config`."""
    from capsnet.config import preset as network
    from capsnet.config_file import changed, config_values, network_of, to_toml

    config = network_of(changed(config_values(network(preset)), settings))
    if not out.to_standard_output:
        click.echo(to_toml(config), nl=False)
    out.write_json(config_values(config))
