"""A campaign against the toolkit: damaged files, killed processes, odd environments.

    python -m tests.campaign [--minutes 1] [--seed 0] [--json FILE]

Run it in the root of the source. It prints one table of figures, and exits with 1 if anything
happened that must not: an error of an undocumented kind, a crash, a hang, too much memory, a
partial or left-over file, a traceback, a wrong exit code. The same seed gives the same mutations;
how many there are depends on the time.
"""

import collections
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import click

ROOT = Path(__file__).parents[1]
_BATCH = 200  # mutations in one process: a crash must not end the others
_HANG = 30.0  # seconds for one file
_MEMORY = 2**30  # bytes beyond the idle process
_SHARES = {"mutations": 0.6, "kills": 0.3}  # of the time; environments are a fixed list


@dataclass
class Tally:
    """What happened in one part of the campaign.

    Attributes:
        cases: how many were tried.
        outcomes: how often each expected outcome was seen.
        wrong: what must not have happened, in words.
    """

    cases: int = 0
    outcomes: collections.Counter[str] = field(default_factory=collections.Counter)
    wrong: list[str] = field(default_factory=list)


# Damaged files


def mutate(content: bytes, random_: random.Random) -> bytes:
    """Damage: bits, runs of zeros or of noise, cuts, insertions, parts that change places."""
    data = bytearray(content)
    for _ in range(random_.choice((1, 1, 1, 2, 5, 20))):
        at = random_.randrange(len(data) + 1)
        size = random_.choice((1, 2, 4, 16, 256))
        match random_.randrange(7):
            case 0 if at < len(data):
                data[at] ^= 1 << random_.randrange(8)
            case 1 if at < len(data):
                data[at] = random_.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del data[at : at + size]
            case 3:
                data[at:at] = random_.randbytes(size)
            case 4:
                data[at : at + size] = bytes(size)
            case 5:
                del data[random_.randrange(len(data) + 1) :]
            case _:
                other = random_.randrange(len(data) + 1)
                data[at : at + size] = data[other : other + size]
        if not data:
            break
    return bytes(data)


def open_artifact(path: Path) -> None:
    import numpy as np

    from capsnet.runtime.sessions.opening import open_session

    session = open_session(path, "cpu", threads=1)
    session.run(np.zeros((2, *session.metadata.image_shape), np.float32))


def open_certificate(path: Path) -> None:
    from capsnet.files import file_sha256
    from capsnet.runtime.certificate import require_certificate

    artifact = path.with_name(path.name.removesuffix(".parity.json"))
    require_certificate(artifact, file_sha256(artifact))


def open_checkpoint(path: Path) -> None:
    from capsnet.checkpoint import load_checkpoint

    load_checkpoint(path)


def open_images(path: Path) -> None:
    from capsnet.data.stream import count_images, stream_images

    count_images([path], (1, 12, 12))
    for _ in stream_images([path], (1, 12, 12)):
        pass


OPENERS: dict[str, Callable[[Path], None]] = {
    "model.onnx": open_artifact,
    "half.onnx": open_artifact,
    "int8.onnx": open_artifact,
    "model.pt": open_artifact,
    "model.pt2": open_artifact,
    "model.onnx.parity.json": open_certificate,
    "model.safetensors": open_checkpoint,
    "readable_capsnet.pt": open_checkpoint,
    "images.npy": open_images,
    "images.npz": open_images,
    "images-idx3-ubyte": open_images,
    "images-idx3-ubyte.gz": open_images,
    "image.png": open_images,
    "image.jpg": open_images,
}
"""Every kind of file that travels between people, and what reads it."""


