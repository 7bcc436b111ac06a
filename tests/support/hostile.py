"""Archives and files as somebody would make them who wants to do harm."""

import io
import re
import struct
import zipfile
import zlib
from pathlib import Path

import onnx

VERSION_0_1 = Path(__file__).parents[1] / "data" / "version_0.1"


def records_of(file: str) -> dict[str, bytes]:
    """The records of a sound archive, with their folder."""
    with zipfile.ZipFile(VERSION_0_1 / file) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def torch_archive(records: list[tuple[str, bytes]]) -> bytes:
    """An archive of these records, laid out as torch's own writer does it."""
    body, directory = io.BytesIO(), io.BytesIO()
    for name, data in records:
        crc, size, offset = zlib.crc32(data), len(data), body.tell()
        encoded = name.encode()
        body.write(struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 0, 0x808, *[0] * 6, len(encoded), 0))
        body.write(encoded + data + struct.pack("<4sIII", b"PK\7\10", crc, size, size))
        entry = (b"PK\1\2", 0, 0, 0x808, 0, 0, 0, crc, size, size, len(encoded), *[0] * 5, offset)
        directory.write(struct.pack("<4sHHHHHHIIIHHHHHII", *entry) + encoded)
    start, size, count = body.tell(), directory.tell(), len(records)
    body.write(directory.getvalue())
    end = body.tell()
    body.write(struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 0, 0, 0, 0, count, count, size, start))
    body.write(struct.pack("<4sIQI", b"PK\6\7", 0, end, 1))
    body.write(struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, count, count, size, start, 0))
    return body.getvalue()


def changed_archive(file: str, changes: dict[str, bytes | None]) -> bytes:
    """A sound archive with some records replaced, added, or (None) left out."""
    records = records_of(file)
    for name, data in changes.items():
        records[f"archive/{name}"] = data  # type: ignore[assignment]
    return torch_archive([(n, d) for n, d in records.items() if d is not None])


def with_code(line: str) -> bytes:
    """The sound TorchScript archive with one more line at the start of its forward."""
    (name, source), *_ = [
        (name, data.decode())
        for name, data in records_of("small.torchscript.pt").items()
        if name.endswith(".py")
    ]
    source = re.sub(r"(-> Tuple[^\n]*:\n)", lambda m: f"{m[1]}    {line}\n", source, count=1)
    return changed_archive("small.torchscript.pt", {name.removeprefix("archive/"): source.encode()})


def with_program(old: str, new: str) -> bytes:
    """The sound torch.export archive with some text of its graph replaced, wherever it occurs."""
    text = records_of("small.pt2")["archive/models/model.json"].decode()
    assert old in text
    return changed_archive("small.pt2", {"models/model.json": text.replace(old, new).encode()})


def with_nodes(nodes: list[onnx.NodeProto], weights: list[onnx.TensorProto] = []) -> bytes:  # noqa: B006
    """The sound ONNX file with more nodes before its own."""
    model = onnx.load(VERSION_0_1 / "small.onnx")
    own = list(model.graph.node)
    del model.graph.node[:]
    model.graph.node.extend([*nodes, *own])
    model.graph.initializer.extend(weights)
    return model.SerializeToString()


class Marker:
    """A pickle that writes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return exec, (f"open({str(self.path)!r}, 'w').close()",)
