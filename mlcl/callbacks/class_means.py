"""Where the embeddings of each class lie, for a trained network: the start of a second stage's prototypes."""

from itertools import islice
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mlcl.data import MultiLabelDataModule
from mlcl.distributed import add_up, rank, world_size
from mlcl.network import Network


class ClassMeans(NamedTuple):
    """Mean embedding of each class over a training set, and over how many images."""

    means: Tensor  # (K, D) float32
    confident: Tensor  # (K,) int64, positives above the confidence; where there are any, the mean is theirs
    positives: Tensor  # (K,) int64, all positives; elsewhere the mean is theirs, and 0 without any

    def describe(self, classes: list[str]) -> str:
        """One line on what the means are made of."""
        all_positives = int(((self.confident == 0) & (self.positives > 0)).sum())
        none = [name for name, count in zip(classes, self.positives.tolist(), strict=True) if not count]
        left = f", {len(none)} as initialised (no positive: {', '.join(none[:4])}{', ...' * (len(none) > 4)})"
        return (
            f"prototypes: {int((self.confident > 0).sum())} classes from their confident positives, "
            f"{all_positives} from all their positives{left if none else ''}"
        )


@torch.no_grad()
def class_means(
    network: Network,
    data: MultiLabelDataModule,
    device: torch.device,
    confidence: float = 0.85,
    batches: int | None = None,
) -> ClassMeans:
    """Mean embedding of each class's true positives with a probability above ``confidence``, unaugmented images.

    This is how SADCL's prototype files seem to be made (arXiv 2307.09715; inferred from their names, no script is
    public). A class without such a positive falls back to all its positives: ours. Every process takes its share of
    the images.

    Args:
        network: trained; left in the mode it came in.
        data: after ``setup``.
        device: where the network is.
        confidence: a probability.
        batches: at most so many per process; None for all.
    """
    dataset = data.dataset("train", augmented=False)
    share = Subset(dataset, range(rank(), len(dataset), world_size()))
    loader = DataLoader(share, batch_size=data.batch_size, num_workers=data.workers)
    sums = torch.zeros(2, network.num_classes, network.embedding_dim, device=device)
    counts = torch.zeros(2, network.num_classes, dtype=torch.int64, device=device)
    training = network.training
    network.eval()
    for batch in islice(loader, batches):
        out = network(batch["image"].to(device))
        positive = batch["target"].to(device) == 1
        confident = positive & (out.logits.sigmoid() > confidence)
        for number, chosen in enumerate((confident, positive)):
            sums[number] += torch.einsum("bk,bkd->kd", chosen.float(), out.embeddings.float())
            counts[number] += chosen.sum(0)
    network.train(training)
    means = add_up(sums) / add_up(counts).clamp(min=1)[..., None]
    return ClassMeans(torch.where(counts[0, :, None] > 0, means[0], means[1]), *counts)