def prepare(folder: Path) -> None:
    """Write one sound file of every kind."""
    sys.path.insert(0, str(ROOT / "tests"))
    import gzip

    import numpy as np
    import torch
    from PIL import Image
    from support.networks import SMALL, lively_model, random_images

    import capsnet
    from capsnet.checkpoint import save_checkpoint

    model, images = lively_model(SMALL), random_images(SMALL, 40)
    for name, precision in (("model", "fp32"), ("half", "fp16"), ("int8", "int8")):
        calibration = images if precision == "int8" else None
        capsnet.export_model(
            model,
            folder / f"{name}.onnx",
            precision=precision,
            images=images,
            calibration=calibration,
            device="cpu",
        )
    for name in ("model.pt", "model.pt2"):
        capsnet.export_model(model, folder / name, images=images, device="cpu")
    save_checkpoint(model, folder / "model.safetensors")
    names = {"image2primary_capsules.0": model.stem, "image2primary_capsules.2": model.primary}
    state = {f"{n}.{k}": v for n, m in names.items() for k, v in m.state_dict().items()}
    state["primary2digit_capsules.input_caps2U.weight"] = model.capsule_layers[0].weight.detach()
    torch.save(state, folder / "readable_capsnet.pt")
    pixels = (images[:, 0] * 255).astype(np.uint8)
    np.save(folder / "images.npy", images)
    np.savez_compressed(folder / "images.npz", x=pixels)
    idx = b"\0\0\x08\x03" + np.array(pixels.shape, ">u4").tobytes() + pixels.tobytes()
    (folder / "images-idx3-ubyte").write_bytes(idx)
    (folder / "images-idx3-ubyte.gz").write_bytes(gzip.compress(idx))
    Image.fromarray(pixels[0]).save(folder / "image.png")
    Image.fromarray(pixels[0]).save(folder / "image.jpg")


def work(folder: Path, name: str, seed: int) -> None:
    """Read damaged copies of one file, and say what came of each, a line of JSON each."""
    from capsnet.errors import CapsNetError

    content = (folder / name).read_bytes()
    with tempfile.TemporaryDirectory() as place:
        path = Path(place, name)
        if name.endswith(".parity.json"):
            shutil.copy(folder / name.removesuffix(".parity.json"), place)
        path.write_bytes(content)
        OPENERS[name](path)  # the sound file, so that the libraries are loaded
        idle = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        print(json.dumps({"ready": True}), flush=True)
        for number in range(_BATCH):
            random_ = random.Random(f"{name} {seed} {number}")
            path.write_bytes(mutate(content, random_))
            started = time.monotonic()
            try:
                OPENERS[name](path)
                outcome, wrong = "opened", ""
            except CapsNetError as error:
                outcome, wrong = type(error).__name__, ""
            except Exception as error:
                outcome, wrong = "undocumented error", f"{type(error).__name__}: {error}"
            seconds = time.monotonic() - started
            memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - idle
            if not wrong and seconds > _HANG:
                wrong = f"took {seconds:.0f} s"
            if not wrong and memory > _MEMORY:
                wrong = f"took {memory / 2**20:.0f} MiB"
            print(json.dumps({"outcome": outcome, "wrong": wrong, "number": number}), flush=True)


def mutations(folder: Path, seed: int, until: float) -> Tally:
    """Damaged files of every kind in turn, until the time is up."""
    tally = Tally()
    while time.monotonic() < until or tally.cases < _BATCH * len(OPENERS):
        for name in OPENERS:
            _mutate_in_process(folder, name, seed, tally)
            if time.monotonic() > until and tally.cases >= _BATCH * len(OPENERS):
                break
        seed += 1
    return tally


