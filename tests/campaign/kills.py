"""Commands that are killed at random moments, and what they leave."""

import os
import random
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from campaign.commands import CAPSNET, HANG, Ended, capsnet, end, environment, outliving, start
from campaign.tally import Tally
from capsnet.checkpoint import load_checkpoint

__all__ = ["Victim", "kill", "kills", "problems", "victims"]

_SIGNALS = (signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT)
_OUTLIVES = 10.0  # seconds that a child may take to end after its parent
_IMAGES = 20_000  # their predictions take about a second
_TEMPORARY = ".capsnet-"


@dataclass
class Victim:
    """A command in a folder of its own, which goes on until it has done its work.

    Attributes:
        here: its folder, with what it reads.
        arguments: of the command.
        outputs: the files that it writes, whole or not at all.
        continues: the end of the name of the file that an interrupted run leaves; with it, the
            command is given ``--resume``.
        improves: whether the first output is replaced by better ones until the end.
        weight: how often it is chosen.
        program: the command itself.
    """

    here: Path
    arguments: tuple[str, ...]
    outputs: tuple[str, ...]
    continues: str = ""
    improves: bool = False
    weight: int = 1
    program: tuple[str, ...] = CAPSNET
    known: set[str] = field(default_factory=set)
    whole: dict[str, bytes] = field(default_factory=dict)
    seconds: float = 0.0

    def command(self) -> tuple[str, ...]:
        """The arguments of the next run."""
        return (*self.arguments, *(("--resume",) if self.interrupted() else ()))

    def interrupted(self) -> bool:
        """Whether there is something to continue."""
        return bool(self.continues) and (self.here / (self.outputs[0] + self.continues)).exists()

    def undisturbed(self) -> Ended:
        """Run to the end once, and remember how long that takes and what it writes."""
        started = time.monotonic()
        done = capsnet(self.here, *self.command(), env=self.variables())
        self.seconds = time.monotonic() - started
        if done.code == 0:
            self.whole = {name: (self.here / name).read_bytes() for name in self.outputs}
            self.known = self.files()  # libraries keep files in the temporary folder
            self.clear()
        return done

    def files(self) -> set[str]:
        """Names of everything in the folder, and in its temporary folder."""
        return {path.relative_to(self.here).as_posix() for path in self.here.rglob("*")}

    def clear(self) -> None:
        """Remove the outputs, so that the next run begins anew."""
        for name in self.outputs:
            (self.here / name).unlink(missing_ok=True)

    def variables(self, **more: str) -> dict[str, str]:
        return environment(TMPDIR=str(self.here / "tmp"), OMP_NUM_THREADS="1", **more)

    def faults(self, finished: bool) -> list[str]:
        """What is wrong with the outputs."""
        found = []
        for name in self.outputs:
            path = self.here / name
            if not path.exists():
                if finished:
                    found.append(f"{name} is missing")
            elif path.read_bytes() != self.whole[name]:
                if finished or not self.improves:
                    found.append(f"{name} is not the file of an undisturbed run")
                else:
                    load_checkpoint(path)
        return found


def victims(folder: Path, place: Path) -> list[Victim]:
    """The commands: each in a folder of its own below ``place``."""
    about = ("--checkpoint", "model.safetensors", "--images", "images.npy", "--device", "cpu")
    train = ("train", "--data", ".", "--preset", "tiny", "--batch-size", "16", "--device", "cpu")
    found = [
        Victim(
            place / "predict",
            ("predict", "model.onnx", "many.npy", "--output", "out.csv", "--device", "cpu"),
            ("out.csv",),
            continues=".partial",
            weight=9,
        ),
        Victim(
            place / "export",
            ("export", "--format", "onnx", *about, "--output", "exported.onnx"),
            ("exported.onnx", "exported.onnx.parity.json"),
        ),
        Victim(place / "verify", ("verify", "model.onnx", *about), ("model.onnx.parity.json",)),
        Victim(
            place / "train",
            (*train, "--epochs", "4", "--output", "trained.safetensors"),
            ("trained.safetensors",),
            continues=".state",
            improves=True,
        ),
    ]
    for victim in found:
        (victim.here / "tmp").mkdir(parents=True)
        for name in ("model.onnx", "model.safetensors", "images.npy"):
            shutil.copy(folder / name, victim.here)
    images = np.load(folder / "images.npy")
    np.save(place / "predict" / "many.npy", np.resize(images, (_IMAGES, *images.shape[1:])))
    draw = np.random.default_rng(0)
    for split in ("train", "t10k"):
        pixels, labels = draw.integers(0, 256, (128, 28, 28), np.uint8), np.arange(128) % 10
        for name, array in (("images-idx3", pixels), ("labels-idx1", labels.astype(np.uint8))):
            head = bytes((0, 0, 8, array.ndim)) + np.array(array.shape, ">u4").tobytes()
            (place / "train" / f"{split}-{name}-ubyte").write_bytes(head + array.tobytes())
    return found


