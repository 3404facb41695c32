"""Reading a picture in any format as upright 8-bit RGB, with Pillow and NumPy alone."""

import io
import math
import os
import re
import stat
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, UnidentifiedImageError

from mlcl.data.file_names import written_on_windows
from mlcl.errors import MlclError

Pixels = NDArray[np.uint8]  # (H, W, 3) RGB
Decoder = Callable[[bytearray, int], Pixels]  # of a JPEG without EXIF, and the EXIF orientation to turn it by

Image.init()
_FORMATS = [kind for kind in Image.ID if kind != "EPS"]  # which Pillow would hand to Ghostscript
# JPEG's markers: a Huffman-coded frame (baseline, extended, progressive), and the segments allowed before it.
_FRAMES = (0xC0, 0xC1, 0xC2)
_APP1, _SCAN = 0xE1, 0xDA
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"  # what Pillow reads in APP1
_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))
_BITS_PER_SAMPLE, _PHOTOMETRIC, _SAMPLE_FORMAT = 258, 262, 339  # tags of TIFF
ORIENTATION = 274  # of EXIF


class ImageError(MlclError):
    """A picture that cannot be read; the message names the file and the reason."""

    def of_prediction(self, path: str) -> str:
        """The reason alone, with the options as ``mlcl predict`` calls them."""
        return str(self).removeprefix(f"{path}: ").replace("--data.", "--")

    def with_remedy(self, path: Path) -> "ImageError":
        """Add what to do, for a picture of a dataset."""
        if "no such image" in str(self) and not path.parent.is_dir():
            return ImageError(f"{self}; its folder is gone, too: is the disk still there?")
        return ImageError(f"{self}; mlcl check finds all of these, --data.on_bad_image skip leaves them out")


