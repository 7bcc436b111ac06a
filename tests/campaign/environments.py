"""Commands where something about the machine is unusual; each has its documented exit code."""

import functools
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from campaign.commands import Ended, capsnet, end, environment, start
from campaign.tally import Tally

__all__ = ["Room", "environments"]

_ABOUT = ("--checkpoint", "model.safetensors", "--images", "images.npy", "--device", "cpu")
_PREDICT = ("predict", "model.onnx", "images.npy", "--device", "cpu")
_MANY = ("predict", "model.onnx", "many.npy", "--device", "cpu")
_VERIFY = ("verify", "model.onnx", *_ABOUT)
_EXPORT = ("export", "--format", "onnx", *_ABOUT)
_UNPROVEN = ("export", "--format", "onnx", *_ABOUT[:2], "--no-verify")
_MIB = 2**20

# Ctrl-C when a module is imported: the code that runs is that of the installed command.
_INTERRUPTED = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from capsnet.cli.main import main
main()
"""
_LITTLE = """
import os, resource, sys
if "capsnet.runtime.proof.fresh" in sys.orig_argv:
    resource.setrlimit(resource.RLIMIT_AS, (int(os.environ["LIMIT"]),) * 2)
"""


class Room:
    """A folder with sound files in which commands run, one after the other.

    Args:
        here: the folder.
        tally: of what comes of them.
    """

    def __init__(self, here: Path, tally: Tally) -> None:
        self.here, self.tally = here, tally

    def check(self, what: str, codes: tuple[int, ...], *arguments: str, **options: object) -> Ended:
        """Run a command that must end with one of these codes, and with words where it fails."""
        ended = capsnet(self.here, *arguments, **options)
        self.judge(what, codes, ended)
        return ended

    def meddle(
        self, what: str, codes: tuple[int, ...], action: Callable[[], None] | None, *arguments: str
    ) -> None:
        """Do something when a command has written its first line, and waits for its reader.

        None closes the pipe.
        """
        child = start(self.here, *arguments)
        assert child.stdout is not None
        child.stdout.readline()
        if action is None:
            child.stdout.close()
            child.stdout = None
        else:
            action()
        self.judge(what, codes, end(child))

    def judge(self, what: str, codes: tuple[int, ...], ended: Ended) -> None:
        self.tally.cases += 1
        self.tally.outcomes[f"exit {ended.code}"] += 1
        said = ended.errors.decode(errors="replace")
        wrong = self.tally.wrong
        if ended.code not in codes:
            wrong.append(f"{what}: exit {ended.code}, expected {codes}: {said[-300:]}")
        elif ended.code in (1, 2, 3, 4) and "rror: " not in said:
            wrong.append(f"{what}: exit {ended.code} without a message: {said[-300:]}")
        if "Traceback" in said:
            wrong.append(f"{what}: a traceback: {said[-500:]}")
        if b"\x1b" in ended.output + ended.errors:
            wrong.append(f"{what}: a terminal escape")
        left = sorted(path.name for path in self.here.rglob("*.capsnet-*"))
        if left:
            wrong.append(f"{what}: left behind: {', '.join(left)}")

    def content(self, name: str) -> bytes:
        """The bytes of a file; none where it is missing."""
        path = self.here / name
        return path.read_bytes() if path.exists() else b""

    def same(self, what: str, found: bytes, expected: bytes) -> None:
        """These bytes must not depend on the environment."""
        if found != expected:
            self.tally.wrong.append(f"{what}: other bytes")

    def skip(self, what: str) -> None:
        """This machine cannot do it."""
        self.tally.outcomes[f"skipped: {what}"] += 1


def environments(folder: Path, place: Path) -> Tally:
    """Run commands in all environments; it is a fixed list.

    Args:
        folder: holds the sound files.
        place: an empty folder.
    """
    tally = Tally()
    for part in _PARTS:
        room = Room(place / part.__name__, tally)
        shutil.copytree(folder, room.here)
        part(room)
    return tally


def _variables(room: Room) -> None:
    """The same bytes whatever the variables, the umask and the user."""
    predicted = room.check("as it is", (0,), *_PREDICT).output
    odd = {
        "ASCII output": {"PYTHONIOENCODING": "ascii", "LC_ALL": "C"},
        "another locale": {"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8"},
        "another time zone": {"TZ": "Pacific/Chatham"},
        "another hash seed": {"PYTHONHASHSEED": "12345"},
        "a home that is not there": {"HOME": "/nonexistent"},
    }
    for what, changes in odd.items():
        found = room.check(what, (0,), *_PREDICT, env=environment(**changes))
        room.same(what, found.output, predicted)
    nothing = {k: v for k, v in environment().items() if k in ("PATH", "PYTHONPATH")}
    room.same("no home", room.check("no home", (0,), *_PREDICT, env=nothing).output, predicted)
    changes = {name: value for given in odd.values() for name, value in given.items()}
    options = {"env": environment(**changes), "umask": 0o077}
    room.check("all of them, export", (0,), *_EXPORT, "--output", "odd.onnx", **options)
    room.same("all of them, export", room.content("odd.onnx"), room.content("model.onnx"))
    room.check("umask 777", (0,), *_PREDICT, "--output", "a.csv", umask=0o777)
    strange = os.fsdecode(b"mod\xe9l\xff")
    for suffix in (".onnx", ".npy", ".safetensors"):
        name = "images" if suffix == ".npy" else "model"
        shutil.copy(room.here / f"{name}{suffix}", room.here / f"{strange}{suffix}")
    predict = ("predict", f"{strange}.onnx", f"{strange}.npy", "--output", f"{strange}.csv")
    room.check("names that are not UTF-8, predict", (0,), *predict)
    verify = ("verify", f"{strange}.onnx", "--checkpoint", f"{strange}.safetensors")
    room.check("names that are not UTF-8, verify", (0,), *verify, "--images", f"{strange}.npy")
    room.check("names that are not UTF-8, inspect", (3,), "inspect", f"{strange}.none")
    room.check("a name with terminal escapes, missing", (3,), "inspect", "b\x1b[2J.onnx")


def _streams(room: Room) -> None:
    """Standard streams that are closed, full, or left by their reader."""
    images = np.load(room.here / "images.npy")
    np.save(room.here / "many.npy", np.resize(images, (4000, *images.shape[1:])))

    def close(number: int) -> dict[str, object]:
        given = {0: "stdin", 1: "stdout", 2: "stderr"}[number]
        return {"preexec_fn": lambda: os.close(number), given: None}

    room.check("standard output closed", (3,), *_PREDICT, **close(1))
    room.check("standard output closed, JSON", (3,), *_VERIFY, "--json", "-", **close(1))
    room.check("standard output closed, a file", (0,), *_PREDICT, "--output", "a.csv", **close(1))
    room.check("standard input closed", (0,), *_PREDICT, **close(0))
    room.check("standard input closed, verify", (0,), *_VERIFY, **close(0))
    room.check("standard error closed", (0,), *_PREDICT, **close(2))
    room.meddle("a closed pipe", (141,), None, *_MANY)
    if Path("/dev/full").exists():
        with Path("/dev/full").open("wb") as full:
            room.check("a full disk under standard output", (3,), *_PREDICT, stdout=full)
            room.check("a full disk under the help", (3,), "--help", stdout=full)


def _folders(room: Room) -> None:
    """Folders that are gone, missing, no folders, or not to be written."""

    def leave() -> None:
        gone = Path(tempfile.mkdtemp(dir=room.here))
        os.chdir(gone)
        gone.rmdir()

    there = [str(room.here / word) if "." in word else word for word in _VERIFY]
    for command in (_PREDICT, _VERIFY, _EXPORT, ("inspect", "model.pt2"), there):
        what = f"a deleted working folder, {command[0]}"
        room.check(what, (3,), *command, preexec_fn=leave)
    for output in ("none/a.csv", "images.npy/a.csv", "/proc/a.csv", "/sys/a.csv", "."):
        room.check(f"output {output}", (3,), *_PREDICT, "--output", output)
    python = (sys.executable, "-m", "capsnet")
    if os.getuid() == 0:  # permissions do not bind root unless it gives up its privilege
        if shutil.which("setpriv") is None:
            room.skip("a read-only folder")
            return
        python = ("setpriv", "--bounding-set", "-dac_override", *python)
    room.here.chmod(0o555)
    try:
        for command in ((*_PREDICT, "--output", "a.csv"), _VERIFY, _EXPORT):
            room.check(f"a read-only folder, {command[0]}", (3,), *command, command=python)
        room.check("a read-only folder, standard output", (0,), *_PREDICT, command=python)
    finally:
        room.here.chmod(0o755)


def _disks(room: Room) -> None:
    """Disks that are full."""
    commands = {
        "predict": (*_PREDICT, "--output"),
        "export": (*_UNPROVEN, "--output"),
    }
    for name, command in commands.items():
        limit = functools.partial(resource.setrlimit, resource.RLIMIT_FSIZE, (1024, 1024))
        room.check(f"a limit on sizes, {name}", (3,), *command, "full", preexec_fn=limit)
        if (room.here / "full").exists():
            room.tally.wrong.append(f"a limit on sizes, {name}: a file that is not whole")
    if Path("/dev/full").exists():
        room.check("a full device, predict", (3,), *commands["predict"], "/dev/full")
    disk = room.here / "disk"
    disk.mkdir()
    mount = ("mount", "-t", "tmpfs", "-o", "size=4k,mode=777", "tmpfs", str(disk))
    try:
        mounted = subprocess.run(mount, capture_output=True, check=False).returncode == 0
    except OSError:
        mounted = False
    if not mounted:
        room.skip("a full file system")
        return
    try:
        for name, command in commands.items():
            room.check(f"a full file system, {name}", (3,), *command, "disk/a")
            if (disk / "a").exists():
                room.tally.wrong.append(f"a full file system, {name}: a file that is not whole")
            for path in disk.iterdir():  # predictions that can be continued when there is space
                path.unlink()
    finally:
        subprocess.run(("umount", str(disk)), capture_output=True, check=False)


def _memory(room: Room) -> None:
    """Too little memory, in the command and in the process that verifies."""
    for command, sizes in ((_PREDICT, (128, 210, 230, 512)), (_VERIFY, (256, 1024))):
        for size in sizes:
            limit = functools.partial(
                resource.setrlimit, resource.RLIMIT_AS, (size * _MIB, size * _MIB)
            )
            what = f"{size} MiB of memory, {command[0]}"
            room.check(what, (0, 3), *command, preexec_fn=limit)
    little = room.here / "little"
    little.mkdir()
    (little / "sitecustomize.py").write_text(_LITTLE)
    usual = environment()["PYTHONPATH"]
    for size in (128, 256, 512, 1536):
        variables = environment(PYTHONPATH=f"{little}:{usual}", LIMIT=str(size * _MIB))
        room.check(f"{size} MiB for the verifying process", (0, 3), *_VERIFY, env=variables)


def _pipes(room: Room) -> None:
    """FIFOs and devices in the place of every file."""
    os.mkfifo(room.here / "pipe")
    (room.here / "pipes").mkdir()
    os.mkfifo(room.here / "pipes" / "a.png")
    os.mkfifo(room.here / "pipes" / "train-images-idx3-ubyte")
    for name in ("pipe", "/dev/zero"):
        room.check(f"{name} as artifact, inspect", (3,), "inspect", name)
        room.check(f"{name} as artifact, verify", (3,), "verify", name, *_ABOUT)
        room.check(f"{name} as images, predict", (3,), "predict", "model.onnx", name)
        room.check(f"{name} as output", (3,), *_PREDICT, "--output", name)
    for what, arguments in {
        "artifact, predict": ("predict", "pipe", "images.npy"),
        "checkpoint, verify": ("verify", "model.onnx", "--checkpoint", "pipe"),
        "checkpoint, export": ("export", "--format", "onnx", "--checkpoint", "pipe"),
        "images, verify": (*_VERIFY[:4], "--images", "pipe"),
    }.items():
        room.check(f"a pipe as {what}", (3,), *arguments)
    room.check("a pipe in a folder", (3,), "predict", "model.onnx", "pipes")
    room.check("a pipe to train with", (3,), "train", "--data", "pipes", "--output", "a")
    (room.here / "model.onnx.parity.json").unlink()
    os.mkfifo(room.here / "model.onnx.parity.json")
    room.check("a pipe as certificate", (3,), *_PREDICT, "--certified")
    (room.here / "a.csv.partial").symlink_to("images.npz")
    room.check("a link in the partial file's place", (3,), *_PREDICT, "--output", "a.csv")


def _overwriting(room: Room) -> None:
    """Outputs that are inputs, or one another: refused before anything is written."""
    here = room.here
    (here / "link").symlink_to("model.safetensors")
    (here / "hard.npy").hardlink_to(here / "images.npy")
    (here / "digits").mkdir()
    shutil.copy(here / "image.png", here / "digits" / "1.png")
    before = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    train = ("train", "--data", "digits", "--init", "model.safetensors", "--output")
    for arguments in (
        (*_EXPORT, "--output", "model.safetensors"),
        (*_EXPORT, "--output", "link"),
        (*_EXPORT, "--output", "hard.npy"),
        (*_EXPORT, "--output", "digits/../model.safetensors"),
        (*_EXPORT, "--json", "model.safetensors"),
        (*_EXPORT, "--output", "new", "--json", "new.parity.json"),
        (*_VERIFY, "--json", "model.onnx"),
        (*_VERIFY, "--json", "link"),
        (*_VERIFY, "--report", "images.npy"),
        (*_VERIFY, "--report", "new", "--json", "./new"),
        ("inspect", "model.onnx", "--json", "model.onnx"),
        (*_PREDICT, "--output", "hard.npy"),
        (*_PREDICT, "--output", "model.onnx"),
        ("predict", "model.onnx", "digits", "--output", "digits/1.png"),
        (*_PREDICT, "--output", "new", "--json", "new.partial"),
        (*train, "model.safetensors"),
        (*train, "new", "--json", "new.state"),
        ("bench", "model.onnx", *_ABOUT, "--csv", "model.onnx"),
    ):
        room.check(f"overwriting: {' '.join(arguments)}", (2,), *arguments)
    after = {path: path.read_bytes() for path in here.rglob("*") if path.is_file()}
    if after != before:
        room.tally.wrong.append("overwriting: a file was written all the same")


def _changing(room: Room) -> None:
    """Files that are removed or cut off while they are read."""
    here, folder = room.here, room.here / "digits"
    images = np.load(here / "images.npy")
    many = np.resize(images, (80_000, *images.shape[1:]))  # more than is gathered at once
    for name, array in (("many.npy", many), ("turned.npy", np.asfortranarray(many))):
        np.save(here / name, array)
        cut = functools.partial(os.truncate, here / name, 200_000)
        room.meddle(f"{name} is cut off", (3,), cut, "predict", "model.onnx", name)
    np.save(here / "many.npy", many[:4000])
    room.meddle("an array is removed", (0,), (here / "many.npy").unlink, *_MANY)
    folder.mkdir()
    for number in range(3000):
        os.link(here / "image.png", folder / f"{number}.png")
    removed = functools.partial(shutil.rmtree, folder)
    room.meddle("images are removed", (3,), removed, "predict", "model.onnx", "digits")
    for name, wait in (("images.npy", 0.5), ("model.safetensors", 0.8), ("model.onnx", 0.8)):
        child = start(here, *_VERIFY)
        time.sleep(wait)
        content = (here / name).read_bytes()
        (here / name).unlink()
        room.judge(f"{name} is removed in verify", (0, 3), end(child))
        (here / name).write_bytes(content)


def _documents(room: Room) -> None:
    """Certificates and metadata that were made to do harm, on the command line."""
    certificate = room.here / "model.onnx.parity.json"
    certified = (*_PREDICT, "--certified")
    room.check("a certificate", (0,), *certified)
    sound = certificate.read_text()
    for what, text in {
        "nested deeply": "[" * 200_000,
        "objects nested deeply": '{"a":' * 200_000,
        "of many digits": sound.replace('"schema_version": 1', '"schema_version": ' + "9" * 9999),
        "of a key twice": sound.replace("{", '{"verdict": "pass",', 1),
        "with terminal escapes": sound.replace(
            '"schema_version": 1', '"schema_version": "\\u001b[2J"'
        ),
    }.items():
        certificate.write_text(text)
        room.check(f"a certificate {what}", (3,), *certified)
    certificate.write_text(
        sound.replace('"environment": {', '"environment": {"\\u001b[2J": "\\u001b",')
    )
    room.check("terminal escapes in the certificate's environment", (0,), *certified)
    model = onnx.load(room.here / "model.onnx")
    for entry in model.metadata_props:
        entry.value = entry.value.replace('"exporter": "', '"exporter": "\\u001b[2J')
    model.producer_name = "\x1b[2J"
    model.graph.node[0].name = "\x1b[2J"
    onnx.save(model, room.here / "escapes.onnx")
    for command in ("inspect", "predict", "verify"):
        more = {"inspect": (), "predict": ("images.npy",), "verify": _ABOUT}[command]
        room.check(
            f"terminal escapes in metadata, {command}", (0, 3), command, "escapes.onnx", *more
        )


def _interruptions(room: Room) -> None:
    """Ctrl-C from the first moment on, at named imports."""
    imports = {
        _PREDICT: ("capsnet.cli.streams", "click", "capsnet.cli.commands", "numpy", "onnxruntime"),
        _EXPORT: ("capsnet.jobs", "torch", "torch._dynamo", "safetensors", "onnx", "onnxscript"),
        _VERIFY: ("capsnet.runtime.proof.fresh", "rich.table"),
    }
    for arguments, modules in imports.items():
        for module in modules:
            command = (sys.executable, "-c", _INTERRUPTED.format(module=module))
            what = f"Ctrl-C when {arguments[0]} imports {module}"
            room.check(what, (130,), *arguments, command=command)


_PARTS = (
    *(_variables, _streams, _folders, _disks, _memory, _pipes, _overwriting, _changing),
    *(_documents, _interruptions),
)
