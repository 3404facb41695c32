"""Reading a picture in any format as upright 8-bit RGB."""

import io
import math
import os
import re
import stat
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_jpeg

from mlcl.data.file_names import short
from mlcl.errors import MlclError

Image.init()
_FORMATS = [kind for kind in Image.ID if kind != "EPS"]  # which Pillow would hand to Ghostscript
# JPEG's markers: a Huffman-coded frame (baseline, extended, progressive), and the segments allowed before it.
_FRAMES = (0xC0, 0xC1, 0xC2)
_SEGMENTS = frozenset((0xC4, 0xDB, 0xDD, *range(0xE0, 0xF0), 0xFE))


class ImageError(MlclError):
    """A picture that cannot be read; the message names the file and the reason."""

    def with_remedy(self, path: Path) -> "ImageError":
        """Add what to do, for a picture of a dataset."""
        if not path.parent.is_dir():
            return ImageError(f"{self}; its folder is gone, too: is the disk still there?")
        return ImageError(f"{self}; mlcl check finds all of these, --data.on_bad_image skip leaves them out")


def check_files(paths: Sequence[Path], split: str, allowed: int) -> None:
    """Raise ImageError if more than the allowed number of a split's pictures do not exist."""
    # A listing per folder instead of a stat per file: 82,783 files in a tenth of a second.
    present = {folder: set(os.listdir(folder)) for folder in {path.parent for path in paths} if os.path.isdir(folder)}
    missing = [path for path in paths if path.name not in present.get(path.parent, ())]
    if len(missing) > allowed:
        raise ImageError(
            f"{len(missing):,} of {len(paths):,} {split} images are missing, the first is {short(str(missing[0]))}; "
            "check --data.root"
        )


def read_image(path: str | Path) -> Tensor:
    """Decode a picture of any mode: alpha dropped, 16 bits scaled, first frame only, EXIF rotation applied.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        ImageError: if the file is missing, truncated, no picture, or beyond Pillow's decompression-bomb limit.
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would wait for ever
            raise ImageError(f"{path}: not a regular file")
        data = bytearray(Path(path).read_bytes())  # a writable buffer, which torch uses without a copy
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata; torchvision 0.29 deprecates its decoders
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # Torchvision decodes JPEG exactly as Pillow does, and faster. In version 0.29 it crashes on damaged PNG
            # files and ignores WebP's EXIF rotation.
            if _is_plain_jpeg(data):
                raw = torch.frombuffer(data, dtype=torch.uint8)
                decoded: Tensor = decode_jpeg(raw, mode=ImageReadMode.RGB, apply_exif_orientation=True)
                return decoded
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:
                return from_pillow(picture)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not a picture in any known format") from None
    except Exception as error:  # decoders raise whatever they like on broken files
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        reason = re.sub(r"^.*\.cpp:\d+, ", "", reason.splitlines()[0])  # torchvision's source line
        raise ImageError(f"{path}: {reason.rstrip('.')}") from None


def _is_plain_jpeg(data: bytearray) -> bool:
    """Whether this is a JPEG of 1, 3 or 4 channels below the decompression-bomb limit; Pillow reads all others.

    Opening the file with Pillow would take 5 % of the decoding time. Only segments that libjpeg also skips are skipped:
    otherwise a file could be small here and a bomb there.
    """
    at = 2
    while data[:2] == b"\xff\xd8" and at + 10 <= len(data) and data[at] == 0xFF:
        marker, length = data[at + 1], int.from_bytes(data[at + 2 : at + 4])
        if marker in _FRAMES:  # ITU T.81, B.2.2; a second frame is an error in libjpeg
            height, width = (int.from_bytes(data[at + n : at + n + 2]) for n in (5, 7))
            fits = height * width <= (Image.MAX_IMAGE_PIXELS or math.inf)
            return fits and data[at + 4] == 8 and data[at + 9] in (1, 3, 4)
        if marker not in _SEGMENTS or length < 2:  # padding, or markers without a length
            return False
        at += 2 + length
    return False


def from_pillow(picture: Image.Image) -> Tensor:
    """An open Pillow image as (3, H, W) uint8 RGB, upright."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        values = np.asarray(upright).astype(np.int64)
        scaled = values // 256 if upright.mode != "I" or values.max(initial=0) > 255 else values
        upright = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    pixels = np.array(upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # channels-last in memory, as decoded JPEGs are
