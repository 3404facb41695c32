"""The order of the images: a function of (seed, epoch), the same for any number of workers and after a restart."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.utils.data import Dataset, DistributedSampler

from mlcl.distributed import rank, world_size
from mlcl.system.seeding import derive


class EpochSampler(DistributedSampler):  # type: ignore[type-arg]
    """Yields ``(epoch, index)``, so that a dataset can seed its transforms without knowing the trainer.

    A subclass of ``DistributedSampler`` also on one process: Lightning leaves those alone and tells them the epoch.
    Over several ranks the order is cut into equal parts, the last images repeated where it does not divide.

    Args:
        dataset: anything with a length.
        seed: of the order.
        shuffle: another order in every epoch; off for evaluation.
    """

    def __init__(self, dataset: Dataset[object], seed: int, shuffle: bool) -> None:
        super().__init__(dataset, num_replicas=world_size(), rank=rank(), shuffle=shuffle, seed=seed)

    def __iter__(self) -> Iterator[tuple[int, int]]:  # type: ignore[override]
        """This rank's part of the epoch's order."""
        own = self.order()[self.rank :: self.num_replicas]
        return iter([(self.epoch, index) for index in own.tolist()])

    def order(self) -> Tensor:
        """The epoch's order over all ranks, (N,) int64: a rank's part is every W-th of it, from its own number on."""
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
            order = torch.randperm(count, generator=generator)
        else:
            order = torch.arange(count)
        return order.repeat(1 + self.total_size // max(count, 1))[: self.total_size]

    def largest_batch(self, counts: Tensor, batch_size: int) -> int:
        """The largest sum over any step of this epoch, all ranks together; known to every rank without asking.

        In step b a rank takes the images b * B to (b + 1) * B of its part, and the parts take turns in the order: so
        together the ranks take b * B * W to (b + 1) * B * W of it. Fewer steps (``drop_last``, a limit on batches)
        only make the maximum smaller.

        Args:
            counts: (N,) integer, what an image of the dataset counts for.
            batch_size: B, of each rank.
        """
        counts, images = counts[self.order()], batch_size * self.num_replicas
        return max((int(counts[start : start + images].sum()) for start in range(0, len(counts), images)), default=0)
