import csv
import io
import os
import pickle
import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps
from support.trees import REAL_DATA, WHY_NO_REAL_DATA, picture, png, tiff
from torch.utils.data import DataLoader
from torchvision.io import decode_jpeg
from torchvision.transforms.v2 import InterpolationMode, functional

from mlcl.data.augment import Augmentation
from mlcl.data.cache import open_cache
from mlcl.data.csv_file import CSVDataset
from mlcl.data.dataset import collate
from mlcl.data.decoding import plain_jpeg, read_size
from mlcl.data.images import ImageError, check_files, read_image, resize
from mlcl.errors import MlclError
from mlcl.inference import load
from mlcl.report.evidence import gather
from mlcl.runs import results

ORIENTATION = 0x0112


def read(path):
    """As (H, W, 3) integers, after checking what is promised of every picture."""
    image = read_image(path)
    assert image.dtype == torch.uint8
    assert image.ndim == 3
    assert image.shape[0] == 3
    return image.permute(1, 2, 0).numpy().astype(int)


def by_pillow(path):
    with Image.open(path) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB")).astype(int)


def encoded(kind, **options):
    buffer = io.BytesIO()
    picture(24, 16).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("mode", "ending"),
    [
        *((mode, "jpg") for mode in ("RGB", "L", "CMYK")),
        *((mode, "png") for mode in ("RGB", "RGBA", "L", "LA", "P", "1")),
        *((mode, "bmp") for mode in ("RGB", "L", "1")),
        *((mode, "tiff") for mode in ("RGB", "CMYK", "1", "LA", "YCbCr", "LAB")),
        *((mode, "webp") for mode in ("RGB", "RGBA")),
        ("P", "gif"),
    ],
)
def test_every_kind_of_picture_is_read_as_pillow_reads_it(tmp_path, mode, ending):
    path = tmp_path / f"a.{ending}"
    picture(61, 43).convert(mode).save(path)
    image = read(path)
    assert image.shape == (43, 61, 3)
    np.testing.assert_array_equal(image, by_pillow(path))


@pytest.mark.parametrize("options", [{"progressive": True}, {"quality": 30, "subsampling": 2}, {"optimize": True}])
def test_every_kind_of_jpeg_is_read_as_pillow_reads_it(tmp_path, options):
    path = tmp_path / "a.jpg"
    picture(61, 43).save(path, **options)
    np.testing.assert_array_equal(read(path), by_pillow(path))


@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"exif": b"Exif\0\0" + b"\0" * 300}])
def test_no_plain_jpeg_waits_for_pillow(tmp_path, monkeypatch, mode, options):
    picture(61, 43).convert(mode).save(tmp_path / "a.jpg", **options)
    expected = by_pillow(tmp_path / "a.jpg")
    monkeypatch.setattr(Image, "open", lambda *_, **__: pytest.fail("Pillow opened it"))
    np.testing.assert_array_equal(read(tmp_path / "a.jpg"), expected)


def test_a_lossless_picture_comes_back_exactly(tmp_path):
    picture().save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(picture()))


def test_the_ending_does_not_matter(tmp_path):
    picture().save(tmp_path / "a.txt", "png")
    np.testing.assert_array_equal(read(tmp_path / "a.txt"), np.asarray(picture()))


def test_grey_has_three_equal_channels(tmp_path):
    picture().convert("L").save(tmp_path / "a.jpg")
    image = read(tmp_path / "a.jpg")
    assert (image == image[:, :, :1]).all()
    assert image.std() > 10


def test_alpha_is_dropped_not_blended(tmp_path):
    image = picture().convert("RGBA")
    image.putalpha(7)
    image.save(tmp_path / "a.png")
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(picture()))


