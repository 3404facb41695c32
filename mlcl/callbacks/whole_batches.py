"""Batches of an evaluation that are all of one size."""

from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from mlcl.network import Network


class WholeBatches(Callback):
    """Fills up the last batch of an evaluation with its own images, whose results are dropped.

    With fewer images other kernels compute, so that the last digits would depend on how the ranks divide the images.
    """

    size = 0

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note what the loader gives: images in a batch, and how many of this rank's are no repetitions."""
        loader: Any = trainer.test_dataloaders if trainer.testing else trainer.val_dataloaders
        self.size = getattr(loader, "batch_size", None) or 0
        pl_module.spread.left = getattr(getattr(loader, "sampler", None), "own_images", None)  # type: ignore[union-attr]

    on_test_epoch_start = on_validation_epoch_start

    def compute(self, network: Network, image: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (B, K) and embeddings (B, K, D) of uint8 images (B, 3, H, W)."""
        count = len(image)
        if self.size > count:
            image = image[torch.arange(self.size, device=image.device) % count]
        logits, embeddings, _ = network(image)
        return logits[:count], embeddings[:count]