def _mutate_in_process(folder: Path, name: str, seed: int, tally: Tally) -> None:
    command = [sys.executable, "-m", "tests.campaign", "--worker", f"{folder}:{name}:{seed}"]
    with tempfile.TemporaryFile() as errors:
        child = subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=errors, text=True
        )
        try:
            output, _ = child.communicate(timeout=_BATCH + 2 * _HANG)
        except subprocess.TimeoutExpired:
            child.kill()
            output, _ = child.communicate()
            tally.wrong.append(f"{name}, seed {seed}: a process hung")
    lines = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    done = [line for line in lines if "outcome" in line]
    tally.cases += len(done)
    tally.outcomes.update(line["outcome"] for line in done)
    for line in done:
        if line["wrong"]:
            tally.wrong.append(f"{name}, seed {seed}, number {line['number']}: {line['wrong']}")
    if child.returncode != 0:
        tally.wrong.append(
            f"{name}, seed {seed}, number {len(done)}: the process ended with {child.returncode}"
        )


# Killed processes


def kills(folder: Path, seed: int, until: float, fewest: int = 4) -> Tally:
    """Commands that are killed at random moments, and what they leave."""
    tally, random_ = Tally(), random.Random(seed)
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        for name in ("model.onnx", "model.safetensors", "images.npy"):
            shutil.copy(folder / name, here)
        commands = {
            "predictions.csv": ("predict", "model.onnx", "images.npy", "--resume", "--output"),
            "exported.onnx": (
                *("export", "--format", "onnx", "--checkpoint", "model.safetensors"),
                *("--images", "images.npy", "--device", "cpu", "--output"),
            ),
        }
        whole: dict[str, bytes] = {}
        longest: dict[str, float] = {}
        for name, arguments in commands.items():
            started = time.monotonic()
            _capsnet(here, *arguments, name)
            longest[name] = time.monotonic() - started
            whole[name] = (here / name).read_bytes()
        files = {path.name for path in here.iterdir()}
        while time.monotonic() < until or tally.cases < fewest:
            name = random_.choice([*commands, "predictions.csv"])
            number = random_.choice((signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGINT))
            wait = random_.random() * longest[name]
            _kill_one(here, (*commands[name], name), number, wait, tally)
            tally.cases += 1
            if (here / name).read_bytes() != whole[name]:
                tally.wrong.append(f"{name}: not the whole file after signal {number}")
        for name, arguments in commands.items():  # the next run that meets what was left
            done = _capsnet(here, *arguments, name)
            if done.returncode != 0:
                tally.wrong.append(f"{name}: the next run ended with {done.returncode}")
        left = sorted({path.name for path in here.iterdir()} - files)
        if left:
            tally.wrong.append(f"left behind: {', '.join(left[:5])}")
    return tally


def _kill_one(
    here: Path, arguments: tuple[str, ...], number: int, wait: float, tally: Tally
) -> None:
    child = subprocess.Popen(
        [sys.executable, "-m", "capsnet", *arguments],
        cwd=here,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        env=_environment(),
    )
    time.sleep(wait)
    child.send_signal(number)
    try:
        _, errors = child.communicate(timeout=_HANG)
    except subprocess.TimeoutExpired:
        child.kill()
        child.communicate()
        tally.wrong.append(f"{arguments[0]} hung after signal {number}")
        return
    if b"Traceback" in errors and b"capsnet" not in errors:
        tally.outcomes["ended while Python itself started"] += 1
        return
    # A process that dies of a signal has, in a shell, the code that ours exits with after one.
    code = 128 - child.returncode if child.returncode < 0 else child.returncode
    tally.outcomes[f"exit {code}"] += 1
    if code not in (0, 128 + number, 128 + signal.SIGINT):
        tally.wrong.append(f"{arguments[0]}: signal {number} gave exit {code}")
    if b"Traceback" in errors:
        tally.wrong.append(f"{arguments[0]}: signal {number} gave a traceback")


def _environment(**changes: str) -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT)} | changes


def _capsnet(here: Path, *arguments: str, **options: object) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-m", "capsnet", *arguments],
        cwd=here,
        capture_output=True,
        check=False,
        **({"env": _environment()} | options),
    )


# Odd environments


