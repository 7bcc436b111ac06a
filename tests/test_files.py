"""Files appear whole or not at all."""

import errno
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from capsnet.errors import OutputError
from capsnet.files import atomic_path, check_writable, clash, file_sha256, lock, sweep


@pytest.fixture(params=[None, "earlier"], ids=["new", "replacing"])
def target(tmp_path, request):
    """A file to write, with or without an earlier one in its place."""
    path = tmp_path / "model.onnx"
    if request.param:
        path.write_text(request.param)
    return path


def write(target, content="later", then=lambda _: None):
    with atomic_path(target) as temporary:
        temporary.write_text(content)
        then(temporary)


def raise_(error):
    def fail(*args, **options):
        raise error

    return fail


def snapshot(target):
    """Every file of the folder, temporary ones too, with its content."""
    return {p.name: p.read_text() for p in target.parent.iterdir()}


def test_a_block_that_ends_well_leaves_its_file_and_nothing_else(target):
    write(target)
    assert snapshot(target) == {target.name: "later"}


def test_the_temporary_file_is_beside_the_target_with_its_suffix(target):
    before = snapshot(target)
    with atomic_path(target) as temporary:
        assert temporary != target
        assert temporary.parent == target.parent
        assert temporary.suffix == target.suffix
        temporary.write_text("later")
        assert before.get(target.name) == (target.read_text() if target.exists() else None)


@pytest.mark.parametrize("error", [ValueError("no"), KeyboardInterrupt(), SystemExit(3)])
def test_an_exception_in_the_block_passes_through_and_changes_nothing(target, error):
    before = snapshot(target)
    with pytest.raises(type(error)) as raised:
        write(target, "half", then=raise_(error))
    assert raised.value is error
    assert snapshot(target) == before


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace", "os.open"])
def test_a_full_disk_is_one_error_that_names_the_target_and_changes_nothing(
    target, monkeypatch, call
):
    before = snapshot(target)
    monkeypatch.setattr(call, raise_(OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))))
    with pytest.raises(OutputError, match=f"{re.escape(str(target))}: No space left on device"):
        write(target)
    monkeypatch.undo()
    assert snapshot(target) == before


def test_a_write_that_fails_in_the_block_is_one_error(target):
    before = snapshot(target)
    with pytest.raises(OutputError, match="No space left"):
        write(target, then=lambda _: Path("/dev/full").write_text("x" * 100_000))
    assert snapshot(target) == before


def test_a_block_that_removes_its_file_is_an_error(target):
    before = snapshot(target)
    with pytest.raises(OutputError, match="No such file"):
        write(target, then=Path.unlink)
    assert snapshot(target) == before


