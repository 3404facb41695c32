"""``mlcl.load``: from a checkpoint to a model that takes images."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mlcl.analysis.energy import joint_energy
from mlcl.data.decoding import from_pillow
from mlcl.data.images import as_tensor, read_image, reading_of, resize
from mlcl.errors import MlclError
from mlcl.inference.rebuild import Rebuilt
from mlcl.network import Network
from mlcl.runs import folders, record

Picture = str | PathLike[str] | Image.Image | np.ndarray[Any, Any] | Tensor


@dataclass(frozen=True)
class Prediction:
    """The predictions for N images."""

    labels: list[list[str]]  # N lists: the classes whose score reaches their threshold
    scores: Tensor  # (N, K) float32, probabilities
    embeddings: Tensor  # (N, K, D) float32, class-specific
    attention: Tensor | None  # (N, K, h, w) float32; None for a head without attention
    energy: Tensor  # (N,) float64, the higher, the more familiar: see mlcl.analysis.energy


class Model:
    """A trained network with its classes, thresholds and preprocessing; made by :func:`load`.

    >>> model = load("runs/demo/version_0")  # doctest: +SKIP
    >>> model(["street.jpg", "garden.png"]).labels  # doctest: +SKIP
    [['car', 'person'], []]

    Args:
        network: in eval mode; its ``tta`` is that of the checkpoint (``mlcl calibrate --tta flip``), or set here.
        classes: K names.
        thresholds: K probabilities from which a label counts as predicted.
        temperature: the probability is sigmoid(logits / temperature).
        image_size: side in pixels of what the network sees.
        interpolation: of the resizing to it: bilinear or bicubic.
        source: the checkpoint, for messages.
        reading: how pictures were read for the training: ``white`` and ``max_pixels`` of :func:`read_image`, if given.
        familiar_from: the energy below which a picture counts as unfamiliar, from ``mlcl calibrate --false_alarms``.
        guaranteed: whether the thresholds come with a promise about missed labels (``mlcl calibrate --guarantee``).
    """

    def __init__(
        self,
        network: Network,
        classes: Sequence[str],
        thresholds: Sequence[float],
        temperature: float,
        image_size: int,
        interpolation: str,
        source: Path,
        reading: dict[str, Any] | None = None,
        familiar_from: float | None = None,
        guaranteed: bool = False,
    ) -> None:
        self.network, self.classes, self.source = network, tuple(classes), source
        self.thresholds = torch.tensor(thresholds, dtype=torch.float64)
        self.temperature, self.image_size, self.interpolation = temperature, image_size, interpolation
        self.reading, self.familiar_from, self.guaranteed = reading or {}, familiar_from, guaranteed

    @property
    def device(self) -> torch.device:
        """The network's device."""
        return self.network.mean.device

    def to(self, device: str | torch.device) -> "Model":
        """Move the network; returns the model itself."""
        self.network.to(device)
        return self

    def preprocess(self, picture: Picture) -> Tensor:
        """An image as the network takes it: (3, S, S) uint8, resized as in validation and test.

        Args:
            picture: a path, a PIL image, or pixels: an array (H, W, 3) or (H, W), a tensor (3, H, W) or (1, H, W);
                uint8, or float in [0, 1] (rounded to 8 bits).

        Raises:
            MlclError: for an image that cannot be read, another shape or another dtype.
        """
        if isinstance(picture, (str, PathLike)):
            return self.resize(read_image(Path(picture), **self.reading))
        if isinstance(picture, Image.Image):
            return self.resize(as_tensor(from_pillow(picture, self.reading.get("white"))))
        if isinstance(picture, np.ndarray) and picture.dtype.kind in "uifb":
            pixels = torch.from_numpy(picture.copy())
            pixels = pixels[None] if pixels.ndim == 2 else pixels.movedim(-1, 0)
        elif isinstance(picture, Tensor):
            pixels = picture
        else:
            kind = getattr(picture, "dtype", type(picture).__name__)
            raise MlclError(f"a picture is a path, a PIL image, an array or a tensor, not {kind}")
        if pixels.ndim != 3 or pixels.shape[0] not in (1, 3) or 0 in pixels.shape:
            raise MlclError(f"pixels must be an array (H, W, 3) or a tensor (3, H, W), got {(*picture.shape,)}")
        if pixels.is_floating_point():
            if not (pixels.min() >= 0 and pixels.max() <= 1):
                raise MlclError(f"float pixels must lie in [0, 1], got {pixels.min():g} to {pixels.max():g}")
            pixels = (pixels * 255).round().to(torch.uint8)
        if pixels.dtype != torch.uint8:
            raise MlclError(f"pixels must be uint8, or float in [0, 1], got {pixels.dtype}")
        return self.resize(pixels.expand(3, -1, -1))

    def resize(self, picture: Tensor) -> Tensor:
        """(3, H, W) uint8 to (3, S, S); the aspect ratio is not kept."""
        return resize(picture, self.image_size, self.interpolation)

    @torch.inference_mode()
    def __call__(self, pictures: Picture | Iterable[Picture], batch_size: int = 32) -> Prediction:
        """Predict one image or many; all results are kept in memory, so for a large folder use ``mlcl predict``.

        Args:
            pictures: one or an iterable of them, see :meth:`preprocess`; a tensor or array with four axes is many.
            batch_size: images per pass through the network.

        Raises:
            MlclError: if there is no image, or one cannot be used.
        """
        single = isinstance(pictures, str) or not isinstance(pictures, Iterable) or getattr(pictures, "ndim", 4) < 4
        rest = iter([pictures] if single else pictures)  # type: ignore[list-item, arg-type]
        parts: list[list[Tensor]] = []
        while batch := list(islice(rest, batch_size)):
            image = torch.stack([self.preprocess(picture) for picture in batch]).to(self.device)
            out = self.network(image)
            tensors = (out.logits, out.embeddings, out.attention)
            parts.append([tensor.float().cpu() for tensor in tensors if tensor is not None])
        if not parts:
            raise MlclError("no picture was given")
        logits, embeddings, *attention = (torch.cat(part) for part in zip(*parts, strict=True))
        scores = self.probabilities(logits.double())  # as test and predict decide
        maps = attention[0] if attention else None
        return Prediction(self.labels(scores), scores.float(), embeddings, maps, joint_energy(logits))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Calibrated probabilities of logits (..., K), in at least float32."""
        return torch.sigmoid(logits.to(torch.promote_types(logits.dtype, torch.float32)) / self.temperature)

    def labels(self, scores: Tensor) -> list[list[str]]:
        """The classes that each row of probabilities (N, K) predicts."""
        return [[self.classes[k] for k in row.nonzero()[:, 0].tolist()] for row in scores >= self.thresholds]


def load(checkpoint: str | PathLike[str], device: str | None = None, imports: tuple[str, ...] = ()) -> Model:
    """Load a model from a checkpoint alone; no code from it is run.

    Args:
        checkpoint: file, or a run's folder (its ``best.ckpt``).
        device: by default CUDA where there is one.
        imports: modules of yours whose classes the checkpoint may name.

    Raises:
        MlclError: if there is no checkpoint, or it cannot be used.
    """
    rebuilt = Rebuilt(folders.best_checkpoint(Path(checkpoint)), imports)
    network, model, data = rebuilt.network(), rebuilt.config["model"], rebuilt.config["data"]["init_args"]
    threshold = model.get("threshold", 0.5)
    thresholds = threshold if isinstance(threshold, list) else [threshold] * len(rebuilt.classes)
    temperature = model.get("temperature", 1.0)
    numbers = all(isinstance(value, int | float) for value in (*thresholds, temperature))
    if not numbers or not all(0 <= value <= 1 for value in thresholds) or not 0 < temperature < math.inf:
        raise MlclError(f"{rebuilt.path}: a threshold outside [0, 1], or a temperature of 0 or below, in its record")
    if len(thresholds) != len(rebuilt.classes):
        raise MlclError(
            f"{rebuilt.path}: {len(thresholds)} thresholds for {len(rebuilt.classes)} classes in its record"
        )
    calibration, familiar_from = record.calibration_of(rebuilt.content, rebuilt.path)
    made = Model(
        network,
        rebuilt.classes,
        thresholds,
        temperature,
        data["image_size"],
        data.get("interpolation") or network.interpolation,
        rebuilt.path,
        reading_of(data),
        familiar_from,
        "guarantee" in calibration,
    )
    return made.to(device or ("cuda" if torch.cuda.is_available() else "cpu"))
