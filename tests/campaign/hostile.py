"""Files that somebody made who wants to do harm: each must be refused, and none may run code.

What runs would write a file, the canary; the bombs would take all memory.
"""

import io
import json
import pickle
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper
from support.hostile import (
    VERSION_0_1,
    Marker,
    changed_archive,
    records_of,
    torch_archive,
    with_code,
    with_nodes,
    with_program,
)

from campaign.trial import File

__all__ = ["hostile_files"]

_GIB = 2**30
_CHUNK = 2**26  # zeros that are compressed once, and repeated
_CERTIFICATE = "sound.onnx.parity.json"


def hostile_files(canary: Path) -> Iterator[File]:
    """All of them; the same ones in the same order.

    Args:
        canary: the file that their code would write.
    """
    code = pickle.dumps(Marker(canary), protocol=2)
    zipped = io.BytesIO()
    torch.save(Marker(canary), zipped)
    for name, files in (
        ("model.pt2", _torch_export(code, zipped.getvalue(), canary)),
        ("model.pt", _torchscript(code, canary)),
        ("model.onnx", _onnx()),
        ("readable_capsnet.pt", _state_dicts(code, zipped.getvalue())),
        ("model.safetensors", _checkpoints()),
        (_CERTIFICATE, _certificates()),
    ):
        for what, content in files:
            yield File(f"{name}: {what}", name, content, refused=True)
    yield from _images()


_Files = Iterator[tuple[str, bytes]]


def _torch_export(code: bytes, zipped: bytes, canary: Path) -> _Files:
    own = list(records_of("small.pt2").items())
    inputs = "data/sample_inputs/model.pt"
    for kind, content in (("pickle", code), ("zipped pickle", zipped)):
        yield f"inputs that are a {kind}", changed_archive("small.pt2", {inputs: content})
    for name in (inputs, "data/sample_inputs/MODEL.pt", "Data/sample_inputs/model.pt"):
        added = (f"archive/{name}", zipped)
        yield f"{name} before the others", torch_archive([added, *own])
        yield f"{name} after the others", torch_archive([*own, added])
    for prefix in ("opaque_obj_0", "custom_obj_0", "weight_0", "tensor_x"):
        for pickled in (True, False):
            entry = {"path_name": prefix, "is_param": False, "use_pickle": pickled}
            config = {"config": {"a": entry | {"tensor_meta": None}}}
            changes: dict[str, bytes | None] = {
                f"data/constants/{prefix}": code,
                "data/constants/model_constants_config.json": json.dumps(config).encode(),
            }
            yield f"constant {prefix}, {pickled}", changed_archive("small.pt2", changes)
    name = "data/weights/model_weights_config.json"
    document = json.loads(records_of("small.pt2")[f"archive/{name}"])
    next(iter(document["config"].values()))["use_pickle"] = True
    changes = {name: json.dumps(document).encode(), "data/weights/weight_0": code}
    yield "a pickled weight", changed_archive("small.pt2", changes)
    for name in ("data/aotinductor/model/a.wrapper.so", "extra/other", "models/b.json"):
        yield f"the record {name}", changed_archive("small.pt2", {name: code})
    for size in (0, 399):
        name = "data/weights/weight_0"
        yield f"a weight of {size} bytes", changed_archive("small.pt2", {name: bytes(size)})
    call = f"__import__('pathlib').Path({str(canary)!r}).touch()"
    yield "a size that is code", with_program("Symbol('s", f"{call} or Symbol('s")
    text = records_of("small.pt2")["archive/models/model.json"].decode()
    guards = json.dumps({**json.loads(text), "guards_code": [f"{call} or True"]})
    yield "guards", changed_archive("small.pt2", {"models/model.json": guards.encode()})
    yield "a key twice", with_program('"guards_code"', '"guards_code": [], "guards_code"')
    for target in (
        *("aten.from_file.default", "aten.rand.default", "aten.exp.out", "higher_order.cond"),
        *("torch.load", "torch.hub.load", "_operator.attrgetter", "math.factorial", "os.system"),
    ):
        full = f"torch.ops.{target}" if target.startswith(("aten", "higher")) else target
        yield f"operator {target}", with_program('"torch.ops.aten.exp.default"', json.dumps(full))


