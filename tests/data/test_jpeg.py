"""The decoders of JPEGs: Pillow's pixels from each that is installed, and a choice among them."""

import io
import struct
import subprocess
import sys

import numpy as np
import pytest
import torchvision.io
from PIL import Image, ImageOps
from support.trees import REAL_DATA, WHY_NO_REAL_DATA, picture

from mlcl.data import decoding, images, jpeg

HERE = dict(zip(jpeg.MODULES, map(jpeg.choose, [[module] for module in jpeg.MODULES]), strict=True))
DECODERS = [
    pytest.param(decoder, id=module, marks=pytest.mark.skipif(not decoder, reason=f"{module} decodes no JPEG here"))
    for module, (_, decoder) in HERE.items()
]
TURNS = [None, *range(1, 9)]


def by_pillow(file):
    with Image.open(io.BytesIO(file)) as image:
        return np.asarray(ImageOps.exif_transpose(image).convert("RGB"))


def encoded(mode="RGB", turn=None, **options):
    exif, file = Image.Exif(), io.BytesIO()
    if turn:
        exif[decoding.ORIENTATION] = turn
    picture(43, 31).convert(mode).save(file, "JPEG", exif=exif, **options)
    return file.getvalue()


def segment(content):
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def exif(turn, order="<", kind="H", tag=decoding.ORIENTATION):
    """One entry by hand: EXIF is a TIFF file without a picture."""
    value = struct.pack(order + kind, turn).ljust(4, b"\0")
    number = {"B": 1, "H": 3, "I": 4}[kind]
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return segment(b"Exif\0\0" + head + struct.pack(order + "HHHI", 1, tag, number, 1) + value + bytes(4))


def xmp(turn):
    return segment(
        b'http://ns.adobe.com/xap/1.0/\0<x:xmpmeta xmlns:x="adobe:ns:meta/">'
        b'<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description rdf:about="" '
        b'xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="%d"/></rdf:RDF></x:xmpmeta>' % turn
    )


DESCRIBED = {
    "big-endian": exif(6, ">"),
    "of 32 bits": exif(6, kind="I"),
    "of 32 bits, big-endian": exif(6, ">", "I"),  # torchvision and torchcodec do not turn it
    "of 8 bits": exif(6, kind="B"),  # nor does Pillow, they do
    "0": exif(0),
    "9": exif(9),
    "in XMP alone": xmp(6),  # Pillow alone turns it
    "in XMP, beside EXIF without": exif(6, tag=271) + xmp(6),
    "in EXIF behind XMP": xmp(1) + exif(6),  # Pillow alone turns it
    "in both, EXIF first": exif(1) + xmp(6),
    "twice": exif(6) + exif(3),
    "cut off": segment(exif(6)[4:20]),
    "no TIFF": segment(b"Exif\0\0abcdefgh"),
    "no EXIF": segment(b"abcd") + exif(6),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("progressive", [False, True])
@pytest.mark.parametrize("mode", ["L", "RGB", "CMYK"])
def test_every_decoder_gives_pillows_pixels(decoder, mode, progressive):
    for turn in TURNS:
        for subsampling in (0, 2):
            file = encoded(mode, turn, progressive=progressive, subsampling=subsampling, quality=80)
            assert decoding.plain_jpeg(bytearray(file)), "Pillow would compare itself with itself"
            pixels = decoding.read_pixels("a.jpg", decode_jpeg=decoder, content=bytearray(file))
            np.testing.assert_array_equal(pixels, by_pillow(file))
            assert pixels.flags.writeable


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("before", [b"\xff\xdb", b"\xff\xda"], ids=["first", "behind the frame"])
@pytest.mark.parametrize("name", DESCRIBED)
def test_a_picture_is_turned_as_pillow_turns_it(decoder, name, before):
    plain = encoded()
    at = plain.index(before)
    file = plain[:at] + DESCRIBED[name] + plain[at:]
    pixels = decoding.read_pixels("a.jpg", decode_jpeg=decoder, content=bytearray(file))
    np.testing.assert_array_equal(pixels, by_pillow(file))


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("kept", [0.6, 0.95, 0.999])
def test_half_a_file_is_refused_in_the_same_words(decoder, kept):
    file = bytearray(encoded(quality=95))
    with pytest.raises(decoding.ImageError, match=r"^a\.jpg: Image is incomplete or truncated$"):
        decoding.read_pixels("a.jpg", decode_jpeg=decoder, content=file[: int(len(file) * kept)])


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
@pytest.mark.parametrize("decoder", DECODERS)
def test_real_pictures_are_the_same_by_every_decoder(decoder):
    """Every format of the slices: plain, grey, and with EXIF of real cameras."""
    paths = sorted(REAL_DATA.glob("coco2014/val2014/*.jpg"))[:40] + sorted(REAL_DATA.glob("voc2007/**/*.jpg"))[:30]
    assert len(paths) >= 60
    for path in paths:
        np.testing.assert_array_equal(decoding.read_pixels(path, decode_jpeg=decoder), by_pillow(path.read_bytes()))


# --- The choice


def test_what_decodes_is_named_with_its_version():
    first = next((name for name, decoder in HERE.values() if decoder), "Pillow")
    assert first == images.DECODER
    assert first == "Pillow" or first.split(" ")[1][0].isdigit()


def test_a_torchvision_without_decoders_leaves_it_to_pillow(monkeypatch):
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    assert jpeg.choose(["torchvision.io"]) == ("Pillow", None)
    assert jpeg.choose(["there.is.no.such.module"]) == ("Pillow", None)


@pytest.mark.parametrize("mode", ["GRAY", "UNCHANGED"])
def test_a_decoder_that_gives_other_pixels_is_not_taken(monkeypatch, mode):
    decode = torchvision.io.decode_jpeg
    monkeypatch.setattr(torchvision.io, "decode_jpeg", lambda raw, mode, other=mode: decode(raw, other))
    assert jpeg.choose(["torchvision.io"]) == ("Pillow", None)


@pytest.mark.slow  # another start of Python with torch
@pytest.mark.parametrize("lost", ["del torchvision.io.decode_jpeg", "sys.modules['torchvision.io'] = None"])
def test_everything_starts_and_reads_alike_without_the_decoders(tmp_path, lost):
    file = encoded(turn=6)
    (tmp_path / "a.jpg").write_bytes(file)
    script = f"""
import sys, numpy, torchvision.io
{lost}
sys.modules['torchcodec'] = None
from mlcl.data.images import DECODER, read_image
assert DECODER == "Pillow", DECODER
numpy.save("a.npy", read_image("a.jpg").permute(1, 2, 0).numpy())
import mlcl.data
"""
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, check=True)
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), by_pillow(file))
