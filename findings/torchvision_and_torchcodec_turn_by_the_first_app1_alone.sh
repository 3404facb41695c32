#!/usr/bin/env bash
# Finding: torchvision's and torchcodec's JPEG decoders turn a picture by EXIF only where EXIF is the first APP1 segment of the
# file. XMP is APP1, too: a file with XMP before EXIF, or with its orientation in XMP alone, stays on its side.
#
# Guess before: apply_exif_orientation=True of torchvision, and torchcodec, which always turns, give what Pillow's exif_transpose
# gives, so that training with the one and serving with the other see the same picture.
# Seen (torchvision 0.29.1, torchcodec 0.16.0, Pillow 13.0.0): equal pixels for EXIF alone, and for EXIF before XMP. With XMP
# first, Pillow turns and the two decoders do not; with XMP alone likewise; with an orientation of 32 bits, big-endian, likewise;
# with one of 8 bits they turn and Pillow does not. No warning anywhere.
# Way out: one reader of EXIF for all decoders: give them the file without its APP1 segments, and turn what comes out.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 torchcodec==0.16.0 pillow==13.0.0 numpy
"$folder/venv/bin/python" -W ignore - <<'PYTHON'
import io
import struct

import numpy as np
import PIL
import torch
import torchcodec
import torchvision
from PIL import Image, ImageOps
from torchcodec.decoders import decode_jpeg
from torchvision.io import decode_jpeg as decode_jpeg_torchvision

XMP = (
    '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description '
    'rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
)


def segment(content):
    return b"\xff\xe1" + struct.pack(">H", len(content) + 2) + content


def exif(order, kind, size):  # one entry: orientation 6, a quarter turn
    value = struct.pack(order + size, 6).ljust(4, b"\0")
    head = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(order + "I", 8)
    return segment(b"Exif\0\0" + head + struct.pack(order + "HHHI", 1, 274, kind, 1) + value + bytes(4))


file = io.BytesIO()
blocks = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
Image.fromarray(blocks).resize((48, 32)).save(file, "JPEG")
plain, short, xmp = file.getvalue(), exif("<", 3, "H"), segment(b"http://ns.adobe.com/xap/1.0/\0" + XMP.encode())
cases = {
    "EXIF": short,
    "EXIF, then XMP": short + xmp,
    "XMP, then EXIF": xmp + short,
    "XMP alone": xmp,
    "EXIF, 32 bits, big-endian": exif(">", 4, "I"),
    "EXIF, 8 bits": exif("<", 1, "B"),
}
print(f"torchvision {torchvision.__version__}, torchcodec {torchcodec.__version__}, Pillow {PIL.__version__}")
found = {}
for name, segments in cases.items():
    data = plain[:2] + segments + plain[2:]
    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
    pillow = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(data))))
    vision = decode_jpeg_torchvision(raw, mode="RGB", apply_exif_orientation=True).permute(1, 2, 0).numpy()
    codec = decode_jpeg(raw, mode="RGB").permute(1, 2, 0).numpy()
    found[name] = [pixels.shape[0] > pixels.shape[1] for pixels in (pillow, vision, codec)]  # turned?
    print(f"{name:28} turned by Pillow {found[name][0]}, torchvision {found[name][1]}, torchcodec {found[name][2]}")
    if len({*found[name]}) == 1:
        assert np.array_equal(pillow, vision) and np.array_equal(pillow, codec), "turned alike, and other pixels"
assert found["EXIF"] == found["EXIF, then XMP"] == [True, True, True]
assert found["XMP, then EXIF"] == found["XMP alone"] == [True, False, False], "XMP is no longer in the way"
assert found["EXIF, 32 bits, big-endian"] == [True, False, False]
assert found["EXIF, 8 bits"] == [False, True, True]
PYTHON
