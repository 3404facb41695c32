"""The JPEG decoder to use: torchcodec's, or else torchvision's, or else none, which leaves it to Pillow.

torchvision 0.29 says that its decoders go, in favour of torchcodec's (0.16 and newer). All three hold libjpeg-turbo and
gave the same pixels wherever they were compared (``tests/data/test_jpeg.py``). But each reads EXIF in its own way, and
torchcodec always turns the picture: so they get none, see :func:`mlcl.data.decoding.read_pixels`.
"""

import io
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

import numpy as np
import torch
from PIL import Image

from mlcl.backbones.light_imports import light_imports
from mlcl.data.decoding import Decoder, Pixels

MODULES = ("torchcodec.decoders", "torchvision.io")  # where decode_jpeg is


def choose(modules: Sequence[str] = MODULES) -> tuple[str, Decoder | None]:
    """The first decoder that is there and works, and its package with its version; ``("Pillow", None)`` if none does.

    A package may lack it (torchcodec below 0.16, a later torchvision), or not load: torchcodec's build for CUDA raises
    OSError beside a torch for the CPU, one below 0.16 RuntimeError without FFmpeg.
    """
    for module in modules:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with light_imports():
                    decode = _as_pixels(import_module(module).decode_jpeg)
                    package = import_module(module.partition(".")[0])
                if _works(decode):
                    return f"{package.__name__} {package.__version__}", decode
            except Exception:  # of any kind, see above; the next one will do
                continue
    return "Pillow", None


def _as_pixels(decode_jpeg: Callable[..., torch.Tensor]) -> Decoder:
    def decode(data: bytearray, turn: int) -> Pixels:
        decoded = decode_jpeg(
            torch.frombuffer(data, dtype=torch.uint8), mode="RGB"
        )  # not torchvision's own "UNCHANGED"
        if turn in (5, 6, 7, 8):
            decoded = decoded.transpose(1, 2)
        if axes := [axis for axis, turns in ((1, (3, 4, 7, 8)), (2, (2, 3, 6, 7))) if turn in turns]:
            decoded = decoded.flip(axes)
        return decoded.permute(1, 2, 0).numpy()

    return decode


def _works(decode: Decoder) -> bool:
    """Whether a small picture comes out as Pillow gives it."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((24, 16)).save(file, "JPEG")
    with Image.open(file) as picture:
        return np.array_equal(decode(bytearray(file.getvalue()), 1), np.asarray(picture.convert("RGB")))
