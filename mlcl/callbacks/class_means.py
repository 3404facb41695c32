"""Where the embeddings of each class lie, for a trained network: the start of a second stage's prototypes."""

from itertools import islice

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Subset

from mlcl.data import MultiLabelDataModule
from mlcl.distributed import add_up, rank, world_size
from mlcl.network import Network


@torch.no_grad()
def class_means(
    network: Network,
    data: MultiLabelDataModule,
    device: torch.device,
    confidence: float = 0.85,
    batches: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Mean embedding (K, D) of each class's confident true positives; (2, K) numbers of confident and all positives.

    SADCL's prototype files seem to be made so (arXiv 2307.09715, by their names); without a confident positive a class
    takes all its positives: ours. Every process reads its share of the unaugmented images, at most ``batches`` batches.
    """
    dataset = data.dataset("train", augmented=False)
    share = Subset(dataset, range(rank(), len(dataset), world_size()))
    loader = DataLoader(share, batch_size=data.batch_size, num_workers=data.workers)
    sums = torch.zeros(2, network.num_classes, network.embedding_dim, device=device)
    counts = torch.zeros(2, network.num_classes, dtype=torch.int64, device=device)
    training, tta = network.training, network.tta
    network.eval()
    network.tta = "none"  # a training is the same with it
    for batch in islice(loader, batches):
        out = network(batch["image"].to(device))
        positive = batch["target"].to(device) == 1
        confident = positive & (out.logits.sigmoid() > confidence)
        for number, chosen in enumerate((confident, positive)):
            sums[number] += torch.einsum("bk,bkd->kd", chosen.float(), out.embeddings.float())
            counts[number] += chosen.sum(0)
    network.train(training)
    network.tta = tta
    means = add_up(sums) / add_up(counts).clamp(min=1)[..., None]
    return torch.where(counts[0, :, None] > 0, means[0], means[1]), counts
