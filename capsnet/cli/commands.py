"""The commands of the command line."""

import click

from capsnet.cli.bench import bench_command
from capsnet.cli.config import config_command
from capsnet.cli.deploy import deploy_command
from capsnet.cli.doctor import doctor_command
from capsnet.cli.export import export_command
from capsnet.cli.import_ import import_command
from capsnet.cli.inspect import inspect_command
from capsnet.cli.predict import predict_command
from capsnet.cli.serve import serve_command
from capsnet.cli.show import show_command
from capsnet.cli.train import train_command
from capsnet.cli.verify import verify_command

__all__ = ["cli"]


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="capsnet-export", prog_name="capsnet")
def cli() -> None:
    """Capsule networks, from readable PyTorch to a proven production artifact."""


for _command in (
    export_command,
    verify_command,
    inspect_command,
    predict_command,
    serve_command,
    deploy_command,
    bench_command,
    show_command,
    train_command,
    import_command,
    config_command,
    doctor_command,
):
    cli.add_command(_command)
