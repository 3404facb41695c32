import io
import os
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
from support.trees import REAL_DATA, WHY_NO_REAL_DATA, picture, png
from torchvision.io import decode_jpeg

from mlcl.data.images import ImageError, _is_plain_jpeg, read_image
from mlcl.errors import MlclError

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
        *((mode, "tiff") for mode in ("RGB", "CMYK", "1")),
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


def test_wide_integers_never_wrap_around(tmp_path):
    Image.fromarray(np.array([[-300, 0, 25_600, 10_000_000]], dtype=np.int32)).save(tmp_path / "a.tiff")
    assert read(tmp_path / "a.tiff")[0, :, 0].tolist() == [0, 0, 100, 255]


@pytest.mark.parametrize("ending", ["jpg", "webp", "png"])
def test_an_exif_rotation_is_applied(tmp_path, ending):
    path, exif = tmp_path / f"a.{ending}", Image.Exif()
    for orientation in range(1, 9):
        exif[ORIENTATION] = orientation
        picture(60, 40).save(path, exif=exif)
        image = read(path)
        assert image.shape == ((40, 60, 3) if orientation <= 4 else (60, 40, 3))
        np.testing.assert_array_equal(image, by_pillow(path))


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
    assert read_image(tmp_path / "dark.png").max() == 0


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
    assert not _is_plain_jpeg(bytearray(ODD_JPEGS[name]))


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
    if _is_plain_jpeg(data):
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
