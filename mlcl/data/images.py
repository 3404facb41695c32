"""Reading one picture, whatever it is, as upright 8-bit RGB."""

import io
import os
import re
import stat
import warnings
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image

from mlcl.errors import MlclError

# JPEG: what torchvision decodes exactly as Pillow does, and faster. The rest (PNG, at whose damaged files torchvision
# 0.29 dies with a segmentation fault, WebP whose EXIF it ignores, GIF, BMP, TIFF, ...) goes through Pillow.
_FAST_MODES = {"RGB", "L", "CMYK"}
# Without EPS, which Pillow would hand to Ghostscript.
Image.init()
_FORMATS = [kind for kind in Image.ID if kind != "EPS"]


class ImageError(MlclError):
    """A picture that cannot be read; the message names the file and the reason."""


def read_image(path: str | Path) -> Tensor:
    """Decode a picture.

    Greyscale, CMYK, palette, transparent (alpha dropped), 16-bit and animated (first frame) pictures all become
    RGB; an EXIF rotation is applied.

    Returns:
        (3, H, W) uint8 RGB.

    Raises:
        ImageError: if the file is missing, truncated, no picture, or too large to be one in good faith
            (Pillow's decompression-bomb limit).
    """
    try:
        if not stat.S_ISREG(os.stat(path).st_mode):  # a named pipe would wait for ever
            raise ImageError(f"{path}: not a regular file")
        data = Path(path).read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # odd metadata is read past; torchvision 0.29 deprecates its decoders
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=_FORMATS) as picture:  # reads the header only
                if picture.format == "JPEG" and picture.mode in _FAST_MODES:
                    raw = torch.frombuffer(bytearray(data), dtype=torch.uint8)
                    decoded: Tensor = decode_image(raw, mode=ImageReadMode.RGB, apply_exif_orientation=True)
                    return decoded
                return from_pillow(picture)
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{path}: no such image") from None
    except UnidentifiedImageError:
        raise ImageError(f"{path}: not a picture in any known format") from None
    except Exception as error:  # decoders raise whatever they like on broken files
        reason = getattr(error, "strerror", None) or str(error).strip() or type(error).__name__
        reason = re.sub(r"^.*\.cpp:\d+, ", "", reason.splitlines()[0])  # torchvision says where in its source
        raise ImageError(f"{path}: {reason.rstrip('.')}") from None


def from_pillow(picture: Image.Image) -> Tensor:
    """The same from an open Pillow image: (3, H, W) uint8 RGB, upright."""
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I"):  # 16-bit grey: Pillow's own conversion clips instead of scaling
        values = np.asarray(upright).astype(np.int64)
        scaled = values // 256 if upright.mode != "I" or values.max(initial=0) > 255 else values
        upright = Image.fromarray(scaled.clip(0, 255).astype(np.uint8))
    pixels = np.array(upright.convert("RGB"))
    return torch.from_numpy(pixels).permute(2, 0, 1)  # channels side by side, as decoded JPEGs are
