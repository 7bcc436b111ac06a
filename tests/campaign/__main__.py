"""``python -m tests.campaign``."""

import itertools
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import click

from campaign.tally import Tally, table
from campaign.trial import Batch, try_files, work

_DAMAGE = 0.2  # of the time; the rest is for kills
_HOSTILE = 300.0  # seconds at most; far above what slow machines need


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.option("--worker", hidden=True)
def main(minutes: float, seed: int, json_file: Path | None, worker: str | None) -> None:
    """Damage files, kill processes, change the environment; print one table."""
    if worker is not None:
        _work(Batch(**json.loads(worker)))
        return
    with tempfile.TemporaryDirectory() as place:
        parts = _campaign(Path(place), minutes, seed)
    print(table(parts))
    wrong = [f"{name}: {what}" for name, tally in parts.items() for what in tally.wrong]
    for what in wrong:
        print(f"WRONG {what}")
    if json_file is not None:
        document: dict[str, object] = {"seed": seed, "minutes": minutes}
        for name, tally in parts.items():
            document[name] = {
                "cases": tally.cases,
                "outcomes": dict(tally.outcomes),
                "wrong": tally.wrong,
            }
        json_file.write_text(json.dumps(document, indent=2) + "\n", encoding="utf-8")
    sys.exit(1 if wrong else 0)


def _campaign(folder: Path, minutes: float, seed: int) -> dict[str, Tally]:
    from campaign.environments import environments
    from campaign.kills import kills
    from campaign.readers import write_sound_files

    sound = folder / "sound"
    sound.mkdir()
    write_sound_files(sound)
    damage = 60 * minutes * _DAMAGE
    parts: dict[str, Callable[[], Tally]] = {
        "damaged files": lambda: try_files(Batch("damaged", str(sound), seed, 0, damage)),
        "hostile files": lambda: try_files(Batch("hostile", str(sound), seed, 0, _HOSTILE)),
        "killed processes": lambda: kills(sound, folder / "kills", seed, 60 * minutes - damage),
        "odd environments": lambda: environments(sound, folder / "environments"),
    }
    (folder / "environments").mkdir()
    tallies = {}
    for name, part in parts.items():
        started = time.monotonic()
        tallies[name] = part()
        print(f"{name}: {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
    return tallies


def _work(batch: Batch) -> None:
    """Be the process that reads files."""
    from campaign.damage import damaged_files
    from campaign.hostile import hostile_files
    from campaign.readers import READERS, read

    folder = Path(batch.folder)
    for name in READERS:  # the sound files, so that the libraries are loaded
        read(folder / name)
    with tempfile.TemporaryDirectory() as place:
        shutil.copy(folder / "sound.onnx", place)
        if batch.part == "damaged":
            files = damaged_files(folder, list(READERS), batch.seed, batch.first)
        else:
            files = itertools.islice(hostile_files(Path(place, "canary")), batch.first, None)
        work(files, read, Path(place), batch.seconds)


if __name__ == "__main__":
    main()
