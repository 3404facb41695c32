"""The order of the images: a function of (seed, epoch), the same for any number of workers and after a restart."""

from collections.abc import Callable, Iterator
from itertools import repeat

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from mlcl.data.labels import PRESENT, Targets
from mlcl.distributed import rank, world_size
from mlcl.errors import MlclError
from mlcl.system.console import say
from mlcl.system.seeding import derive

_AT_ONCE = 4096  # images whose labels are looked at
AHEAD = 2  # chunks that are fetched before they are needed
_AGAIN = 2**32  # between the numbers by which the repetitions of an image in an epoch are augmented


class EpochSampler(DistributedSampler):  # type: ignore[type-arg]
    """Yields ``(epoch, index)``, so that a dataset can seed its transforms without knowing the trainer.

    A subclass of ``DistributedSampler`` on one process, too: Lightning does not replace it and sets its epoch. Every
    rank gets an equal part of the order; where it does not divide, the first images are repeated.
    """

    def __init__(self, dataset: Dataset[object], seed: int, shuffle: bool) -> None:
        super().__init__(dataset, num_replicas=world_size(), rank=rank(), shuffle=shuffle, seed=seed)

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """This rank's part of the epoch's order."""
        own = self.order()[self.rank :: self.num_replicas]
        return zip(repeat(self.epoch), own.tolist(), strict=False)

    def order(self) -> Tensor:
        """The epoch's order over all W ranks, int64, its length a multiple of W; rank r has r, r + W, r + 2 W, ..."""
        count = len(self.dataset)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        return order.repeat(1 + self.total_size // max(count, 1))[: self.total_size]

    @property
    def own_images(self) -> int:
        """How many images this rank's part begins with before those that are repeated to fill it."""
        return len(range(self.rank, len(self.dataset), self.num_replicas))  # type: ignore[arg-type]

    def largest_batch(self, counts: Tensor, batch_size: int) -> int:
        """The largest sum of counts (N,), one per image, in any step of this epoch, over all ranks.

        In step b the W ranks together take b * B * W to (b + 1) * B * W of the order, B being the ``batch_size``.
        """
        counts, images = counts[self.order()], batch_size * self.num_replicas
        return max((int(counts[start : start + images].sum()) for start in range(0, len(counts), images)), default=0)


class ClassAwareSampler(EpochSampler):
    """Every class equally often: class-aware sampling (Shen, Lin and Huang, ECCV 2016).

    Classes are drawn in turn, from a cycle of all classes with a positive that is shuffled anew each time round; a
    class gives the next image of a cycle of its own positives, which is shuffled anew each time it is through. Both
    begin anew in every epoch, so that the order is a function of (seed, epoch). An epoch has N images, as with any
    order; the k-th repetition of one in an epoch is augmented as in epoch ``epoch + k * 2**32``, which is no epoch of
    any training.

    Args:
        dataset: N images.
        seed: of the order.
        targets: (N, K) int8 in {1, 0, -1}, the labels that the training sees.

    Raises:
        MlclError: if no image has a positive.
    """

    def __init__(self, dataset: Dataset[object], seed: int, targets: Targets) -> None:
        super().__init__(dataset, seed, shuffle=True)
        starts = range(0, len(targets), _AT_ONCE)
        found = [(targets[start : start + _AT_ONCE] == PRESENT).nonzero() for start in starts]
        rows = np.concatenate([rows + start for start, (rows, _) in zip(starts, found, strict=True)] or [np.empty(0)])
        classes = np.concatenate([classes for _, classes in found] or [np.empty(0)])
        if not len(rows):
            raise MlclError("data.sampler class_aware needs images with a positive, and there are none")
        # Class by class: the images (P,) of its positives, and how many they are; classes without any are left out.
        self.images = torch.from_numpy(rows[np.argsort(classes, kind="stable")])
        self.sizes = torch.from_numpy(np.unique(classes, return_counts=True)[1])
        self._made: tuple[int, Tensor, Tensor] | None = None
        never = len(targets) - len(np.unique(rows))
        left_out = f"; {never:,} of {len(targets):,} images have no positive and are never drawn" if never else ""
        say(f"data.sampler class_aware: {len(self.sizes):,} of {targets.shape[1]:,} classes in turn{left_out}")

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """This rank's part of the epoch's order, each repetition with a number of its own in place of the epoch."""
        epochs, order = (part[self.rank :: self.num_replicas].tolist() for part in self._drawn())
        return iter(list(zip(epochs, order, strict=True)))

    def order(self) -> Tensor:
        """As in the base class; an image may be in it several times."""
        return self._drawn()[1]

    def _drawn(self) -> tuple[Tensor, Tensor]:
        """The number that seeds each image's augmentation, and the order; computed once per epoch."""
        if self._made is None or self._made[0] != self.epoch:
            order = self._draw(torch.Generator().manual_seed(derive(self.seed, self.epoch)))
            numbers = self.epoch + _AGAIN * _earlier(order)
            padded = torch.arange(self.total_size) % len(order)
            self._made = self.epoch, numbers[padded], order[padded]
        return self._made[1:]

    def _draw(self, generator: torch.Generator) -> Tensor:
        """One image for each of N draws."""
        count, classes = len(self.dataset), len(self.sizes)  # type: ignore[arg-type]
        draws = torch.arange(count)
        turns = -(-count // classes)  # of each class; the last one may be cut off
        shuffled = _shuffled(torch.full((turns,), classes), generator)
        chosen, turn = shuffled[:count] % classes, draws // classes  # every class once in each turn
        # Each class's cycle, as often in a row as its turns ask for; every time through is shuffled by itself.
        times = -(-turns // self.sizes)
        cycles = _shuffled(self.sizes.repeat_interleave(times), generator)
        lengths = times * self.sizes
        begins, first = lengths.cumsum(0) - lengths, self.sizes.cumsum(0) - self.sizes
        place = cycles[begins[chosen] + turn] - begins[chosen]
        return self.images[first[chosen] + place % self.sizes[chosen]]


class ChunkSampler(EpochSampler):
    """An order in which the images of a chunk come close together, so that one rank fetches a chunk, and once.

    In training the chunks are shuffled and dealt out to the ranks in stretches. An image has its place at random
    between the beginning of its chunk and that of the chunk ``mixed`` later, so that a rank reads from ``mixed`` chunks
    at a time, and fetches them one after the other. The order is a function of (seed, epoch, number of ranks), whatever
    the workers. Without shuffling the images are in order, each rank's in one stretch. The first images, which
    are repeated where the ranks do not divide them, come at the end of the last rank's.

    Args:
        dataset: N images.
        seed: of the order.
        shuffle: whether to shuffle.
        chunk: (N,) the number of each image's chunk.
        mixed: chunks at a time whose images are in random order.
        ahead: is called with chunks that this rank will need next, the nearest first.
    """

    def __init__(
        self,
        dataset: Dataset[object],
        seed: int,
        shuffle: bool,
        chunk: NDArray[np.int64],
        mixed: int,
        ahead: Callable[[list[int]], None],
    ) -> None:
        super().__init__(dataset, seed, shuffle)
        self.chunk, self.mixed, self.ahead = torch.from_numpy(chunk), mixed, ahead

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """This rank's part of the epoch's order; when it comes to a chunk, the next ones are fetched."""
        own = self._drawn()[self.rank]
        chunks, first = np.unique(self.chunk[own].numpy(), return_index=True)
        coming = chunks[first.argsort()].tolist()  # in the order in which they are begun
        begun = {place: number for number, place in enumerate(sorted(first.tolist()))}
        for place, index in enumerate(own.tolist()):
            if (number := begun.get(place)) is not None:
                self.ahead(coming[number : number + 1 + AHEAD])
            yield self.epoch, index

    def order(self) -> Tensor:
        """As in the base class."""
        return self._drawn().T.flatten()

    @property
    def own_images(self) -> int:
        """As in the base class."""
        return min(max(len(self.chunk) - self.rank * self.num_samples, 0), self.num_samples)

    def _drawn(self) -> Tensor:
        """(W, N / W) each rank's images in order."""
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.arange(len(self.chunk))
        if self.shuffle and len(order):
            turn = torch.randperm(int(self.chunk.max()) + 1, generator=generator)
            order = turn[self.chunk].argsort(stable=True)
        order = order.repeat(1 + self.total_size // max(len(order), 1))[: self.total_size]
        order = order.view(self.num_replicas, self.num_samples)
        if not self.shuffle:
            return order
        number = self.chunk[order].diff(dim=1, prepend=self.chunk[order[:, :1]]).ne(0).cumsum(1)  # of the rank's chunks
        drawn = torch.rand(order.shape, generator=generator, dtype=torch.float64)
        return order.gather(1, (number + self.mixed * drawn).argsort(dim=1, stable=True))


def _shuffled(sizes: Tensor, generator: torch.Generator) -> Tensor:
    """0, 1, 2, ... in groups of these sizes (G,) one after the other, each group in random order."""
    groups = torch.arange(len(sizes)).repeat_interleave(sizes)
    order = torch.randperm(len(groups), generator=generator)
    return order[groups[order].argsort(stable=True)]


def _earlier(values: Tensor) -> Tensor:
    """(N,) how many earlier entries have the same value."""
    ordered, places = values.sort(stable=True)
    sizes = torch.unique_consecutive(ordered, return_counts=True)[1]
    begins = (sizes.cumsum(0) - sizes).repeat_interleave(sizes)
    return torch.empty_like(places).scatter_(0, places, torch.arange(len(values)) - begins)
