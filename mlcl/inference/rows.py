"""What ``mlcl predict`` writes and says, whether the scores come from a checkpoint or from an ONNX file."""

import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from mlcl.data.image_files import find_images, is_pack
from mlcl.errors import MlclError, line
from mlcl.inference import parts, writers
from mlcl.inference.parts import Part, Share
from mlcl.inference.writers import Extra as Extra
from mlcl.inference.writers import Row, Writer
from mlcl.system import signals
from mlcl.system.console import say

# Position of the image, why it could not be read (or ""), its K probabilities, what else is told of it.
Line = tuple[int, str, list[float], Extra]


def find(images: Sequence[str], writer: str | None) -> Sequence[str]:
    """The images that ``--images`` names, in the order in which they are written."""
    devkit = writers.voc_test_images(Path(images[0])) if writer == "voc2012" and len(images) == 1 else None
    if devkit or not any("://" in word or is_pack(word) for word in images):
        return devkit or find_images(images)
    from mlcl.data.far_images import FarImages  # with fsspec, for which the images of this machine must not wait

    return FarImages(images)


class Rows:
    """Turns probabilities into rows of the output, and counts the images that could not be read.

    Args:
        paths: of the images, all of them.
        classes: K names.
        thresholds: K probabilities from which on a label is predicted.
        writer: of the output.
        job: a digest of what the rows are made from, see :func:`mlcl.inference.parts.job`.
        batch_size: images at a time.
        share: of the work, of this process.
        remedy: what to say where scores are not numbers.

    Raises:
        MlclError: in all processes, if one of them cannot write, or they have different work.
    """

    def __init__(
        self,
        paths: Sequence[str],
        classes: Sequence[str],
        thresholds: Sequence[float],
        writer: Writer,
        job: str,
        batch_size: int,
        share: Share,
        remedy: str = "",
    ) -> None:
        self.paths, self.classes, self.thresholds, self.remedy = paths, classes, thresholds, remedy
        self.writer, self.share, self.started, self.ended = writer, share, time.perf_counter(), False
        self.own = share.stretch(len(paths), batch_size)
        self._begin(job)

    @property
    def left(self) -> range:
        """Positions of this process's images that are still to be done."""
        return self.own[self.part.done :]

    def add(self, lines: Sequence[Line]) -> None:
        """Write a batch: the next images that are left. Scores that are not numbers are refused."""
        text, failures = list[str](), list[str]()
        for index, error, scores, extra in lines:
            path = self.paths[index]
            if error:
                failures.append(f"{path}: {error}")
                continue
            if any(map(math.isnan, scores)) or not all(map(math.isfinite, extra.values())):
                raise MlclError(f"{path}: the network's scores are not numbers{self.remedy}")
            decided = zip(self.classes, scores, self.thresholds, strict=True)
            labels = [name for name, score, least in decided if score >= least]
            text.append(self.writer.text(Row(path, labels, scores, extra)))
        self._add("".join(text), len(lines), failures)

    def abandon(self, error: BaseException) -> None:
        """Say where the rows are that were written before an error."""
        self.part.close()
        if not self.ended and isinstance(error, Exception) and os.environ.get("LOCAL_RANK", "0") != "0":
            # Nobody else says it: the command line leaves that to the first process of a machine.
            what = str(error).strip().splitlines()[-1:] or [type(error).__name__]
            sys.stderr.write(f"mlcl: process {self.share.rank + 1} of {self.share.count}: {line(what[0])}\n")
        if self.part.done and self.part.path.exists():
            say(f"what was predicted so far is in {self.part.path}, and the same command goes on from there")
        elif self.share.count == 1:
            parts.remove(self.writer.path)

    def finish(self) -> int:
        """Wait for the other processes; the first makes the file of all rows and lists what could not be read.

        Returns:
            The exit status: 1 if an image could not be read.
        """
        self.part.close()
        written = self.share.gather((self.part.size, self.part.resumed, self.part.failures))
        self.ended = True  # from here on, what goes wrong is said by all
        sizes, resumed, failures = zip(*written, strict=True)
        unread = [failure for each in failures for failure in each]
        problem = ""
        if self.share.rank == 0:
            try:
                self._publish(sizes, sum(resumed), unread)
            except MlclError as error:
                problem = str(error)
            signals.collect_children()  # they may end before this process does
        self._agree(problem)
        return 1 if unread else 0

    def _begin(self, job: str) -> None:
        """Take up the parts where an earlier start has left them."""
        problem, first = "", self.own.start

        def stamp(done: int, count: int) -> int:
            return parts.stamp(self.paths, range(first + done, first + done + count))

        with ExitStack() as open_part:
            try:
                self.part = Part(self.writer.path, self.share, job, stamp)
                open_part.callback(self.part.close)
                if not self.part.size and self.share.rank == 0:
                    self._add(self.writer.head(), 0, [])
            except MlclError as error:
                problem = str(error)
            jobs = self.share.gather(job)
            if not problem and (other := next((n for n, each in enumerate(jobs) if each != jobs[0]), None)):
                problem = f"process {other + 1} has other images, another checkpoint or other options than the first"
            self._agree(problem)
            every = [path for path, _ in parts.paths_of(self.writer.path, self.share.count)]
            lost = next((path for path in every if not path.exists()), None)
            self._agree(f"{lost} is not there: --output must be in a folder that all nodes share" if lost else "")
            open_part.pop_all()
        if self.part.discarded:
            say(f"{self.part.path} was made from another checkpoint, other images or other options; begun anew")
        if done := sum(self.share.gather(self.part.done)):
            say(f"{self.writer.path}: goes on after {done:,} of {len(self.paths):,} images")

    def _add(self, text: str, images: int, failures: Sequence[str]) -> None:
        # surrogateescape: file names that are not UTF-8 are written with the bytes they have on disk
        left = self.left
        self.part.add(text.encode(errors="surrogateescape"), images, parts.stamp(self.paths, left[:images]), failures)

    def _agree(self, problem: str) -> None:
        """Raise the problem of any process in all of them."""
        for each in filter(None, self.share.gather(problem)):
            raise MlclError(each)

    def _publish(self, sizes: Sequence[int], resumed: int, unread: Sequence[str]) -> None:
        """Make the file of all rows, and say what is in it."""
        for failure in unread:
            say(f"not read: {failure}")
        if unread and self.writer.needs_all:
            parts.remove(self.writer.path)  # the same images would be missing again
            raise MlclError(f"{len(unread):,} of the images could not be read, so {self.writer.path} was not written")
        every = [path for path, _ in parts.paths_of(self.writer.path, self.share.count)]
        try:
            self.writer.finish(parts.join(every, sizes))
        except OSError as error:
            raise MlclError(f"--output {self.writer.path} cannot be written: {error.strerror}") from None
        parts.remove(self.writer.path)
        total, seconds = len(self.paths), time.perf_counter() - self.started
        speed = (total - resumed) / seconds
        say(f"{self.writer.path}: {total - len(unread):,} of {total:,} images, {speed:.0f} images/s")


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
