"""What ``mlcl predict`` writes and says, whether the scores come from a checkpoint or from an ONNX file."""

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mlcl.data.image_files import find_images
from mlcl.errors import MlclError
from mlcl.inference import writers
from mlcl.inference.writers import Extra as Extra
from mlcl.inference.writers import Row
from mlcl.system.console import say

# Position of the image, why it could not be read (or ""), its K probabilities, what else is told of it.
Line = tuple[int, str, list[float], Extra]


def find(images: Sequence[str], writer: str | None) -> list[str]:
    """The images that ``--images`` names, in the order in which they are written."""
    devkit = writers.voc_test_images(Path(images[0])) if writer == "voc2012" and len(images) == 1 else None
    return devkit or find_images(images)


class Rows:
    """Turns probabilities into rows of the output, and counts the images that could not be read.

    Args:
        paths: of the images.
        classes: K names.
        thresholds: K probabilities from which on a label is predicted.
        output: the file, or folder.
        writer: of it, as ``--writer`` names it.
        top: how many scores are written; by default all.
        extra: names of what else is told of an image.
        remedy: what to say where scores are not numbers.
    """

    def __init__(
        self,
        paths: Sequence[str],
        classes: Sequence[str],
        thresholds: Sequence[float],
        output: Path,
        writer: str | None,
        top: int | None,
        extra: Sequence[str] = (),
        remedy: str = "",
    ) -> None:
        self.paths, self.classes, self.thresholds, self.remedy = paths, classes, thresholds, remedy
        self.started, self.failures, self.written = time.perf_counter(), list[str](), 0
        self.writer = writers.make(output, classes, writer, top, extra)

    def add(self, lines: Sequence[Line]) -> None:
        """Write images; scores that are not numbers are refused."""
        for index, error, scores, extra in lines:
            path = self.paths[index]
            if error:
                self.failures.append(f"{path}: {error}")
                continue
            if any(map(math.isnan, scores)) or not all(map(math.isfinite, extra.values())):
                raise MlclError(f"{path}: the network's scores are not numbers{self.remedy}")
            decided = zip(self.classes, scores, self.thresholds, strict=True)
            self.writer.write(Row(path, [name for name, score, least in decided if score >= least], scores, extra))
            self.written += 1

    def abandon(self) -> None:
        """Say where the rows are that were written before an error."""
        say(self.writer.abandon())

    def finish(self) -> int:
        """Give the file its name, list what could not be read, return the exit status."""
        seconds = time.perf_counter() - self.started
        for failure in self.failures:
            say(f"not read: {failure}")
        where = self.writer.finish(len(self.failures))
        total = self.written + len(self.failures)
        say(f"{where}: {self.written:,} of {total:,} images, {total / seconds:.0f} images/s")
        return 1 if self.failures else 0


@contextmanager
def progress(total: int, shown: bool = True) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; yields what moves it on by so many images."""
    if not shown or not sys.stderr.isatty():
        yield lambda count: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

    columns = BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        bar = bars.add_task("predict", total=total)
        yield lambda count: bars.advance(bar, count)
