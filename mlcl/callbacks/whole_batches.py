"""An evaluation gives the same numbers, to the last digit, however its images are divided among processes."""

from typing import Any

import torch
from lightning import Callback
from torch import Tensor


class WholeBatches(Callback):
    """Fills up smaller batches of an evaluation, for which other kernels would compute, and knows repeated images."""

    def __init__(self) -> None:
        self.size = 0  # images of a whole batch

    def on_test_epoch_start(self, trainer: Any, pl_module: Any) -> None:
        """Look at the loader: its size of a batch, and how many images come to this rank for the first time."""
        loader = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        self.size = getattr(loader, "batch_size", None) or 0
        pl_module.spread.left = getattr(getattr(loader, "sampler", None), "own_images", None)

    on_validation_epoch_start = on_test_epoch_start

    def evaluate(self, network: Any, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and embeddings (B, K, D) of a batch; its images again and again fill it up."""
        image, count = batch["image"], len(batch["image"])
        if self.size > count:
            image = image[torch.arange(self.size, device=image.device) % count]
        out = network(image)
        return out.logits[:count], out.embeddings[:count]
