import gzip
import io
import os
import random
import struct
import subprocess
import sys
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capsnet.data import numpy_files
from capsnet.data.idx import ASSETS, mnist_test_set, read_idx
from capsnet.data.stream import count_images, stream_images
from capsnet.errors import DataError

GREY, COLOUR = (1, 4, 5), (3, 4, 5)


def read(path, shape=GREY):
    inputs = [path] if isinstance(path, Path) else path
    images = list(stream_images(inputs, shape))
    assert count_images(inputs, shape) == len(images)
    for _, image in images:
        assert image.shape == shape
        assert image.dtype == np.float32
        assert image.flags.c_contiguous
        assert image.flags.writeable
    return images


def refuse(path, match, shape=GREY):
    """The one error that names the file and says ``match``."""
    with pytest.raises(DataError, match=match) as caught:
        list(stream_images([path], shape))
    assert str(path) in str(caught.value)
    return str(caught.value)


def pixels(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def npy(folder, array):
    path = folder / "digits.npy"
    np.save(path, array)
    return path


def idx_bytes(array, code=0x08):
    header = bytes([0, 0, code, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


# Layouts, types and ranges of arrays


@pytest.mark.parametrize("shape", [(4, 5), (1, 4, 5), (4, 5, 1)])
def test_one_grey_image(tmp_path, shape):
    array = pixels(*shape)
    ((name, image),) = read(npy(tmp_path, array))
    assert name == f"{tmp_path / 'digits.npy'}[0]"
    np.testing.assert_array_equal(image, array.reshape(GREY).astype(np.float32) / np.float32(255))


@pytest.mark.parametrize("shape", [(7, 4, 5), (7, 1, 4, 5), (7, 4, 5, 1)])
def test_many_grey_images(tmp_path, shape):
    array = pixels(*shape)
    path = npy(tmp_path, array)
    images = read(path)
    assert [name for name, _ in images] == [f"{path}[{i}]" for i in range(7)]
    expected = array.reshape(7, *GREY).astype(np.float32) / np.float32(255)
    np.testing.assert_array_equal(np.stack([image for _, image in images]), expected)


@pytest.mark.parametrize(
    ("shape", "axes"),
    [((3, 4, 5), "chw"), ((4, 5, 3), "hwc"), ((6, 3, 4, 5), "nchw"), ((6, 4, 5, 3), "nhwc")],
)
@pytest.mark.parametrize("suffix", ["npy", "npz", "idx"])
def test_colour_images(tmp_path, shape, axes, suffix):
    array = pixels(*shape)
    path = tmp_path / f"a.{suffix}"
    if suffix == "idx":
        path.write_bytes(idx_bytes(array))
    else:
        (np.save if suffix == "npy" else np.savez)(path, array)
    images = np.stack([image for _, image in read(path, COLOUR)])
    expected = np.moveaxis(array, -1, -3) if axes.endswith("c") else array
    np.testing.assert_allclose(images, expected.reshape(-1, *COLOUR) / 255, rtol=1e-7)


def test_npy_in_fortran_order(tmp_path):
    array = np.asfortranarray(pixels(7, 4, 5))
    images = read(npy(tmp_path, array))
    np.testing.assert_allclose(images[3][1][0], array[3] / 255, rtol=1e-7)


def test_npy_in_fortran_order_is_read_in_parts(tmp_path, monkeypatch):
    for array, shape in (
        (pixels(7, 4, 5), GREY),
        (pixels(4, 5), GREY),
        (pixels(7, 3, 4, 5), COLOUR),
        (pixels(7, 4, 5, 3), COLOUR),
    ):
        path = npy(tmp_path, np.asfortranarray(array))
        expected = np.moveaxis(array, -1, 1) if array.shape[-1] == 3 else array
        for size in (1, 120, 1000):
            monkeypatch.setattr(numpy_files, "_GATHERED", size)
            found = np.stack([image for _, image in read(path, shape)])
            np.testing.assert_array_equal(
                found, expected.reshape(-1, *shape).astype(np.float32) / np.float32(255)
            )


def test_npy_in_fortran_order_that_is_cut_off_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    """Not the end of the process, as where pages of it are mapped."""
    monkeypatch.setattr(numpy_files, "_GATHERED", 1)
    np.save(tmp_path / "a.npy", np.asfortranarray(pixels(7, 40, 50)))
    images = stream_images(tmp_path / "a.npy", (1, 40, 50))
    next(images)
    os.truncate(tmp_path / "a.npy", 1000)
    with pytest.raises(DataError, match=r"a\.npy.*it was cut off while it was read"):
        list(images)


def test_npz_in_fortran_order_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.asfortranarray(pixels(7, 4, 5)))
    refuse(tmp_path / "a.npz", r"a\.npz:x is stored in Fortran order.*ascontiguousarray")


@pytest.mark.parametrize(
    "array", [pixels(4, 6), pixels(5, 4), pixels(7, 3, 4, 5), pixels(2, 7, 1, 4, 5), pixels(9)]
)
def test_unfit_shape_names_found_and_expected(tmp_path, array):
    message = refuse(npy(tmp_path, array), "holds uint8")
    assert str(list(array.shape)) in message
    assert "expected [4, 5], [1, 4, 5], [4, 5, 1], [n, 4, 5], [n, 1, 4, 5] or" in message


def test_stack_of_grey_images_is_no_colour_image(tmp_path):
    refuse(npy(tmp_path, pixels(7, 4, 5)), r"\[7, 4, 5\]; expected \[3, 4, 5\]", COLOUR)


def test_ambiguous_shape(tmp_path):
    refuse(npy(tmp_path, pixels(2, 3, 3, 3)), "ambiguous", (3, 3, 3))
    assert len(read(npy(tmp_path, pixels(3, 1, 1)), (1, 1, 1))) == 3


def test_no_images(tmp_path):
    refuse(npy(tmp_path, pixels(0, 4, 5)), "no image at all")


@pytest.mark.parametrize("dtype", ["<f2", "<f4", ">f4", "<f8", "longdouble"])
def test_floats_stay_as_they_are(tmp_path, dtype):
    array = np.linspace(0, 1, 20).reshape(4, 5).astype(dtype)
    ((_, image),) = read(npy(tmp_path, array))
    np.testing.assert_array_equal(image[0], array.astype(np.float32))


@pytest.mark.parametrize("dtype", ["i2", ">i4", "i8", "u2", "u8"])
def test_integers_in_range(tmp_path, dtype):
    array = pixels(4, 5)
    ((_, image),) = read(npy(tmp_path, array.astype(dtype)))
    np.testing.assert_array_equal(image[0], array.astype(np.float32) / np.float32(255))


@pytest.mark.parametrize(
    ("dtype", "value", "match"),
    [
        ("f4", 255.0, r"digits\.npy\[2\] has values from 0 to 255, expected 0\.\.1; .*divide by"),
        ("f8", -0.5, r"digits\.npy\[2\] has values from -0\.5 to 0, expected 0\.\.1"),
        ("f4", np.nan, r"digits\.npy\[2\] holds NaN or infinity"),
        ("f4", np.inf, r"digits\.npy\[2\] holds NaN or infinity \(range 0 to inf\)"),
        ("i4", 256, r"digits\.npy\[2\] has integers from 0 to 256, expected 0\.\.255"),
        ("i2", -1, r"digits\.npy\[2\] has integers from -1 to 0, expected 0\.\.255"),
    ],
)
def test_values_out_of_range_name_the_image(tmp_path, dtype, value, match):
    array = np.zeros((4, 4, 5), dtype)
    array[2, 1, 1] = value
    refuse(npy(tmp_path, array), match)


@pytest.mark.parametrize("dtype", ["bool", "complex64", "S3", "M8[s]", "i4,i4"])
def test_other_types_are_refused(tmp_path, dtype):
    refuse(npy(tmp_path, np.zeros((4, 5), dtype)), r"expected integers 0\.\.255 or floats 0\.\.1")


class Trap:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was loaded",))


@pytest.mark.parametrize("suffix", ["npy", "npz"])
def test_pickles_are_never_loaded(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    array = np.full((4, 5), Trap(), object)
    (np.save if suffix == "npy" else np.savez)(path, array)
    refuse(path, "holds object")


# NumPy archives


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz_members_in_order(tmp_path, save):
    path = tmp_path / "arrays.npz"
    first, second = pixels(2, 4, 5), pixels(4, 5, seed=1)
    save(path, zeros=first, ones=second)
    images = read(path)
    assert [name for name, _ in images] == [
        f"{path}:zeros[0]",
        f"{path}:zeros[1]",
        f"{path}:ones[0]",
    ]
    expected = np.concatenate([first, second[None]]) / 255
    np.testing.assert_allclose([image[0] for _, image in images], expected, rtol=1e-7)


def test_npz_with_labels_of_an_unusual_name_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", target=np.zeros(2, np.int64), pixels=pixels(2, 4, 5))
    refuse(tmp_path / "a.npz", r"a\.npz:target holds int64 \[2\]; .*only images")


def test_npz_without_arrays(tmp_path):
    np.savez(tmp_path / "empty.npz")
    refuse(tmp_path / "empty.npz", "without arrays")
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        archive.writestr("3.png", b"")
    refuse(tmp_path / "images.zip", "give the folder")


def test_npz_with_foreign_compression(tmp_path):
    data = io.BytesIO()
    np.save(data, pixels(4, 5))
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_BZIP2) as archive:
        archive.writestr("x.npy", data.getvalue())
    refuse(tmp_path / "a.npz", r"a\.npz:x is not compressed the way NumPy does it")


def test_npz_member_of_wrong_size(tmp_path):
    data = io.BytesIO()
    np.save(data, pixels(2, 4, 5))
    for name, content in (("short", data.getvalue()[:-1]), ("long", data.getvalue() + b"x")):
        path = tmp_path / f"{name}.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x.npy", content)
        message = refuse(path, "its header asks for 168")
        assert f"it holds {len(content)} bytes" in message


# IDX


@pytest.mark.parametrize("compressed", [False, True])
def test_idx(tmp_path, compressed):
    array = pixels(6, 4, 5)
    path = tmp_path / "t10k-images-idx3-ubyte"
    path.write_bytes(gzip.compress(idx_bytes(array)) if compressed else idx_bytes(array))
    images = read(path)
    assert images[5][0] == f"{path}[5]"
    np.testing.assert_allclose([image[0] for _, image in images], read_idx(path) / 255, rtol=1e-7)


def test_idx_of_big_endian_floats(tmp_path):
    array = np.linspace(0, 1, 20, dtype=">f4").reshape(4, 5)
    (tmp_path / "x.idx").write_bytes(idx_bytes(array, 0x0D))
    ((_, image),) = read(tmp_path / "x.idx")
    np.testing.assert_array_equal(image[0], array)


def test_bundled_test_set():
    path = ASSETS / "t10k-images-idx3-ubyte.gz"
    stream = stream_images([path], (1, 28, 28))
    expected = mnist_test_set().images
    assert count_images([path], (1, 28, 28)) == 10_000
    for i, (name, image) in zip(range(20), stream, strict=False):
        assert name == f"{path}[{i}]"
        np.testing.assert_array_equal(image, expected[i].astype(np.float32) / np.float32(255))
    stream.close()


def test_idx_labels_are_refused(tmp_path):
    path = tmp_path / "labels"
    path.write_bytes(idx_bytes(pixels(9)))
    refuse(path, r"holds uint8 \[9\]; expected")


@pytest.mark.parametrize("cut", [2, 9, 16, 60])
def test_truncated_idx(tmp_path, cut):
    content = idx_bytes(pixels(6, 4, 5))
    path = tmp_path / "x.idx"
    path.write_bytes(content[:cut])
    refuse(path, "IDX|ends inside its header|holds .* bytes, its header asks for 136")
    path.write_bytes(gzip.compress(content[:cut]))
    refuse(path, "IDX|ends inside its header|ends after [02] of 6 images")
    path.write_bytes(gzip.compress(content)[:-cut])
    refuse(path, "truncated")


def test_idx_with_too_much_data(tmp_path):
    path = tmp_path / "x.idx"
    content = idx_bytes(pixels(6, 4, 5)) + b"x"
    path.write_bytes(content)
    refuse(path, "holds 137 bytes, its header asks for 136")
    path.write_bytes(gzip.compress(content))
    refuse(path, "goes on after the last of 6 images")


def test_gzip_checksum(tmp_path):
    content = bytearray(gzip.compress(idx_bytes(pixels(6, 4, 5))))
    content[-8] ^= 1
    (tmp_path / "x.gz").write_bytes(content)
    refuse(tmp_path / "x.gz", "CRC check failed")


def test_gzip_without_idx(tmp_path):
    (tmp_path / "x.gz").write_bytes(gzip.compress(b"a text"))
    refuse(tmp_path / "x.gz", "not an IDX file: its header is '61 20 74 65'")


# PNG and JPEG


def png(path, array, mode=None, **options):
    image = Image.fromarray(array)
    (image if mode is None else image.convert(mode)).save(path, "PNG", **options)
    return path


def test_png(tmp_path):
    array = pixels(4, 5)
    path = png(tmp_path / "3.png", array)
    ((name, image),) = read(path)
    assert name == str(path)
    np.testing.assert_array_equal(image[0], array.astype(np.float32) / np.float32(255))


def test_png_in_colour(tmp_path):
    array = pixels(4, 5, 3)
    ((_, image),) = read(png(tmp_path / "a.png", array), COLOUR)
    np.testing.assert_allclose(image, array.transpose(2, 0, 1) / 255, rtol=1e-7)


def test_grey_and_colour_convert(tmp_path):
    grey = pixels(4, 5)
    ((_, image),) = read(png(tmp_path / "grey.png", grey), COLOUR)
    np.testing.assert_allclose(image, np.stack([grey] * 3) / 255, rtol=1e-7)
    colour = pixels(4, 5, 3)
    ((_, image),) = read(png(tmp_path / "colour.png", colour))
    expected = np.asarray(Image.fromarray(colour).convert("L"))
    np.testing.assert_allclose(image[0], expected / 255, rtol=1e-7)


def test_palette_with_opaque_transparency(tmp_path):
    image = Image.fromarray(np.repeat(pixels(4, 5)[..., None], 3, axis=2)).quantize(20)
    image.save(tmp_path / "a.png", transparency=b"\xff" * 20)
    expected = np.asarray(image.convert("L"))
    np.testing.assert_allclose(read(tmp_path / "a.png")[0][1][0], expected / 255, rtol=1e-7)


@pytest.mark.parametrize("suffix", [".jpg", ".JPEG", ""])
def test_jpeg_is_recognised_by_content(tmp_path, suffix):
    path = tmp_path / f"3{suffix}"
    Image.fromarray(np.full((4, 5), 102, np.uint8)).save(path, "JPEG")
    ((_, image),) = read(path)
    np.testing.assert_allclose(image, np.full(GREY, 0.4), atol=0.02)


@pytest.mark.parametrize("shape", [GREY, COLOUR])
def test_16_bit_grey_keeps_its_precision(tmp_path, shape):
    array = np.arange(20, dtype=np.uint16).reshape(4, 5) * 3449
    ((_, image),) = read(png(tmp_path / "a.png", array), shape)
    np.testing.assert_allclose(image, np.stack([array] * shape[0]) / 65535, rtol=1e-6)


def test_opaque_alpha_is_dropped(tmp_path):
    array = pixels(4, 5, 4)
    array[..., 3] = 255
    ((_, image),) = read(png(tmp_path / "a.png", array), COLOUR)
    np.testing.assert_allclose(image, array[..., :3].transpose(2, 0, 1) / 255, rtol=1e-7)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
def test_transparent_image_is_refused(tmp_path, mode):
    array = pixels(4, 5, 4)
    array[..., 3] = 255
    array[2, 2, 3] = 254
    refuse(png(tmp_path / "a.png", array, mode), "transparent in places.*flatten it")


def test_transparent_colour_is_refused(tmp_path):
    array = np.full((4, 5), 7, np.uint8)
    refuse(png(tmp_path / "a.png", array, transparency=7), "transparent in places")


def test_image_of_another_size_is_refused(tmp_path):
    refuse(png(tmp_path / "a.png", pixels(5, 4)), r"is 5x4 pixels .* takes 4x5; resize it")


def test_huge_image_is_refused_before_it_is_decoded(tmp_path):
    path = png(tmp_path / "a.png", pixels(4, 5))
    content = bytearray(path.read_bytes())
    content[16:24] = struct.pack(">II", 60_000, 60_000)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    path.write_bytes(content)
    refuse(path, "far larger than 4x5 pixels")


def test_png_for_other_channels_is_refused(tmp_path):
    refuse(png(tmp_path / "a.png", pixels(4, 5)), r"takes 2 channels.*\.npy", (2, 4, 5))


@pytest.mark.parametrize("cut", [9, 40, -30])
def test_truncated_png(tmp_path, cut):
    path = png(tmp_path / "a.png", pixels(4, 5))
    path.write_bytes(path.read_bytes()[:cut])
    refuse(path, "truncated, damaged")


def test_images_are_counted_without_pillow(tmp_path, monkeypatch):
    path = png(tmp_path / "a.png", pixels(4, 5))
    monkeypatch.setitem(sys.modules, "PIL", None)
    assert count_images([path], GREY) == 1


# Folders


def test_folder_in_natural_order(tmp_path):
    folder = tmp_path / "folder"
    for name in ("10.png", "2.png", "b/1.PNG", "a20/x.png", "a3/x.jpg", ".hidden/x.png"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        png(path, pixels(4, 5))
    (folder / "notes.txt").write_text("not an image")
    (folder / "._2.png").write_bytes(b"a Mac's notes on 2.png")
    np.save(folder / "a.npy", pixels(4, 5))
    (folder / "loop").symlink_to(folder, target_is_directory=True)
    names = [str(Path(name).relative_to(folder)) for name, _ in read(folder)]
    assert names == ["2.png", "10.png", "a3/x.jpg", "a20/x.png", "b/1.PNG"]


def test_folder_without_images(tmp_path):
    (tmp_path / "notes.txt").write_text("not an image")
    refuse(tmp_path, r"holds no images: expected \.png, \.jpg, \.jpeg")
    with pytest.raises(DataError, match="holds no images"):
        count_images([tmp_path], GREY)


def test_folder_names_the_damaged_image(tmp_path):
    png(tmp_path / "1.png", pixels(4, 5))
    (tmp_path / "2.png").write_bytes(b"GIF89a")
    stream = stream_images([tmp_path], GREY)
    assert next(stream)[0] == str(tmp_path / "1.png")
    with pytest.raises(DataError, match=r"2\.png: truncated, damaged, or not of its kind"):
        next(stream)


def test_names_are_the_paths_as_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("folder").mkdir()
    png(Path("folder/3.png"), pixels(4, 5))
    npy(Path(), pixels(2, 4, 5))
    names = [name for name, _ in read([Path("digits.npy"), Path("folder")])]
    assert names == ["digits.npy[0]", "digits.npy[1]", "folder/3.png"]


# Files that are no input at all


def test_missing_file(tmp_path):
    refuse(tmp_path / "none.npy", "no such file or folder; check the path")
    with pytest.raises(DataError, match="no such file"):
        count_images([tmp_path / "none.npy"], GREY)


def test_unreadable_file(tmp_path, monkeypatch):
    path = npy(tmp_path, pixels(4, 5))

    def refuse_open(path, *args):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse_open)
    refuse(path, "Permission denied; check the path and its permissions")


def test_empty_file(tmp_path):
    (tmp_path / "a.npy").touch()
    refuse(tmp_path / "a.npy", "it is empty; expected a PNG, JPEG, BMP or WebP image")


def test_unknown_content(tmp_path):
    (tmp_path / "a.png").write_bytes(b"GIF89a..")
    refuse(tmp_path / "a.png", "starts with the bytes 47 49 46 38 39 61 2e 2e; expected a PNG")


@pytest.mark.parametrize("cut", [7, 40, -1])
def test_truncated_npy(tmp_path, cut):
    path = npy(tmp_path, pixels(4, 5))
    path.write_bytes(path.read_bytes()[:cut])
    refuse(path, "valid header|holds 147 bytes, its header asks for 148")


def test_npy_with_a_second_array(tmp_path):
    path = npy(tmp_path, pixels(4, 5))
    path.write_bytes(path.read_bytes() * 2)
    refuse(path, "its header asks for 148")


def test_npy_of_an_unknown_version(tmp_path):
    path = npy(tmp_path, pixels(4, 5))
    content = bytearray(path.read_bytes())
    content[6] = 9
    path.write_bytes(content)
    refuse(path, "no valid header of a NumPy array")


@pytest.mark.filterwarnings("ignore")  # Pillow and numpy may warn of damage that they can mend
@pytest.mark.parametrize("kind", ["png", "jpg", "npy", "npz", "idx", "gz"])
def test_damage_is_one_error_or_an_image(tmp_path, kind):
    """Random bytes are overwritten: whatever follows, it is no other exception."""
    path, chance = tmp_path / f"x.{kind}", random.Random(kind)
    if kind in ("png", "jpg"):
        Image.fromarray(pixels(4, 5)).save(path)
    elif kind in ("npy", "npz"):
        (np.save if kind == "npy" else np.savez_compressed)(path, pixels(2, 4, 5))
    else:
        content = idx_bytes(pixels(2, 4, 5))
        path.write_bytes(gzip.compress(content) if kind == "gz" else content)
    sound, messages = path.read_bytes(), []
    for _ in range(300):
        content = bytearray(sound)
        for _ in range(chance.randint(1, 4)):
            content[chance.randrange(len(content))] = chance.randrange(256)
        path.write_bytes(content)
        try:
            for _, image in stream_images([path], GREY):
                assert image.shape == GREY
        except DataError as error:
            messages.append(str(error))
    assert len(messages) > 10
    assert all(str(path) in message for message in messages)


# Memory, laziness and imports

LARGE, LARGE_COUNT = (1, 256, 256), 400  # 26 MB of bytes


def large_file(folder, kind):
    path, zeros = folder / f"large.{kind}", np.zeros((LARGE_COUNT, *LARGE[1:]), np.uint8)
    if kind in ("npy", "npz"):
        (np.save if kind == "npy" else np.savez_compressed)(path, zeros)
    else:
        content = idx_bytes(zeros)
        path.write_bytes(gzip.compress(content, 1) if kind == "gz" else content)
    return path


@pytest.mark.parametrize("kind", ["npy", "npz", "idx", "gz"])
def test_memory_is_bounded(tmp_path, kind):
    path = large_file(tmp_path, kind)
    tracemalloc.start()
    try:
        count = sum(1 for _ in stream_images([path], LARGE))
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        before, _ = tracemalloc.get_traced_memory()
        assert count_images([path], LARGE) == count == LARGE_COUNT
        _, counting_peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2e6  # a few images of 65 kB and 262 kB
    assert counting_peak - before < 3e5


def test_inputs_are_opened_one_after_the_other(tmp_path):
    stream = stream_images([npy(tmp_path, pixels(4, 5)), tmp_path / "missing"], GREY)
    next(stream)
    with pytest.raises(DataError, match="missing"):
        next(stream)


def test_inputs_may_be_text_or_one_path(tmp_path):
    path = npy(tmp_path, pixels(2, 4, 5))
    expected = [name for name, _ in read([path])]
    for inputs in (path, str(path), [str(path)], (path,), iter([str(path)])):
        assert [name for name, _ in stream_images(inputs, GREY)] == expected
    for inputs in (path, str(path), [str(path), path]):
        assert count_images(inputs, GREY) == (4 if isinstance(inputs, list) else 2)


@pytest.mark.parametrize("shape", [(), (20,), (2, 1, 4, 5)])
def test_network_that_takes_no_images_is_refused(tmp_path, shape):
    with pytest.raises(DataError, match=r"expected \[channels, height, width\].*its session"):
        count_images(npy(tmp_path, pixels(4, 5)), shape)


def test_no_inputs():
    assert read([]) == []


def test_imports_only_numpy():
    code = (
        "import sys, capsnet.data.stream, capsnet.runtime.predict;"
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'PIL') if m in sys.modules])"
    )
    result = subprocess.run(
        [sys.executable, "-P", "-c", code], capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "[]"


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", [".jpg", ".png"])
def test_images_are_turned_upright_as_their_exif_data_says(tmp_path, orientation, suffix):
    upright = np.zeros((1, 16, 24), np.uint8)
    upright[0, :8, :8] = 255
    turns = {  # from upright to how the camera stored it
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.T,
        6: lambda a: np.rot90(a),
        7: lambda a: a[::-1, ::-1].T,
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(turns[orientation](upright[0])))
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / f"image{suffix}"
    stored.save(path, exif=exif, **({"quality": 100} if suffix == ".jpg" else {}))
    [(_, found)] = stream_images(path, (1, 16, 24))
    assert np.abs(found * 255 - upright).max() < 3


def test_an_image_of_the_right_size_that_is_not_so_upright_is_refused(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "image.jpg", exif=exif)
    with pytest.raises(DataError, match="is 5x4 pixels"):
        list(stream_images(tmp_path / "image.jpg", (1, 4, 5)))


def test_a_file_that_is_damaged_in_the_middle_gives_the_images_before(tmp_path):
    content = gzip.compress(idx_bytes(pixels(50, 4, 5)))
    (tmp_path / "images.gz").write_bytes(content[:-30])
    told = []
    found = list(stream_images(tmp_path / "images.gz", (1, 4, 5), lambda *what: told.append(what)))
    assert 0 < len(found) < 50
    [(name, error)] = told
    assert name == str(tmp_path / "images.gz")
    assert "damaged" in str(error)


def test_what_a_library_says_of_a_damaged_file_is_quoted_at_a_readable_length(tmp_path):
    np.savez(tmp_path / "a.npz", x=pixels(7, 4, 5))
    content = bytearray((tmp_path / "a.npz").read_bytes())
    content[26:28] = b"\xff\x00"  # the length of the member's name, which zipfile quotes
    content[30:36] = bytes(6)
    (tmp_path / "a.npz").write_bytes(content)
    assert len(refuse(tmp_path / "a.npz", "File name in directory")) < 500


def test_a_shape_of_many_axes_is_quoted_at_a_readable_length(tmp_path):
    (tmp_path / "a").write_bytes(b"\0\0\x08\xff" + b"\xff" * 1020)
    assert len(refuse(tmp_path / "a", "holds uint8 .4294967295, ")) < 700