def _torchscript(code: bytes, canary: Path) -> _Files:
    for line in (
        f'_f = torch.from_file("{canary}", True, 4)',
        f'torch.save(image, "{canary}")',
        "_r = torch.rand([2])",
        "while True:\n      pass",
        "if bool(image):\n      pass",
        "image = torch.exp_(image)",
        "_w = (self).backward(image)",
        "ops.prim.RaiseException(image)",
        "_l = torch.mul([1], 1000000)",
        "_z = torch.zeros([100000, 100000])",
        "_c = CONSTANTS.c99",
        "_d = image.__class__",
    ):
        yield f"code: {line}", with_code(line)
    file = "small.torchscript.pt"
    [source] = [name for name in records_of(file) if name.endswith(".py")]
    for method in (
        "  def __setstate__(self, state: Tensor) -> None:\n    return None\n",
        "def f(x: Tensor) -> Tensor:\n  return x\n",
    ):
        changed = {source.removeprefix("archive/"): records_of(file)[source] + method.encode()}
        yield f"code: {method}", changed_archive(file, changed)
    for name in ("constants/0", "data/0"):
        for keep in (0, 16):
            data = records_of(file)[f"archive/{name}"][:keep]
            yield f"{name} of {keep} bytes", changed_archive(file, {name: data})
    for name in ("data.pkl", "constants.pkl"):
        yield f"a pickle as {name}", changed_archive(file, {name: code})
    for method, kind in ((zipfile.ZIP_STORED, "plain"), (zipfile.ZIP_DEFLATED, "compressed")):
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", method) as archive:
            for name, data in records_of(file).items():
                archive.writestr(name, data)
        yield f"another archive, {kind}", target.getvalue()


def _onnx() -> _Files:
    sound = onnx.load(VERSION_0_1 / "small.onnx")

    def changed(**fields: object) -> bytes:
        model = onnx.ModelProto()
        model.CopyFrom(sound)
        weight = model.graph.initializer[0]
        for name, value in fields.items():
            if name == "location":
                weight.data_location = onnx.TensorProto.EXTERNAL
                weight.external_data.add(key="location", value=str(value))
            elif name == "dims":
                weight.dims[:] = value  # type: ignore[assignment]
            elif name == "domain":
                model.opset_import.append(helper.make_opsetid(str(value), 1))
            else:
                for entry in model.metadata_props:
                    entry.value = entry.value.replace('"exporter": "', f'"exporter": "{value}')
        return model.SerializeToString()

    for location in ("sound.onnx", "/etc/passwd", "../sound.onnx"):
        yield f"weights in {location}", changed(location=location)
    yield "a weight of 2^40 values", changed(dims=[1 << 40])
    yield "a domain of its own", changed(domain="com.evil")
    for text in ("\\u001b[2J", "\\u009b1m", "\\u202e"):
        yield f"metadata with {text}", changed(exporter=text)
    value = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["image"], ["y"])], "body", [], [value])
    for operator in ("If", "Loop", "Scan"):
        node = helper.make_node(operator, ["image"], ["z"], body=body)
        yield f"control flow: {operator}", with_nodes([node])
    for operator, domain in (("RandomNormal", ""), ("ImageDecoder", ""), ("Relu", "com.evil")):
        node = helper.make_node(operator, ["image"], ["z"], domain=domain)
        yield f"operator {domain}.{operator}", with_nodes([node])
    huge = numpy_helper.from_array(np.array([100_000, 100_000]), "huge")
    zero = numpy_helper.from_array(np.array([0]), "zero")
    for operator in ("ConstantOfShape", "Expand", "Tile", "Pad"):
        inputs = ["huge"] if operator == "ConstantOfShape" else ["image", "huge"]
        node = helper.make_node(operator, inputs, ["z"])
        yield f"10^10 values by {operator}", with_nodes([node], [huge])
    for operator in ("Div", "Mod"):
        node = helper.make_node(operator, ["zero", "zero"], ["z"])
        yield f"{operator} by zero", with_nodes([node], [zero])


def _state_dicts(code: bytes, zipped: bytes) -> _Files:
    yield "a pickle", code
    yield "a zipped pickle", zipped
    plain = io.BytesIO()
    torch.save({"weight": torch.zeros(1 << 24)}, plain)
    target = io.BytesIO()
    with zipfile.ZipFile(plain) as source, zipfile.ZipFile(target, "w", 8) as archive:
        for name in source.namelist():
            archive.writestr(name, source.read(name))
    yield "compressed", target.getvalue()


def _checkpoints() -> _Files:
    sound = (VERSION_0_1 / "small.safetensors").read_bytes()
    size = int.from_bytes(sound[:8], "little")
    head, weights = sound[8 : 8 + size], sound[8 + size :]

    def with_head(head: bytes) -> bytes:
        return len(head).to_bytes(8, "little") + head + weights

    yield "a header of 2^60 bytes", (1 << 60).to_bytes(8, "little") + sound[8:]
    yield "a header that is deep", with_head(b'{"a":' * 100_000)
    assert b"routing_iterations" in head
    for count in (b"3000", b"10000000"):
        start, _, rest = head.partition(b'routing_iterations\\":')
        number = rest.lstrip().partition(b",")[0].partition(b"}")[0]
        changed = start + b'routing_iterations\\":' + rest.replace(number, count, 1)
        yield f"{count.decode()} routing iterations", with_head(changed)


