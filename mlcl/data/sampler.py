"""The order of the images: a function of (seed, epoch), the same for any number of workers and after a restart."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from mlcl.distributed import rank, world_size
from mlcl.system.seeding import derive


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
        return iter([(self.epoch, index) for index in own.tolist()])

    def order(self) -> Tensor:
        """The epoch's order over all W ranks, int64, its length a multiple of W; rank r has r, r + W, r + 2 W, ..."""
        count = len(self.dataset)  # type: ignore[arg-type]
        generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
        order = torch.randperm(count, generator=generator) if self.shuffle else torch.arange(count)
        return order.repeat(1 + self.total_size // max(count, 1))[: self.total_size]

    def largest_batch(self, counts: Tensor, batch_size: int) -> int:
        """The largest sum of counts (N,), one per image, in any step of this epoch, over all ranks.

        In step b the W ranks together take b * B * W to (b + 1) * B * W of the order, B being the ``batch_size``.
        """
        counts, images = counts[self.order()], batch_size * self.num_replicas
        return max((int(counts[start : start + images].sum()) for start in range(0, len(counts), images)), default=0)