def reading_of(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The arguments of :func:`read_pixels` among the settings of a dataset."""
    return {name: settings[name] for name in ("white", "max_pixels") if settings.get(name) is not None}


def read_pixels(
    path: str | Path,
    white: float | None = None,
    max_pixels: int | None = None,
    decode_jpeg: Decoder | None = None,
    content: bytearray | None = None,
) -> Pixels:
    """Decode a picture of any mode: alpha dropped, scaled to 8 bits, first frame only, EXIF rotation applied.

    Args:
        path: of the file.
        white: the value that is white, see :func:`from_pillow`.
        max_pixels: the most that it may have; by default Pillow's limit against decompression bombs.
        decode_jpeg: decodes an ordinary JPEG in place of Pillow.
        content: of the file, if it is no file of its own; the path is its name in messages.

    Returns:
        (H, W, 3) uint8 RGB.

    Raises:
        ImageError: if the file is missing, truncated, no picture, too large, or its values are not 0 to white.
    """
    with _reading(path, max_pixels, content is None):
        # A writable buffer, which torch uses without a copy.
        data = bytearray(Path(path).read_bytes()) if content is None else content
        if decode_jpeg is not None and (segments := plain_jpeg(data)):
            return _decoded(data, segments, decode_jpeg)
        with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
            return from_pillow(picture, white)


def read_size(path: str | Path, max_pixels: int | None = None) -> tuple[int, int]:
    """Height and width of a picture as :func:`read_pixels` turns it, mostly from its header alone; the same errors."""
    with _reading(path, max_pixels, True), Image.open(path, formats=_FORMATS) as picture:
        turned = picture.getexif().get(ORIENTATION, 1) != 1
        width, height = (ImageOps.exif_transpose(picture) if turned else picture).size
        return height, width


@contextmanager
def _reading(path: str | Path, max_pixels: int | None, from_file: bool) -> Iterator[None]:
    """Whatever goes wrong while a picture is read becomes an ImageError."""
    limit = Image.MAX_IMAGE_PIXELS
    try:
        if from_file and not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would wait for ever
            raise ImageError(f"{path}: not a regular file")
        Image.MAX_IMAGE_PIXELS = max_pixels or limit  # the whole process has one
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; torchvision 0.29 deprecates its decoders, see jpeg.py
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            yield
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image{written_on_windows(path)}") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not a picture in any known format") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise ImageError(f"{path}: {str(error).rstrip('.')}; for files you trust, --data.max_pixels N") from None
    except Exception as error:  # decoders raise whatever they like on broken files
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        reason = re.sub(r"^.*\.cpp:\d+, ", "", reason.splitlines()[0])  # a line of C++ source
        if "truncated" in reason.lower():  # each decoder has words of its own
            reason = "Image is incomplete or truncated"
        raise ImageError(f"{path}: {reason.rstrip('.')}") from None
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def plain_jpeg(data: bytearray) -> list[tuple[int, slice]]:
    """The segments before the pixels, marker and place, of a JPEG of 1, 3 or 4 channels below the limit against bombs.

    Of any other, which Pillow then reads, none. Opening the file with Pillow would take 5 % of the decoding time. Only
    segments that libjpeg also skips are skipped: otherwise a file could be small here and a bomb there.
    """
    found: list[tuple[int, slice]] = []
    at, fits = 2, False
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker == _SCAN:
            return found if fits else []
        if marker in _FRAMES and not fits:  # ITU T.81, B.2.2; a second frame is an error in libjpeg
            height, width = (int.from_bytes(data[at + n : at + n + 2]) for n in (5, 7))
            fits = height * width <= (Image.MAX_IMAGE_PIXELS or math.inf)
            fits = fits and data[at + 4] == 8 and data[at + 9] in (1, 3, 4)
            if not fits:
                return []
        elif marker not in _SEGMENTS or length < 2:  # padding, or markers without a length
            return []
        found.append((marker, slice(at, at + 2 + length)))
        at += 2 + length
    return []


def _decoded(data: bytearray, segments: list[tuple[int, slice]], decode_jpeg: Decoder) -> Pixels:
    """A plain JPEG, turned by what Pillow reads in EXIF or XMP; the decoders look at the first such segment alone."""
    described = [place for marker, place in segments if marker == _APP1]
    if not described:
        return decode_jpeg(data, 1)
    texts = [bytes(data[place.start + 4 : place.stop]) for place in described]
    turn: Any = 1
    with suppress(Exception):  # broken EXIF says nothing, and raises whatever it likes
        if len(texts) == 1 and texts[0].startswith(_EXIF):
            exif = Image.Exif()
            exif.load(texts[0])
            turn = exif.get(ORIENTATION, 1)
        elif any(text.startswith((_EXIF, _XMP)) for text in texts):  # twice as slow
            with Image.open(io.BytesIO(data), formats=["JPEG", "MPO"]) as picture:
                turn = picture.getexif().get(ORIENTATION, 1)
    bare = bytearray(data)
    for place in reversed(described):
        del bare[place]
    return decode_jpeg(bare, turn)


def from_pillow(picture: Image.Image, white: float | None = None) -> Pixels:
    """An open Pillow image as (H, W, 3) uint8 RGB, upright.

    No picture of more than 8 bits tells which value is white: 12 bits in 16 look like a dark picture of 16.

    Args:
        picture: of any mode.
        white: that value; by default the largest of the type, 1 for floats, if the picture comes near it.

    Raises:
        MlclError: if a value lies beyond 0 and white; by default also if all of them are below a quarter of white.
    """
    tags = getattr(picture, "tag_v2", {})  # of a TIFF
    colour16 = re.search(r";16[BLN]", str(getattr(picture, "tile", [])[:1]))  # Pillow takes the upper 8 bits of it
    picture.load()  # a PNG's EXIF may follow its pixels
    upright = ImageOps.exif_transpose(picture) if picture.getexif().get(ORIENTATION, 1) != 1 else picture  # or a copy
    if upright.mode[0] in "IF":  # grey of more than 8 bits, which Pillow's own conversion clips
        upright, colour16 = Image.fromarray(_scaled(upright, tags, white)), None
    pixels = np.array(upright if upright.mode == "RGB" else upright.convert("RGB"))
    if colour16 and (pixels.max() < 64 if white is None else white != 65535):
        raise MlclError(
            f"colour of 16 bits, up to {int(pixels.max()) * 256 + 255}, is read as if 65535 were white: --data.white "
            "65535 if that is right, else save it with 8 bits"
        )
    return pixels


def _scaled(grey: Image.Image, tags: Any, white: float | None) -> NDArray[np.uint8]:
    """(H, W), with 255 for white; MlclError for values that cannot be meant so."""
    values, whole = np.asarray(grey).astype(np.float64), grey.mode[0] == "I"
    bits = tags.get(_BITS_PER_SAMPLE, (16,))[0] - (tags.get(_SAMPLE_FORMAT, (1,))[0] == 2)  # 2: one is the sign
    top = white or (2.0**bits - 1 if whole else 1.0)
    low, high = values.min(), values.max()
    dark = high < top / 4 if white is None else not whole and 0 < high <= 1 < top  # floats beside whole numbers
    if dark or not (low >= 0 and high <= top):  # nan, too
        remedy = "--data.white says what is white (255, 4095 for 12 bits, 65535 for 16, 1 for floats)"
        raise MlclError(
            f"{'whole numbers' if whole else 'floats'} from {low:.7g} to {high:.7g}, where 0 would be black and "
            f"{top:.10g} white; {remedy if low >= 0 else 'save it without nan and values below 0'}"
        )
    if tags.get(_PHOTOMETRIC) == 0:  # 0 is white, which Pillow minds with 8 bits only
        values = top - values
    scaled = np.floor(values * 256 / (top + 1)) if whole and top >= 255 else (values * 255 / top).round()
    return np.asarray(scaled, dtype=np.uint8)
