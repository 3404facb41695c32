"""The order of the images: a function of (seed, epoch), the same for any number of workers and after a restart."""

from collections.abc import Iterator

import torch
from torch.utils.data import Dataset, DistributedSampler

from mlcl.distributed import rank, world_size
from mlcl.seeding import derive


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
        count = len(self.dataset)  # type: ignore[arg-type]
        if self.shuffle:
            generator = torch.Generator().manual_seed(derive(self.seed, self.epoch))
            order = torch.randperm(count, generator=generator).tolist()
        else:
            order = list(range(count))
        order = (order * (1 + self.total_size // max(count, 1)))[: self.total_size]
        return iter([(self.epoch, index) for index in order[self.rank : self.total_size : self.num_replicas]])