def kills(folder: Path, place: Path, seed: int, seconds: float, fewest: int = 8) -> Tally:
    """Kill commands until the time is up, let the last run of each end, and look at what is left.

    Args:
        folder: holds the sound files.
        place: an empty folder.
        seed: of the choice of commands, signals and moments.
        seconds: to go on for.
        fewest: kills, however short the time is.
    """
    tally, random_, deadline = Tally(), random.Random(seed), time.monotonic() + seconds
    chosen = victims(folder, place)
    for victim in chosen:
        done = victim.undisturbed()
        if done.code != 0:
            tally.wrong.append(f"{victim.here.name}: exit {done.code}, {done.errors[-300:]!r}")
            return tally
    last = sum(victim.seconds for victim in chosen)  # the runs at the end
    weights = [victim.weight for victim in chosen]
    while time.monotonic() < deadline - last or tally.cases < fewest:
        [victim] = random_.choices(chosen, weights)
        kill(victim, random_.choice(_SIGNALS), random_.random() * victim.seconds, tally)
    for victim in chosen:
        _let_end(victim, tally)
    return tally


def kill(victim: Victim, number: int, wait: float, tally: Tally) -> None:
    """Send a signal to a command some seconds after its start, and look at what it leaves."""
    name = victim.here.name
    before, mark = victim.files(), f"capsnet_campaign_{os.getpid()}_{tally.cases}"
    continued = victim.interrupted()
    child = start(
        victim.here,
        *victim.command(),
        command=victim.program,
        env=victim.variables(CAMPAIGN=mark),
        stdout=subprocess.DEVNULL,
    )
    started = time.monotonic()
    try:
        child.wait(wait)
        victim.seconds = min(victim.seconds, time.monotonic() - started)
        missed = True
    except subprocess.TimeoutExpired:
        child.send_signal(number)
        missed = False
    ended = end(child, HANG)
    if not missed:
        tally.cases += 1
        tally.outcomes[f"{name} killed"] += 1
        tally.outcomes["of a run that was being continued"] += continued
    what = f"{name}, {signal.Signals(number).name} after {wait:.2f} s"
    found = problems(ended, 0 if missed else number)
    if ended.code == 0:
        tally.outcomes[f"{name} finished"] += 1
    found += victim.faults(finished=ended.code == 0)
    if outliving(mark, _OUTLIVES):
        found.append(f"a child still runs after {_OUTLIVES:.0f} s")
    new = {path for path in victim.files() - before if _TEMPORARY in path}
    if new and number != signal.SIGKILL:
        found.append(f"it left {', '.join(sorted(new))}")
    tally.wrong += [f"{what}: {problem}" for problem in found]
    if ended.code == 0:
        victim.clear()


def problems(ended: Ended, number: int) -> list[str]:
    """What is wrong with the end of a process that was sent a signal (0: none)."""
    said = ended.errors.decode(errors="replace")
    if ended.code is None:
        return [f"it still ran {HANG:.0f} s later"]
    found = []
    if ended.code not in ((0, 128 + number) if number else (0,)):
        found.append(f"exit {ended.code}: {said[:1000]} ... {said[-300:]}")
    # Before the command's own code, Python answers Ctrl-C: with a traceback, and 130 all the same.
    own = "in main\n" in said or "KeyboardInterrupt" not in said
    if "Traceback" in said and own:
        found.append(f"a traceback: {said[-1000:]}")
    return found


def _let_end(victim: Victim, tally: Tally) -> None:
    """The next run: it ends what was begun, and leaves nothing but its outputs."""
    done = capsnet(victim.here, *victim.command(), env=victim.variables())
    name = victim.here.name
    if done.code != 0:
        tally.wrong.append(f"{name}: the next run: exit {done.code}, {done.errors[-300:]!r}")
        return
    tally.wrong += [f"{name}: the next run: {fault}" for fault in victim.faults(finished=True)]
    left = victim.files() - victim.known
    if left:
        tally.wrong.append(f"{name}: left behind: {', '.join(sorted(left)[:5])}")
