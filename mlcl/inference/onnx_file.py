"""``mlcl predict`` from an ONNX file of ``mlcl export``: with onnxruntime, NumPy and Pillow, without torch."""

import json
import os
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from mlcl.data.decoding import ImageError, Pixels, read_pixels, reading_of
from mlcl.data.image_files import content_of
from mlcl.errors import MlclError
from mlcl.inference import parts, rows, writers
from mlcl.inference.parts import Share
from mlcl.inference.rows import Line, Rows
from mlcl.system import signals

Batch = tuple[list[str], Pixels]  # why each image could not be read (or ""), and the pixels (B, 3, S, S)


class OnnxFile:
    """An exported network, with what the file says about itself.

    Args:
        path: of the file.

    Raises:
        MlclError: if onnxruntime is not installed, or the file is damaged or not one of ``mlcl export``.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._session = path, _opened(path)
        stored = self._session.get_modelmeta().custom_metadata_map
        try:
            self.classes: list[str] = json.loads(stored["classes"])
            self.thresholds: list[float] = json.loads(stored["thresholds"])
            self.image_size: int = json.loads(stored["image_size"])
            self.resampling = Image.Resampling[stored["interpolation"].upper()]
            self.reading: dict[str, Any] = reading_of({"white": json.loads(stored["white"])})
            (pixels,), (scores,) = self._session.get_inputs(), self._session.get_outputs()
            fits = pixels.shape[1:] == [3, self.image_size, self.image_size] and pixels.type == "tensor(uint8)"
            if not fits or scores.shape[1:] != [len(self.classes)] or len(self.classes) != len(self.thresholds):
                raise ValueError("what it says of itself is not what it holds")
        except (KeyError, ValueError, TypeError) as error:
            reason = f"no entry {error}" if isinstance(error, KeyError) else error
            raise MlclError(f"{path} was not written by mlcl export: {reason}") from None

    def picture(self, path: str, content: bytearray | None = None) -> Pixels:
        """A picture as the network takes it, (S, S, 3); ImageError if it cannot be read."""
        pixels = Image.fromarray(read_pixels(path, content=content, **self.reading))
        return np.asarray(pixels.resize((self.image_size, self.image_size), self.resampling))

    def probabilities(self, pixels: Pixels) -> list[list[float]]:
        """B x K probabilities of pixels (B, 3, S, S)."""
        (name,) = (given.name for given in self._session.get_inputs())
        scores: list[list[float]] = self._session.run(None, {name: pixels})[0].tolist()
        return scores


def predict(
    file: OnnxFile,
    images: Sequence[str],
    output: Path,
    *,
    writer: str | None = None,
    top: int | None = None,
    batch_size: int = 32,
) -> int:
    """As :func:`mlcl.inference.prediction.predict`, on the CPU and in this process."""
    if parts.launched():
        raise MlclError(f"{file.path}: one process runs an ONNX file; start it without torchrun or srun")
    paths = rows.find(images, writer)
    options = {"rows": (output.suffix, writer, top), "pictures": (sorted(file.reading.items()), batch_size)}
    job = parts.job(file.path, paths, options)
    maker = writers.make(output, file.classes, writer, top, paths=paths)
    written = Rows(paths, file.classes, file.thresholds, maker, job, batch_size, Share())
    try:
        with rows.progress(len(written.left)) as advance:
            for lines in _lines(file, paths, written.left, batch_size):
                signals.check()
                written.add(lines)
                advance(len(lines))
        return written.finish()
    except BaseException as error:
        written.abandon(error)
        raise


def _lines(file: OnnxFile, paths: Sequence[str], left: range, batch_size: int) -> Iterator[list[Line]]:
    """The lines of each batch; while the network computes, a thread reads the next one."""
    # One thread: Pillow's limit on pixels belongs to the whole process.
    with ThreadPoolExecutor(1) as reader:
        batches = [left[start : start + batch_size] for start in range(0, len(left), batch_size)]
        reading = deque(reader.submit(_read, file, paths, batch) for batch in batches[:1])
        for number, batch in enumerate(batches, 1):
            errors, pixels = reading.popleft().result()
            reading.extend(reader.submit(_read, file, paths, following) for following in batches[number : number + 1])
            yield [*zip(batch, errors, file.probabilities(pixels), repeat({}), strict=False)]


def _read(file: OnnxFile, paths: Sequence[str], batch: range) -> Batch:
    """The pictures of a batch; one that cannot be read is black."""
    errors, pixels = [""] * len(batch), np.zeros((len(batch), 3, file.image_size, file.image_size), np.uint8)
    for row, index in enumerate(batch):
        try:
            pixels[row] = file.picture(paths[index], content_of(paths, index)).transpose(2, 0, 1)
        except ImageError as error:
            errors[row] = error.of_prediction(paths[index])
    return errors, pixels


def _opened(path: Path) -> Any:
    """An ``InferenceSession`` of onnxruntime on the CPU."""
    try:
        import onnxruntime
    except ImportError as error:
        raise MlclError(f"{error.name or error} is missing: pip install onnxruntime") from None
    settings = onnxruntime.SessionOptions()
    settings.log_severity_level = 4  # fatal; errors are raised, too
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    settings.intra_op_num_threads = min(usable, int(os.environ.get("OMP_NUM_THREADS") or usable))
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    except Exception as error:  # of a dozen kinds, without a common base
        raise MlclError(f"{path} is no ONNX file, or damaged: {' '.join(str(error).split())[:200]}") from None