def _certificates() -> _Files:
    yield "nested deeply", b"[" * 100_000
    yield "objects nested deeply", b'{"a":' * 100_000
    yield "two verdicts", b'{"schema_version": 1, "verdict": "fail", "verdict": "pass"}'
    yield "numbers of a million digits", b'{"schema_version": ' + b"9" * 10**6 + b"}"
    yield "not UTF-8", b"\xff\xfe{}"


def _images() -> Iterator[File]:
    """Bombs: a few megabytes that expand to many gigabytes."""
    many = 10 * _GIB // 144
    shapes = {"that fit": (many, 12, 12), "that do not fit": (many // 100, 120, 120)}
    for which, shape in shapes.items():
        refused = which != "that fit"  # else they are a long stream of images
        head = b"\0\0\x08\x03" + struct.pack(">3I", *shape)
        content = _gzip_bomb(head, 10 * _GIB)
        yield File(f"gzip: 10 GiB of images {which}", "images-idx3-ubyte.gz", content, refused)
        header = io.BytesIO()
        np.lib.format.write_array_header_1_0(
            header, {"descr": "|u1", "fortran_order": False, "shape": shape}
        )
        content = _zip_bomb(header.getvalue(), int(np.prod(shape)))
        yield File(f"npz: 10 GiB of images {which}", "images.npz", content, refused)
    for count, what in ((40, "after 40 labels"), (2**32 - 1, "of labels")):
        content = _gzip_bomb(b"\0\0\x08\x01" + struct.pack(">I", count), 10 * _GIB)
        yield File(f"gzip: 10 GiB {what}", "labels-idx1-ubyte.gz", content, refused=True)
    head = b"\x93NUMPY\2\0" + struct.pack("<I", 2_000_000_000)
    yield File("npz: a header of 2 GB", "images.npz", _zip_bomb(head, 2 * _GIB), refused=True)
    yield File("a header of 2 GB", "images.npy", head + b" " * 70_000, refused=True)
    for size in (50_000, 13_000):
        content = _png(size, size, _zeros(size * (size + 1)))
        yield File(f"PNG of {size} x {size} pixels", "image.png", content, refused=True)
    yield File("PNG: 10 GiB behind its 144 pixels", "image.png", _png(12, 12, _zeros(10 * _GIB)))
    text = (b"zTXt", b"a\0\0" + _zeros(_GIB))
    yield File("PNG: 1 GiB of text", "image.png", _png(12, 12, zlib.compress(bytes(156)), text))


def _zeros(size: int) -> bytes:
    """A zlib stream of at least so many zeros; its checksum, at the very end, is wrong."""
    return b"\x78\x9c" + _deflated(size) + bytes(4)


def _deflated(size: int, head: bytes = b"") -> bytes:
    """Deflated zeros behind a head: a part that is flushed can be repeated."""
    deflate = zlib.compressobj(9, zlib.DEFLATED, -15)
    start = deflate.compress(head) + deflate.flush(zlib.Z_FULL_FLUSH)
    part = deflate.compress(bytes(_CHUNK)) + deflate.flush(zlib.Z_FULL_FLUSH)
    return start + part * (size // _CHUNK + 1) + b"\x03\x00"


def _gzip_bomb(head: bytes, size: int) -> bytes:
    return b"\x1f\x8b\x08\0\0\0\0\0\0\3" + _deflated(size, head) + bytes(8)


def _zip_bomb(head: bytes, size: int) -> bytes:
    """An archive of one member, which claims to have the head and so many zeros."""
    name, body = b"x.npy", _deflated(size, head)
    sizes = struct.pack("<QQ", len(head) + size, len(body))
    extra = struct.pack("<HH", 1, len(sizes)) + sizes
    fields = (0, 8, 0, 0, 0, 2**32 - 1, 2**32 - 1, len(name), len(extra))
    local = struct.pack("<4sHHHHHIIIHH", b"PK\3\4", 45, *fields)
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 45, 45, *fields, 0, 0, 0, 0, 0)
    start, length = len(local) + len(name + extra) + len(body), len(entry + name + extra)
    end = struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 1, 1, length, start, 0)
    return local + name + extra + body + entry + name + extra + end


def _png(width: int, height: int, pixels: bytes, *chunks: tuple[bytes, bytes]) -> bytes:
    """A grey image whose compressed pixels are given."""
    head = (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    content = b"\x89PNG\r\n\x1a\n"
    for kind, data in (head, *chunks, (b"IDAT", pixels), (b"IEND", b"")):
        content += struct.pack(">I", len(data)) + kind + data
        content += struct.pack(">I", zlib.crc32(kind + data))
    return content