def environments(folder: Path) -> Tally:
    """Commands where something about the machine is unusual; each has its documented exit code."""
    tally = Tally()
    for what, expected, code, errors in _odd(folder):
        tally.cases += 1
        tally.outcomes[f"exit {code}"] += 1
        if code not in expected:
            tally.wrong.append(f"{what}: exit {code}, expected {expected}")
        if b"Traceback" in errors:
            tally.wrong.append(f"{what}: a traceback")
    return tally


def _odd(folder: Path) -> Iterator[tuple[str, tuple[int, ...], int, bytes]]:
    predict = ("predict", "model.onnx", "images.npy")
    with tempfile.TemporaryDirectory() as place:
        here = Path(place)
        for name in ("model.onnx", "model.safetensors", "images.npy"):
            shutil.copy(folder / name, here)

        def run(
            what: str, expected: tuple[int, ...], *arguments: str, **options: object
        ) -> tuple[str, tuple[int, ...], int, bytes]:
            done = _capsnet(here, *arguments, **options)
            return what, expected, done.returncode, done.stderr

        for name, changes in {
            "ASCII output": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
            "another locale": {"LC_ALL": "tr_TR.UTF-8"},
            "another time zone": {"TZ": "Pacific/Chatham"},
            "no home": {"HOME": "/nonexistent"},
            "another hash seed": {"PYTHONHASHSEED": "12345"},
        }.items():
            yield run(name, (0,), *predict, env=_environment(**changes))
        yield run("umask 077", (0,), *predict, "--output", "a.csv", umask=0o077)
        strange = here / os.fsdecode(b"im\xe9g\xffs.npy")
        shutil.copy(here / "images.npy", strange)
        yield run("a name that is not UTF-8", (0,), "predict", "model.onnx", strange.name)
        yield run("a missing folder", (3,), *predict, "--output", "none/a.csv")
        yield run("a file for a folder", (3,), *predict, "--output", "images.npy/a.csv")
        yield run(
            "a full disk",
            (3,),
            *("export", "--format", "onnx", "--checkpoint", "model.safetensors"),
            *("--images", "images.npy", "--no-verify", "--output", "full.onnx"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
        )
        yield run(
            "too little memory",
            (3,),
            *("verify", "model.onnx", "--checkpoint", "model.safetensors"),
            *("--images", "images.npy"),
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (2**28, 2**28)),
        )
        fifo = here / "fifo"
        os.mkfifo(fifo)
        for arguments in (("inspect", "fifo"), ("predict", "model.onnx", "fifo")):
            yield run(f"a FIFO for {arguments[0]}", (3,), *arguments, timeout=_HANG)


def table(parts: dict[str, Tally]) -> str:
    """The figures, as Markdown."""
    lines = ["| part | cases | outcomes | wrong |", "|---|---|---|---|"]
    for name, tally in parts.items():
        seen = ", ".join(f"{count} {what}" for what, count in tally.outcomes.most_common())
        lines.append(f"| {name} | {tally.cases} | {seen} | {len(tally.wrong)} |")
    return "\n".join(lines)


@click.command()
@click.option("--minutes", type=click.FloatRange(min=0), default=1.0, show_default=True)
@click.option("--seed", type=int, default=0, show_default=True)
@click.option("--json", "json_file", type=click.Path(path_type=Path))
@click.option("--worker", hidden=True)
def main(minutes: float, seed: int, json_file: Path | None, worker: str | None) -> None:
    """Damage files, kill processes, change the environment; print one table."""
    if worker is not None:
        folder, name, number = worker.rsplit(":", 2)
        work(Path(folder), name, int(number))
        return
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        prepare(folder)
        started, seconds = time.monotonic(), 60 * minutes
        parts = {
            "damaged files": mutations(folder, seed, started + _SHARES["mutations"] * seconds),
        }
        parts["killed processes"] = kills(
            folder, seed, time.monotonic() + _SHARES["kills"] * seconds
        )
        parts["odd environments"] = environments(folder)
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


if __name__ == "__main__":
    main()