def test_a_palette_with_transparency_is_read_without_a_word(tmp_path):
    picture().convert("P").save(tmp_path / "a.png", transparency=bytes(range(200)))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), np.asarray(picture().convert("P").convert("RGB")))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path):
    values = np.linspace(0, 65535, 30 * 20).astype(np.uint16).reshape(20, 30)
    Image.fromarray(values).save(tmp_path / "a.png")
    image = read(tmp_path / "a.png")
    np.testing.assert_array_equal(image, np.repeat((values // 256)[..., None], 3, axis=2))
    assert len(np.unique(image)) > 200


def test_16_bit_colour_is_scaled_not_clipped(tmp_path):
    values = np.random.default_rng(0).integers(0, 65536, (5, 7, 3)).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in values)
    (tmp_path / "a.png").write_bytes(png(7, 5, 16, 2, lines))
    np.testing.assert_array_equal(read(tmp_path / "a.png"), values.astype(int) // 256)


RAMP = np.linspace(0, 1, 30 * 20).reshape(20, 30)


def grey(path, values, **how):
    """Write a grey picture of these values, read it again: (H, W) integers."""
    Image.fromarray(values).save(path)
    image = read_image(path, **how).permute(1, 2, 0).numpy().astype(int)
    assert (image == image[:, :, :1]).all()
    return image[:, :, 0]


@pytest.mark.parametrize("ending", ["png", "tiff"])
@pytest.mark.parametrize("bits", [8, 10, 12, 14])
def test_few_bits_stored_in_16_are_refused_until_it_is_said_what_is_white(tmp_path, bits, ending):
    white = 2**bits - 1
    values = (RAMP * white).astype(np.uint16)
    with pytest.raises(
        ImageError, match=rf"a\.{ending}: whole numbers from 0 to {white}, .* 65535 white; --data\.white"
    ):
        grey(tmp_path / f"a.{ending}", values)
    np.testing.assert_array_equal(grey(tmp_path / f"a.{ending}", values, white=white), values // 2 ** (bits - 8))
    dark = grey(tmp_path / f"a.{ending}", values, white=65535)  # so it was meant
    np.testing.assert_array_equal(dark, values // 256)


def test_what_is_white_need_not_be_a_power_of_two(tmp_path):
    assert grey(tmp_path / "a.png", np.array([[0, 500, 1000]], dtype=np.uint16), white=1000).tolist() == [[0, 127, 255]]
    assert grey(tmp_path / "a.png", np.array([[0, 1]], dtype=np.uint16), white=1).tolist() == [[0, 255]]


@pytest.mark.parametrize(
    ("least", "most", "white"), [(0, 1, None), (0, 0.5, None), (0, 1, 1), (0, 255, 255), (0, 200, 255), (0, 4095, 4095)]
)
def test_floats_are_scaled_by_what_is_white(tmp_path, least, most, white):
    values = (least + RAMP * (most - least)).astype(np.float32)
    found = grey(tmp_path / "a.tiff", values, white=white)
    assert np.abs(found - values * 255 / (white or 1)).max() <= 0.51
    assert len(np.unique(found)) > 100


NOT_MEANT = {
    "floats up to 255": (RAMP * 255, None, "floats from 0 to 255, where 0 would be black and 1 white"),
    "dark floats": (RAMP / 16, None, "floats from 0 to 0.0625"),
    "negative floats": (RAMP * 2 - 1, None, "floats from -1 to 1"),
    "floats beyond white": (RAMP * 256, 255.0, "floats from 0 to 256, where 0 would be black and 255 white"),
    "negative floats, though white is given": (RAMP * 2 - 1, 1.0, "floats from -1 to 1"),
    "not a number": (np.where(RAMP > 0.5, np.nan, RAMP), 1.0, "floats from nan to nan"),
    "infinite": (np.where(RAMP > 0.5, np.inf, RAMP), None, "floats from 0 to inf"),
    "floats up to 1 among 12 bits": (RAMP, 4095.0, "floats from 0 to 1, where 0 would be black and 4095 white"),
}


@pytest.mark.parametrize("name", NOT_MEANT)
def test_floats_in_another_range_are_refused_with_their_range(tmp_path, name):
    values, white, words = NOT_MEANT[name]
    with pytest.raises(ImageError, match=words) as error:
        grey(tmp_path / "a.tiff", values.astype(np.float32), white=white)
    assert ("--data.white" in str(error.value) or "without nan" in str(error.value)) and "\n" not in str(error.value)


def test_a_black_picture_of_floats_is_black_whatever_is_white(tmp_path):
    assert grey(tmp_path / "a.tiff", np.zeros((2, 2), np.float32), white=4095).max() == 0


@pytest.mark.parametrize("values", [[-300, 0, 25_600], [0, 10_000_000, 5], [0, 100, 255]])
def test_wide_integers_are_neither_clipped_nor_guessed(tmp_path, values):
    with pytest.raises(ImageError, match=f"whole numbers from {min(values)} to {max(values):.7g}".replace("+", r"\+")):
        grey(tmp_path / "a.tiff", np.array([values], dtype=np.int32))
    if min(values) == 0:
        assert grey(tmp_path / "a.tiff", np.array([values], dtype=np.int32), white=max(values)).max() == 255


def test_a_tiff_of_12_bits_says_so_itself(tmp_path):
    packed = b"".join(bytes((v >> 4, (v & 15) << 4 | v >> 8, v & 255)) for v in (0, 1600, 4095))  # each value twice
    (tmp_path / "a.tiff").write_bytes(tiff(6, 1, 12, packed))
    assert read(tmp_path / "a.tiff")[0, :, 0].tolist() == [0, 0, 100, 100, 255, 255]


def test_a_tiff_in_which_0_is_white(tmp_path):
    for depth, values in ((8, np.uint8([0, 100, 255])), (16, np.uint16([0, 25_700, 65_535]))):
        (tmp_path / "a.tiff").write_bytes(tiff(3, 1, depth, values.tobytes(), black_is_zero=False))
        assert read(tmp_path / "a.tiff")[0, :, 0].tolist() == [255, 155, 0]


def test_a_tiff_of_signed_numbers_is_white_at_their_largest(tmp_path):
    (tmp_path / "a.tiff").write_bytes(tiff(3, 1, 16, np.int16([0, 12_800, 32_767]).tobytes(), signed=True))
    assert read(tmp_path / "a.tiff")[0, :, 0].tolist() == [0, 100, 255]


@pytest.mark.parametrize("largest", [4095, 65535])
def test_a_pgm_says_itself_what_is_white(tmp_path, largest):
    values = np.array([0, largest // 2, largest], dtype=">u2")
    (tmp_path / "a.pgm").write_bytes(b"P5 3 1 %d\n" % largest + values.tobytes())
    assert read(tmp_path / "a.pgm")[0, :, 0].tolist() == [0, 127, 255]


def test_16_bits_in_big_endian_order(tmp_path):
    values = (RAMP * 65535).astype(">u2")
    np.testing.assert_array_equal(grey(tmp_path / "a.tiff", values), values.astype(int) // 256)


def test_dark_colour_of_16_bits_is_refused_until_it_is_meant(tmp_path):
    values = np.random.default_rng(0).integers(0, 4096, (5, 7, 3)).astype(">u2")
    lines = b"".join(b"\0" + line.tobytes() for line in values)
    (tmp_path / "a.png").write_bytes(png(7, 5, 16, 2, lines))
    for white in (None, 4095):  # Pillow gives the upper 8 bits only, so that nothing is left to scale
        with pytest.raises(ImageError, match=r"colour of 16 bits.*--data\.white 65535.*save it with 8 bits"):
            read_image(tmp_path / "a.png", white=white)
    assert read_image(tmp_path / "a.png", white=65535).max() == 15


def test_what_is_white_changes_no_picture_of_8_bits(tmp_path):
    for mode, ending in (("RGB", "jpg"), ("L", "png"), ("P", "png"), ("CMYK", "tiff"), ("1", "bmp")):
        path = tmp_path / f"a.{ending}"
        picture().convert(mode).save(path)
        assert torch.equal(read_image(path, white=4095), read_image(path))


@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_larger_pictures_are_read_if_that_is_asked_for(tmp_path, monkeypatch, ending):
    path, limit = tmp_path / f"a.{ending}", Image.MAX_IMAGE_PIXELS
    picture(20, 20).save(path)
    with pytest.raises(ImageError, match=rf"a\.{ending}: Image size \(400 pixels\) .*--data\.max_pixels"):
        read_image(path, max_pixels=100)
    assert Image.MAX_IMAGE_PIXELS == limit
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ImageError, match=r"limit of \d+ pixels.*--data\.max_pixels"):
        read_image(path)
    assert read_image(path, max_pixels=400).shape == (3, 20, 20)
    assert Image.MAX_IMAGE_PIXELS == 100
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)  # as many do
    assert read_image(path).shape == (3, 20, 20)
    assert Image.MAX_IMAGE_PIXELS is None


def test_a_path_that_was_written_on_windows_is_told(tmp_path):
    with pytest.raises(ImageError, match=r"no such image.*Windows.*use /"):
        read_image(tmp_path / "images\\00.png")
    with pytest.raises(ImageError, match=r"1 of 1 train images are missing.*Windows.*use /"):
        check_files([tmp_path / "images\\00.png"], "train", 0)
    with pytest.raises(ImageError) as error:
        check_files([tmp_path / "images" / "00.png"], "train", 0)
    assert "Windows" not in str(error.value)


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
def test_an_exif_rotation_is_applied(tmp_path, ending):
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    for orientation in range(1, 9):
        exif[ORIENTATION] = orientation
        picture(60, 40).save(path, exif=exif)
        image = read(path)
        assert image.shape == ((40, 60, 3) if orientation <= 4 else (60, 40, 3))
        np.testing.assert_array_equal(image, by_pillow(path))


@pytest.mark.parametrize("ending", ["jpg", "png", "tiff", "webp"])
def test_the_size_alone_is_that_of_the_upright_picture(tmp_path, ending):
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    for orientation in range(1, 9):
        exif[ORIENTATION] = orientation
        picture(60, 40).save(path, exif=exif)
        assert read_size(path) == tuple(read_image(path).shape[1:])
    with pytest.raises(ImageError, match="max_pixels"):
        read_size(path, max_pixels=500)
    path.write_bytes(b"no picture")
    with pytest.raises(ImageError, match="not a picture"):
        read_size(path)


@pytest.mark.parametrize(("orientation", "corner"), [(1, (0, 0)), (3, (-1, -1)), (6, (0, -1)), (8, (-1, 0))])
def test_the_red_corner_is_where_the_camera_saw_it(tmp_path, orientation, corner):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    picture(60, 40).save(tmp_path / "a.jpg", exif=exif, quality=95)  # red at its top left
    red, *others = read(tmp_path / "a.jpg")[corner]
    assert red > 200
    assert max(others) < 60


def test_the_first_frame_of_an_animation(tmp_path):
    first, second = picture().convert("P"), ImageOps.invert(picture()).convert("P")
    for ending, options in (("gif", {}), ("webp", {"lossless": True}), ("png", {})):
        path = tmp_path / f"a.{ending}"
        first.convert("RGB").save(path, save_all=True, append_images=[second.convert("RGB")], **options)
        np.testing.assert_array_equal(read(path), by_pillow(path))
        assert np.abs(read(path) - np.asarray(first.convert("RGB")).astype(int)).mean() < 12


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP"])
def test_one_pixel(tmp_path, kind):
    Image.new("RGB", (1, 1), (9, 9, 9)).save(tmp_path / "a", kind)
    assert read(tmp_path / "a").tolist() == [[[9, 9, 9]]]


def test_warnings_as_errors_change_nothing(tmp_path):
    picture().save(tmp_path / "a.jpg")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = read(tmp_path / "a.jpg")
    np.testing.assert_array_equal(first, by_pillow(tmp_path / "a.jpg"))


GOOD_JPEG, GOOD_PNG = encoded("JPEG", quality=90), encoded("PNG")
BROKEN = {
    "empty": b"",
    "text": b"hello\nthis is a text\n",
    "html": b"<html>\n<body>404 not found</body></html>",
    "json": b'{"a": 1}',
    "jpeg_cut_in_half": GOOD_JPEG[: len(GOOD_JPEG) // 2],
    "jpeg_without_its_last_byte": GOOD_JPEG[:-1],
    "jpeg_header_only": GOOD_JPEG[:20],
    "png_cut_in_half": GOOD_PNG[: len(GOOD_PNG) // 2],
    "png_header_only": GOOD_PNG[:33],
    "webp_cut_in_half": encoded("WEBP")[:150],
    "gif_cut_in_half": encoded("GIF")[:900],
    "bmp_cut_in_half": encoded("BMP")[:700],
    "tiff_cut_in_half": encoded("TIFF")[:700],
    "no_width": png(0, 10, 8, 2, b"\0"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_be_read_is_named_in_one_line(tmp_path, name):
    path = tmp_path / f"{name}.jpg"
    path.write_bytes(BROKEN[name])
    with pytest.raises(ImageError) as error:
        read_image(path)
    message = str(error.value)
    assert isinstance(error.value, MlclError)
    assert message.startswith(f"{path}: ")
    assert len(message) > len(f"{path}: ")
    assert "\n" not in message
    assert ".cpp" not in message


@pytest.mark.parametrize("side", [12_000, 30_000])
def test_a_decompression_bomb_is_refused_by_its_header(tmp_path, side):
    (tmp_path / "a.png").write_bytes(png(side, side, 8, 2, b"\0"))
    with pytest.raises(ImageError, match=rf"a\.png: Image size \({side**2} pixels\) exceeds limit"):
        read_image(tmp_path / "a.png")


@pytest.mark.parametrize("name", ["nothing.jpg", "folder", "no/such/folder.png", "é b.jpg"])
def test_what_is_not_there_is_named_in_one_line(tmp_path, name):
    (tmp_path / "folder").mkdir()
    with pytest.raises(ImageError) as error:
        read_image(str(tmp_path / name))
    assert str(error.value).startswith(f"{tmp_path / name}: ")
    assert "\n" not in str(error.value)
    assert str(error.value).count(name) == 1


def test_a_missing_file_and_a_wrong_one_are_told_apart(tmp_path):
    with pytest.raises(ImageError, match="no such image"):
        read_image(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").write_text("hello")
    with pytest.raises(ImageError, match="not a picture"):
        read_image(tmp_path / "a.jpg")


def test_a_damaged_png_ends_no_process(tmp_path):
    """Each of these is a segmentation fault in torchvision 0.29.2's decode_png."""
    start = GOOD_PNG.index(b"IDAT") + 4
    for place in range(start, start + 60, 3):
        damaged = bytearray(GOOD_PNG)
        damaged[place] ^= 0xFF
        (tmp_path / "a.png").write_bytes(damaged)
        with pytest.raises(ImageError):
            read_image(tmp_path / "a.png")


@pytest.fixture(scope="module")
def scratch(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "picture"


def a_picture_or_an_image_error(path, data):
    path.write_bytes(data)
    try:
        read(path)
    except ImageError as error:
        assert "\n" not in str(error)
        assert str(error).startswith(f"{path}: ")


HEADS = [b"", GOOD_JPEG[:4], GOOD_JPEG[:200], GOOD_PNG[:33], b"GIF89a", b"BM", b"II*\0", b"RIFF\x40\0\0\0WEBPVP8 "]


@settings(max_examples=40, deadline=None, derandomize=True)
@given(head=st.sampled_from(HEADS), tail=st.binary(max_size=300))
def test_any_bytes_give_a_picture_or_an_image_error(scratch, head, tail):
    a_picture_or_an_image_error(scratch, head + tail)


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    original=st.sampled_from([GOOD_JPEG, encoded("JPEG", progressive=True), GOOD_PNG, encoded("WEBP"), encoded("GIF")]),
    length=st.floats(0, 1) | st.just(1.0),
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), max_size=4),
)
def test_a_damaged_picture_gives_a_picture_or_an_image_error(scratch, original, length, flips):
    data = bytearray(original[: round(length * len(original))])
    for place, mask in flips if data else ():
        data[int(place * len(data))] ^= mask
    a_picture_or_an_image_error(scratch, bytes(data))


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
def test_real_photographs_are_read_as_pillow_reads_them():
    paths = sorted(REAL_DATA.glob("coco2014/train2014/*.jpg"))[:12] + sorted(REAL_DATA.glob("voc*/**/*.jpg"))[:12]
    assert len(paths) == 24
    for path in paths:
        np.testing.assert_array_equal(read(path), by_pillow(path))


def test_postscript_is_not_handed_to_an_interpreter(tmp_path):
    file = tmp_path / "a.jpg"
    Image.new("RGB", (8, 8)).save(file, "EPS")
    with pytest.raises(ImageError, match="not a picture"):
        read_image(file)


def test_sixteen_bits_are_scaled_even_where_all_is_dark(tmp_path):
    Image.fromarray(np.full((4, 4), 255, dtype=np.uint16)).save(tmp_path / "dark.png")
    assert read_image(tmp_path / "dark.png", white=65535).max() == 0


# --- The frame header of a JPEG, which is looked up by hand

FRAME = GOOD_JPEG.index(b"\xff\xc0")
BEFORE, AFTER = GOOD_JPEG[:FRAME], GOOD_JPEG[FRAME:]
HUGE = 30_000


def framed(height: int, width: int, channels: int = 3, kind: int = 0xC0, depth: int = 8) -> bytes:
    """A frame header."""
    parts = b"".join(bytes((c + 1, 0x11, 0)) for c in range(channels))
    content = bytes((depth,)) + struct.pack(">HHB", height, width, channels) + parts
    return bytes((0xFF, kind)) + struct.pack(">H", len(content) + 2) + content


def resized(height: int, width: int, **options: int) -> bytes:
    """The good JPEG with another frame header in the place of its own."""
    return BEFORE + framed(height, width, **options) + AFTER[2 + int.from_bytes(AFTER[2:4]) :]


SMALL = framed(16, 24)
ODD_JPEGS = {
    "a bomb": resized(HUGE, HUGE),
    "the largest there can be": resized(65_500, 65_500),
    "a progressive bomb": resized(HUGE, HUGE, kind=0xC2),
    # libjpeg takes the padding for what it is; a walk that does not would jump to the small frame
    "a bomb behind padding": BEFORE + b"\xff" + framed(HUGE, HUGE) + bytes(0xC002 - 20) + SMALL * 3000 + AFTER,
    "a bomb behind a segment of length 0": BEFORE + b"\xff\xe5\0\0" + SMALL + resized(HUGE, HUGE)[FRAME:],
    "a bomb behind a marker without length": BEFORE + b"\xff\x01\0\x13" + framed(HUGE, HUGE) + SMALL + AFTER,
    "a bomb behind a restart": BEFORE + b"\xff\xd0\0\x13" + framed(HUGE, HUGE) + SMALL + AFTER,
    "a bomb behind a stuffed zero": BEFORE + b"\xff\0\0\x13" + framed(HUGE, HUGE) + SMALL + AFTER,
    "a bomb after a small frame": BEFORE + SMALL + framed(HUGE, HUGE) + AFTER,
    "a bomb before a small frame": BEFORE + framed(HUGE, HUGE) + AFTER,
    "no height": resized(0, 24),
    "no width": resized(16, 0),
    "two channels": resized(16, 24, channels=2),
    "no channel": resized(16, 24, channels=0),
    "255 channels": resized(16, 24, channels=255),
    "12 bits": resized(16, 24, depth=12),
    "16 bits": resized(16, 24, depth=16),
    **{f"frame {kind:x}": resized(16, 24, kind=kind) for kind in (0xC3, 0xC5, 0xC9, 0xCF)},
    **{f"cut after {n}": GOOD_JPEG[: FRAME + n] for n in range(0, 12, 3)},
    "the start alone": b"\xff\xd8",
    "segments without end": b"\xff\xd8" + b"\xff\xe0\0\x02" * 50_000,
    "zeros": b"\xff\xd8" + bytes(50_000),
    "0xff alone": b"\xff\xd8" + b"\xff" * 50_000,
    "a length beyond the end": b"\xff\xd8\xff\xe0\xff\xff" + bytes(100),
}


@pytest.mark.parametrize("name", ODD_JPEGS)
def test_an_odd_jpeg_is_a_small_picture_or_one_line(tmp_path, name):
    """In a process that may not take the memory of a bomb; what is odd goes to Pillow, not to torchvision."""
    (tmp_path / "a.jpg").write_bytes(ODD_JPEGS[name])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        assert read(tmp_path / "a.jpg").size <= 3 * 24 * 16
    except ImageError as error:
        assert str(error).startswith(f"{tmp_path / 'a.jpg'}: ") and "\n" not in str(error)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # in KB; a bomb takes 2.7 GB


@pytest.mark.parametrize("name", [name for name in ODD_JPEGS if "bomb" in name and "after" not in name])
def test_torchvision_is_given_no_bomb(name):
    """A second frame is an error of libjpeg's, so that the first one counts."""
    assert not plain_jpeg(bytearray(ODD_JPEGS[name]))


@pytest.mark.parametrize("name", ["a bomb", "a progressive bomb", "the largest there can be"])
def test_a_jpeg_that_claims_to_be_a_bomb_is_refused_by_its_header(tmp_path, name):
    (tmp_path / "a.jpg").write_bytes(ODD_JPEGS[name])
    with pytest.raises(ImageError, match=r"a\.jpg: Image size \(\d+ pixels\) exceeds limit"):
        read_image(tmp_path / "a.jpg")


PIECES = [
    SMALL,
    framed(HUGE, HUGE),
    b"\xff",
    b"\0",
    b"\xff\xe0\0\x04ab",
    b"\xff\xe1\0\0",
    b"\xff\xd0",
    b"\xff\xda\0\x02",
]


@pytest.mark.filterwarnings("ignore:.*decod")  # torchvision 0.29 deprecates its decoders
@settings(max_examples=60, deadline=None, derandomize=True)
@given(pieces=st.lists(st.sampled_from(PIECES) | st.binary(max_size=8), max_size=8), end=st.sampled_from([b"", AFTER]))
def test_whatever_stands_before_the_frame_torchvision_decodes_no_bomb(pieces, end):
    data = bytearray(b"\xff\xd8" + b"".join(pieces) + end)
    if plain_jpeg(data):
        try:
            assert decode_jpeg(torch.frombuffer(data, dtype=torch.uint8)).numel() < 3 * Image.MAX_IMAGE_PIXELS
        except RuntimeError:
            pass


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes here")
def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match="not a regular file"):
        read_image(tmp_path / "a.jpg")


@pytest.mark.skipif(hasattr(os, "getuid") and os.getuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read_is_named(tmp_path):
    picture().save(tmp_path / "a.jpg")
    (tmp_path / "a.jpg").chmod(0)
    with pytest.raises(ImageError, match=r"a\.jpg: Permission denied"):
        read_image(tmp_path / "a.jpg")


def test_a_circle_of_links_is_named(tmp_path):
    (tmp_path / "a.jpg").symlink_to(tmp_path / "b.jpg")
    (tmp_path / "b.jpg").symlink_to(tmp_path / "a.jpg")
    with pytest.raises(ImageError, match=r"a\.jpg: "):
        read_image(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", ["a\0b.jpg", "n" * 100_000])
def test_a_name_that_no_file_can_have_is_an_image_error(tmp_path, name):
    with pytest.raises(ImageError):
        read_image(tmp_path / name)


def test_a_disk_that_went_away_is_told_from_a_bad_picture(tmp_path):
    error = ImageError("a.jpg: no such image")
    assert "mlcl check" in str(error.with_remedy(tmp_path / "a.jpg"))
    assert "its folder is gone, too" in str(error.with_remedy(tmp_path / "gone" / "a.jpg"))


# --- The same pixels wherever a dataset's pictures are read


@pytest.mark.filterwarnings("ignore:.*use of fork", "ignore:.*DataLoader will create")
def test_loader_processes_read_as_the_dataset_says(tmp_path):
    """Forked ones; and spawned ones, which get the dataset as a pickle and nothing else of this process."""
    (tmp_path / "labels.csv").write_text("image,a\na.png,1\nb.png,0\n")
    for name in "ab":
        Image.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / f"{name}.png")
    settings = {"root": str(tmp_path), "image_size": 24, "augment": "none", "num_workers": 0}
    data = CSVDataset(**settings, white=4095, max_pixels=600)
    data.read_splits()
    dataset = data.dataset("train")
    expected = [dataset.augmentation(read_image(path, white=4095)) for path in dataset.samples.paths]
    loader = DataLoader(dataset, 2, num_workers=1, multiprocessing_context="fork", collate_fn=collate)
    for batch in (next(iter(loader)), collate(pickle.loads(pickle.dumps(dataset)).__getitems__([0, 1]))):
        assert torch.equal(batch["image"], torch.stack(expected))
    small = CSVDataset(**settings, white=4095, max_pixels=599)
    small.read_splits()
    loader = DataLoader(small.dataset("train"), 2, num_workers=1, multiprocessing_context="fork", collate_fn=collate)
    for read_first in (lambda: next(iter(loader)), lambda: pickle.loads(pickle.dumps(loader.dataset))[0]):
        with pytest.raises(ImageError, match=r"Image size \(600 pixels\)"):
            read_first()


@pytest.mark.slow
def test_the_cache_knows_how_pictures_were_read(tmp_path):
    Image.fromarray((RAMP * 4095).astype(np.uint16)).save(tmp_path / "a.png")
    square, paths = Augmentation(20), [tmp_path / "a.png"]
    for white in (4095, 65535):
        cache = open_cache(paths, square, "disk", tmp_path / "cache", reading={"white": white})
        assert torch.equal(cache(0)[0], square(read_image(paths[0], white=white)))
    for reading in (None, {"white": 4095, "max_pixels": 599}):
        with pytest.raises(ImageError, match=r"a\.png: "):
            open_cache(paths, square, "disk", tmp_path / "cache", reading=reading)


@pytest.mark.slow
def test_what_is_white_goes_from_the_training_to_all_that_comes_after(mlcl, tmp_path):
    """Test, prediction, calibration and report read what the network was trained on."""
    rows = ["image,a,b,split", *(f"{i}.png,{i % 2},1,{'train' if i < 6 else 'test'}" for i in range(9))]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "labels.csv").write_text("\n".join(rows))
    for i in range(9):
        values = np.asarray(picture(30, 30, seed=i).convert("L")).astype(np.uint16) * 16
        Image.fromarray(values).save(tmp_path / "data" / f"{i}.png")
    network = ["--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"]
    given = ["--data", "CSVDataset", "--data.root", "data", "--data.image_size", "32", "--data.num_workers", "0"]
    given += ["--data.val_fraction", "0.3", "--trainer.max_epochs", "1", "--data.white", "4095"]
    outcome = mlcl("fit", *given, *network, "--data.max_pixels", "900")
    assert outcome.status == 0, outcome.err
    run = tmp_path / "runs" / "run" / "version_0"
    with np.load(run / "scores.npz") as stored:
        expected = torch.sigmoid(torch.from_numpy(stored["logits"]))
    paths = [tmp_path / "data" / f"{i}.png" for i in (6, 7, 8)]
    model = load(run, "cpu")
    assert model.reading == {"white": 4095, "max_pixels": 900}
    for pictures in (paths, [Image.open(path) for path in paths]):
        torch.testing.assert_close(model(pictures).scores, expected, atol=1e-5, rtol=0)
    predict = ["predict", "--ckpt_path", run, "--images", *paths, "--output", "o.csv", "--num_workers", "0"]
    assert mlcl(*predict).status == 0
    rows = csv.DictReader((tmp_path / "o.csv").read_text().splitlines())
    scores = [[float(row["a"]), float(row["b"])] for row in rows]
    torch.testing.assert_close(torch.tensor(scores), expected, atol=1e-5, rtol=0)
    outcome = mlcl("calibrate", "--ckpt_path", run)
    assert outcome.status == 0, outcome.err
    assert load(run / "checkpoints" / "calibrated.ckpt").reading == model.reading
    evidence = gather(results.read(run), {}, [], None, 0, ())
    assert all(torch.equal(evidence.picture(row), read_image(path, white=4095)) for row, path in enumerate(paths))
    outcome = mlcl("test", "--ckpt_path", run, "--data.white", "2000")
    assert outcome.status == 1 and "where 0 would be black and 2000 white; --data.white" in outcome.err.splitlines()[-1]


@pytest.mark.parametrize("interpolation", ["bilinear", "bicubic"])
@pytest.mark.parametrize("capability", ["AVX2", "DEFAULT"])
def test_resizing_is_torchvisions(interpolation, capability, monkeypatch):
    """Bit by bit, in the same order in memory, from both orders; with and without a fast interpolation of bytes."""
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    planes = torch.randint(0, 256, (3, 41, 67), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    rows = planes.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for pixels, side in ((planes, 24), (rows, 24), (rows, 80), (planes[:1].expand(3, -1, -1), 24), (rows[:, 8:], 33)):
        ours, mode = resize(pixels, side, interpolation), InterpolationMode(interpolation)
        theirs = functional.resize(pixels, [side, side], mode, antialias=True)
        assert torch.equal(ours, theirs) and ours.stride() == theirs.stride()
