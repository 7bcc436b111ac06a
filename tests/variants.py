"""The capsule family side by side: size, speed against the export as it is written, export time.

    python -m tests.variants [--batch 1,32] [--rounds 9] [--json FILE]

Run it in the root of the source, on a machine that does nothing else. Every preset, and EM routing
in the network of ``self-routing``, with random weights but for what is bundled: exported and proven
(the time is that of ``capsnet export --format onnx``), then timed by ``capsnet bench``. It exits
with 1 where a network is slower than its own export as it is written.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch

from capsnet.bundled import BUNDLED
from capsnet.checkpoint import load_checkpoint, save_checkpoint
from capsnet.config import CapsNetConfig
from capsnet.model import CapsNet
from capsnet.presets import PRESETS

_TRAINED = {"mnist": "mnist", "efficient": "efficient-mnist"}
_PROVEN_ON = 64  # images


def configurations() -> dict[str, Mapping[str, Any]]:
    """The networks by name."""
    found = {name: values for name, values in PRESETS.items() if name != "tiny"}
    like = dict(PRESETS["self-routing"])
    convolutional = like["capsule_layers"][0] | {"layer": {"kind": "em", "capsules": 16, "pose": 4}}
    last = {"kind": "em", "capsules": 10, "pose": 4}
    return found | {"em": like | {"capsule_layers": [convolutional, last]}}


def measure(name: str, values: Mapping[str, Any], batch: str, rounds: int) -> dict[str, Any]:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        checkpoint = Path(folder, "model.safetensors")
        if name in _TRAINED:
            model = load_checkpoint(BUNDLED[_TRAINED[name]])
        else:
            torch.manual_seed(0)
            model = CapsNet(CapsNetConfig.from_dict(values)).eval()
        save_checkpoint(model, checkpoint)
        images = np.random.default_rng(0).random((_PROVEN_ON, *model.config.image_shape))
        np.save(Path(folder, "images.npy"), images.astype(np.float32))
        common = ["--checkpoint", checkpoint, "--images", Path(folder, "images.npy")]
        common += ["--device", "cpu"]
        exported = _run("export", "--format", "onnx", "--output", f"{folder}/m.onnx", *common)
        more = ["--candidate", "onnx-naive", "--candidate", "onnx"]
        speeds = _run("bench", *more, "--batch", batch, "--rounds", rounds, *common)
    results = {(row["candidate"], row["batch"]): row for row in speeds["results"]}
    sizes = [int(size) for size in batch.split(",")]
    decoder = 0 if model.decoder is None else sum(p.numel() for p in model.decoder.parameters())
    return {
        "name": name,
        "parameters": sum(p.numel() for p in model.parameters()) - decoder,
        "seconds": exported["seconds"],
        "speed": {size: results["onnx", size]["images_per_second"] for size in sizes},
        "ratio": {size: results["onnx", size]["ratios"]["onnx-naive"] for size in sizes},
    }


def _run(*arguments: object) -> dict[str, Any]:
    command = [sys.executable, "-m", "capsnet", *map(str, arguments), "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise click.ClickException(done.stderr)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@click.command()
@click.option("--batch", default="1,32", show_default=True)
@click.option("--rounds", default=9, show_default=True)
@click.option("--only", multiple=True, type=click.Choice(list(configurations())))
@click.option("--json", "file", type=click.Path(path_type=Path))
def main(batch: str, rounds: int, only: tuple[str, ...], file: Path | None) -> None:
    """Measure the networks, and print a row for each."""
    rows = []
    for name, values in configurations().items():
        if only and name not in only:
            continue
        row = measure(name, values, batch, rounds)
        rows.append(row)
        ratios = " | ".join(
            f"{row['speed'][size]:.0f} | {r['estimate']:.2f} ({r['low']:.2f}-{r['high']:.2f})"
            for size, r in row["ratio"].items()
        )
        click.echo(f"| `{name}` | {row['parameters']:,} | {ratios} | {row['seconds']:.1f} s |")
    if file is not None:
        file.write_text(json.dumps(rows, indent=2) + "\n")
    slower = [row["name"] for row in rows if any(r["high"] < 1 for r in row["ratio"].values())]
    if slower:
        raise click.ClickException(f"slower than as written: {', '.join(slower)}")


if __name__ == "__main__":
    main()