def test_a_missing_folder_is_an_error(tmp_path):
    with pytest.raises(OutputError, match="No such file or directory; choose a folder that exists"):
        write(tmp_path / "absent" / "model.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_folder_or_a_pipe_is_not_replaced(tmp_path):
    folder, pipe = tmp_path / "folder", tmp_path / "pipe"
    folder.mkdir()
    os.mkfifo(pipe)
    with pytest.raises(OutputError, match="it is a folder; give the name of a file"):
        write(folder)
    with pytest.raises(OutputError, match="it is a device or a pipe"):
        write(pipe)
    assert folder.is_dir()
    assert pipe.is_fifo()
    assert len(list(tmp_path.iterdir())) == 2


def test_checking_that_a_file_can_be_written_changes_nothing(target):
    before = snapshot(target)
    check_writable(target)
    assert snapshot(target) == before


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("absent/page.html", "No such file or directory; choose a folder that exists"),
        ("file/page.html", "Not a directory"),
        ("folder", "it is a folder; give the name of a file"),
    ],
)
def test_a_file_that_cannot_be_written_is_noticed_before_the_work(tmp_path, name, match):
    (tmp_path / "folder").mkdir()
    (tmp_path / "file").touch()
    with pytest.raises(OutputError, match=f"{re.escape(str(tmp_path / name))}: .*{match}"):
        check_writable(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_a_folder_without_permission_is_noticed_before_the_work(tmp_path, monkeypatch):
    denied = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    monkeypatch.setattr("os.open", raise_(denied))
    with pytest.raises(OutputError, match="Permission denied; choose a folder"):
        check_writable(tmp_path / "page.html")


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_permissions_are_those_of_a_plain_open(tmp_path, mask):
    earlier = os.umask(mask)
    try:
        write(tmp_path / "atomic")
        (tmp_path / "plain").write_text("plain")
        assert os.umask(mask) == mask  # reading the mask has not changed it
    finally:
        os.umask(earlier)
    assert (tmp_path / "atomic").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_the_file_is_synced_before_it_is_renamed(tmp_path, monkeypatch):
    calls = []
    replace, fsync = Path.replace, os.fsync
    monkeypatch.setattr("os.fsync", lambda file: (calls.append("sync"), fsync(file)))
    monkeypatch.setattr(
        Path, "replace", lambda self, target: (calls.append("rename"), replace(self, target))
    )
    write(tmp_path / "model.onnx")
    assert calls == ["sync", "rename"]


def test_the_digest_is_that_of_the_bytes(tmp_path):
    path = tmp_path / "bytes"
    path.write_bytes(b"capsule" * 100_000)
    assert file_sha256(path) == hashlib.sha256(b"capsule" * 100_000).hexdigest()


def test_a_symbolic_link_stays_one_and_its_file_is_written(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "model.onnx").write_text("earlier")
    link = tmp_path / "model.onnx"
    link.symlink_to(tmp_path / "real" / "model.onnx")
    write(link)
    assert link.is_symlink()
    assert (tmp_path / "real" / "model.onnx").read_text() == "later"
    assert [path.name for path in (tmp_path / "real").iterdir()] == ["model.onnx"]


def test_permissions_of_a_file_that_is_replaced_stay(tmp_path):
    target = tmp_path / "secret.onnx"
    target.write_text("earlier")
    target.chmod(0o600)
    write(target)
    assert target.read_text() == "later"
    assert target.stat().st_mode & 0o777 == 0o600


def test_a_name_as_long_as_names_can_be_is_written(tmp_path):
    target = tmp_path / ("n" * 250 + ".onnx")
    write(target)
    assert snapshot(target) == {target.name: "later"}


# Files that a killed process leaves

WRITER = """
import os, sys, time
from pathlib import Path
from capsnet.files import atomic_path
with atomic_path(Path("model.onnx")) as temporary:
    temporary.write_text("half")
    print(temporary.name, flush=True)
    time.sleep(60)
"""


@pytest.fixture
def writer(tmp_path):
    """A process in the middle of writing."""
    command = [sys.executable, "-P", "-c", WRITER]
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as child:
        child.temporary = child.stdout.readline().strip()
        yield child
        child.kill()


@pytest.fixture
def next_run():
    """As in another process, folders have not been swept."""
    sweep.cache_clear()


def test_what_a_killed_process_leaves_is_removed_by_the_next_that_writes_there(
    tmp_path, writer, next_run
):
    assert (tmp_path / writer.temporary).read_text() == "half"
    writer.kill()
    writer.wait()
    assert (tmp_path / writer.temporary).exists()
    write(tmp_path / "other.csv")
    assert snapshot(tmp_path / "other.csv") == {"other.csv": "later"}


INTERRUPTED = """
import os, sys
from pathlib import Path
import capsnet.files
def interrupted(*_, **__):
    assert len(list(Path().iterdir())) == 1
    raise KeyboardInterrupt
if sys.argv[1] == "lock":  # before the block of the file
    capsnet.files.lock = interrupted
else:  # at its end
    Path.unlink = interrupted
try:
    capsnet.files.check_writable(Path("model.onnx"))
except KeyboardInterrupt:
    Path.unlink = lambda path: os.unlink(path)
    if sys.argv[-1] == "fork" and os.fork() == 0:
        sys.exit()
    if sys.argv[-1] == "fork":
        os.wait()
        assert len(list(Path().iterdir())) == 1  # the child has left it alone
"""


@pytest.mark.skipif(os.name != "posix", reason="forks")
@pytest.mark.parametrize("place", ["lock", "unlink"])
@pytest.mark.parametrize("then", ["end", "fork"])
def test_an_interruption_at_any_place_leaves_no_file_when_the_process_has_ended(
    tmp_path, place, then
):
    command = [sys.executable, "-c", INTERRUPTED, place, then]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert list(tmp_path.iterdir()) == []


def test_what_a_living_process_writes_is_never_removed(tmp_path, writer, next_run):
    write(tmp_path / "model.onnx")
    assert (tmp_path / writer.temporary).read_text() == "half"


def test_a_file_swept_before_it_was_locked_is_made_again(tmp_path, monkeypatch):
    swept = []

    def late(handle, *, wait=False):
        if wait and not swept:
            [path] = tmp_path.iterdir()
            path.unlink()
            swept.append(path)
        return lock(handle, wait=wait)

    monkeypatch.setattr("capsnet.files.lock", late)
    write(tmp_path / "model.onnx")
    assert len(swept) == 1
    assert snapshot(tmp_path / "model.onnx") == {"model.onnx": "later"}


@pytest.mark.parametrize(
    "name", [".model.onnx.swp", "model.capsnet-abcdefgh.onnx", ".x.capsnet-ABCDEFGH", ".capsnet-"]
)
def test_files_of_others_are_not_swept(tmp_path, next_run, name):
    (tmp_path / name).write_text("mine")
    write(tmp_path / "model.onnx")
    assert (tmp_path / name).read_text() == "mine"


def test_sweeping_follows_no_link_and_waits_for_no_pipe(tmp_path, next_run):
    folder = tmp_path / "folder"
    folder.mkdir()
    (tmp_path / "victim").write_text("mine")
    (folder / ".a.capsnet-aaaaaaaa.onnx").symlink_to(tmp_path / "victim")
    os.mkfifo(folder / ".b.capsnet-bbbbbbbb.onnx")
    write(folder / "model.onnx")
    assert (tmp_path / "victim").read_text() == "mine"
    assert len(list(folder.iterdir())) == 3


# Outputs that would destroy something


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A folder with a file, a link to it in every way, and a folder of images."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("input")
    (tmp_path / "link").symlink_to("file")
    (tmp_path / "hard").hardlink_to("file")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.PNG").write_text("image")
    (tmp_path / "images" / "results.csv").write_text("earlier")
    (tmp_path / "also").symlink_to("images")
    return tmp_path


@pytest.mark.parametrize("spelling", ["file", "./file", "images/../file", "link", "hard"])
def test_an_output_that_is_an_input_is_noticed(places, spelling):
    found = clash({"--output": Path(spelling)}, {"--images": Path("file")})
    assert f"--output {Path(spelling)} would overwrite what is read, --images file" in found
    found = clash({"--output": Path("file").resolve()}, {"--images": Path(spelling)})
    assert "would overwrite" in found


@pytest.mark.parametrize("spelling", ["new", "./new", "images/../new", "missing"])
def test_outputs_that_are_one_file_are_noticed(places, spelling):
    (places / "missing").symlink_to("new")
    found = clash({"--json": Path("new"), "--csv": Path(spelling)}, {})
    assert found.startswith("--csv and --json are the same file")


@pytest.mark.parametrize("output", ["images/1.PNG", "also/1.PNG", "linked.png"])
@pytest.mark.parametrize("folder", ["images", "also"])
def test_an_output_that_is_an_image_of_a_folder_is_noticed(places, output, folder):
    (places / "linked.png").symlink_to("images/1.PNG")
    assert clash({"--output": Path(output)}, {"INPUTS": Path(folder)}) is not None


@pytest.mark.parametrize("output", ["images/results.csv", "images/new.csv", "new", "images2"])
def test_other_outputs_are_fine(places, output):
    inputs = {"INPUTS": Path("images"), "ARTIFACT": Path("file"), "--images": Path("absent")}
    assert clash({"--output": Path(output), "--json": Path("images/other")}, inputs) is None
