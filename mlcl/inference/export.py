"""``mlcl export``: the network as one file that needs no mlcl, compared with the original before it gets its name."""

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from mlcl import __version__
from mlcl.data.image_files import find_images
from mlcl.data.images import ImageError, read_at
from mlcl.errors import MlclError
from mlcl.inference.formats import FORMATS, exporting, make_program
from mlcl.inference.model import Model, load
from mlcl.inference.rebuild import Rebuilt
from mlcl.system.console import say
from mlcl.system.files import write_whole

TOLERANCE = 1e-4  # of a probability
_LENIENT = 1e-3  # of log-odds: how much lower the thresholds of a promise are in a file
_REAL, _RANDOM = 16, 8  # images that the file is checked with


class Exported(nn.Module):
    """What is exported: uint8 pixels (B, 3, S, S) to probabilities (B, K), with normalisation and temperature."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.network, self.temperature = model.network, model.temperature

    def forward(self, pixels: Tensor) -> Tensor:
        """Probabilities (B, K) float32."""
        # Not sigmoid: onnxruntime's (1.32) is 0 from -18 on, and a calibrated threshold may lie below. Nor
        # 1 / (1 + exp(-x)): a quantiser gives the sum 8 bits for all from 1 to e^20.
        return torch.exp(-functional.softplus(-self.network(pixels).logits / self.temperature))


def export(
    checkpoint: Path,
    output: Path,
    kind: str,
    *,
    images: Sequence[str] = (),
    root: str | None = None,
    imports: tuple[str, ...] = (),
) -> float:
    """Write a file, check it on images, and return the largest difference of its probabilities to the original's.

    The arguments are those of ``mlcl export``; the images are by default test images of the run's data at ``root``.
    """
    model = load(checkpoint, "cpu", imports)
    limits, thresholds = torch.finfo(torch.float32), zip(model.classes, model.thresholds.tolist(), strict=True)
    if far := [name for name, value in thresholds if 0 < value < limits.tiny or value > 1 - limits.eps]:
        raise MlclError(
            f"{checkpoint}: the threshold of {far[0]} lies where the float32 probabilities in a file are 0 or 1; "
            "mlcl predict tells them apart"
        )
    network = Exported(model).eval()
    batches, real = _pixels(model, images, root, imports)
    differences = []

    def write_checked(path: Path) -> None:
        write, read = FORMATS[kind]
        with exporting():
            write(make_program(network, batches[0][:2]), metadata(model), path)
        differences.append(largest_difference(network, read(path), batches))
        if not differences[0] <= TOLERANCE:
            raise MlclError(f"{kind}: the file's probabilities are off by up to {differences[0]:.1e}: not written")

    try:
        write_whole(output, write_checked)
    except ImportError as error:
        raise MlclError(f"{error.name or error} is missing: pip install 'mlcl[export]'") from None
    checked = f"checked on {sum(map(len, batches))} images, {real} of them real"
    size = f"{output.stat().st_size / 1e6:.1f} MB"
    say(f"{output}: {size}, {checked}, largest difference {differences[0]:.1e}")
    return differences[0]


def metadata(model: Model) -> dict[str, Any]:
    """What a reader of the file needs: JSON values."""
    return {
        "mlcl": __version__,
        "classes": list(model.classes),
        "thresholds": _thresholds(model).tolist(),
        "image_size": model.image_size,
        "interpolation": model.interpolation,
        "input": f"pixels: uint8 RGB (batch, 3, {model.image_size}, {model.image_size}), resized without keeping the "
        f"aspect ratio ({model.interpolation}, antialiased)",
        "tta": model.network.tta,  # flip: the graph itself takes the mean over the mirror image
        "white": model.reading.get("white"),  # the value that is 255 there, of pictures of more than 8 bits
        "output": "probabilities: float32 (batch, classes); a label is predicted from its threshold on",
    }


def _thresholds(model: Model) -> Tensor:
    """The model's own (K,), or a little lower if they come with a promise about missed labels.

    Probabilities in a file are float32, from other kernels: one just above its threshold may come out just below. So
    the differences can add labels, not lose them.
    """
    if not model.guaranteed:
        return model.thresholds
    lower = torch.sigmoid(torch.logit(model.thresholds) - _LENIENT)  # of 0 it is 0
    return torch.minimum(lower, lower.float() * (1 - 4 * torch.finfo(torch.float32).eps))


def _pixels(
    model: Model, images: Sequence[str], root: str | None, imports: tuple[str, ...]
) -> tuple[list[Tensor], int]:
    """Batches of different sizes, random ones first, and how many real images are among them."""
    size = (3, model.image_size, model.image_size)
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, 256, (_RANDOM, *size), dtype=torch.uint8, generator=generator)
    real = list(islice(_real_images(model, images, root, imports), _REAL))
    batches = [random[:3], random[3:4], random[4:]]
    return [*batches, *torch.split(torch.stack(real), 7)] if real else batches, len(real)


def _real_images(model: Model, images: Sequence[str], root: str | None, imports: tuple[str, ...]) -> Iterator[Tensor]:
    """Images that the user named, or else test images of the run's data; those that cannot be read are reported."""
    if images:
        paths: Sequence[str | Path] = find_images(images)
    else:
        try:
            splits = Rebuilt(model.source, imports).datamodule(root).splits
        except MlclError as error:
            say(f"no real image was checked: {error} (or give --images)")
            return
        paths = (splits.get("test") or splits["train"]).paths
    unread = 0
    for index in range(len(paths)):
        try:
            yield model.resize(read_at(paths, index, **model.reading))
        except ImageError as error:
            say(f"not read: {error}")
            unread += 1
    if images and unread == len(paths):
        raise MlclError(f"--images {' '.join(images)}: none of them can be read")


def largest_difference(original: nn.Module, exported: Callable[[Tensor], Tensor], batches: list[Tensor]) -> float:
    """The largest absolute difference of two outputs over batches; NaN where one of them is NaN."""
    with torch.inference_mode():
        pairs = [(original(batch), exported(batch)) for batch in batches]
    return float(torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max())
