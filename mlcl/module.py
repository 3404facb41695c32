"""The LightningModule: batch -> network -> losses -> metrics."""

from typing import Any

import torch
from lightning import Callback, LightningModule
from torch import Tensor
from torch.optim import AdamW

from mlcl import callbacks
from mlcl.distributed import global_batch
from mlcl.losses import BinaryCrossEntropy, ClassificationLoss, EmbeddingLoss
from mlcl.losses.unknown import Rule
from mlcl.metrics import CF1Definition, Interpolation, MultiLabelMetrics
from mlcl.network import Network
from mlcl.optim import Constant, OptimizerFactory, Schedule, make_optimizer, training_length
from mlcl.runs import record


class MultiLabelModule(LightningModule):
    """Trains and evaluates a multi-label classifier.

    Args:
        network: pixels to logits, class-specific embeddings and attention.
        classification_loss: on the logits of all ranks together; by default binary cross-entropy.
        unknown: what unknown labels count as in it, see :mod:`mlcl.losses.unknown`.
        unknown_weight: of that rule; null is its own default.
        embedding_loss: on the class-specific embeddings of all ranks together.
        embedding_weight: factor on ``embedding_loss``; the classification loss, a mean, has weight 1.
        embedding_start: epochs before ``embedding_loss`` enters; a fraction is possible.
        embedding_ramp: epochs over which its weight then grows linearly from 0.
        optimizer: makes the optimizer from parameter groups.
        schedule: of the learning rate, per step.
        lr_mult: factor on the learning rate by part, for example ``{backbone: 0.1}``.
        init_from: another run's checkpoint or folder: its network to start from, its class means for prototypes.
        threshold: probability from which a label counts as predicted; one number, or one per class (``calibrate``).
        temperature: the probability is sigmoid(logits / temperature).
        interpolation: of average precision: none, envelope or 11point.
        cf1: harmonic (of mean precision and recall) or mean (of the classes' F1).
        compile: let torch compile network and embedding loss for the training.
    """

    def __init__(
        self,
        network: Network,
        classification_loss: ClassificationLoss | None = None,
        embedding_loss: EmbeddingLoss | None = None,
        embedding_weight: float = 1.0,
        embedding_start: float = 0.0,
        embedding_ramp: float = 0.0,
        optimizer: OptimizerFactory = AdamW,
        schedule: Schedule | None = None,
        lr_mult: dict[str, float] | None = None,
        init_from: str | None = None,
        threshold: float | list[float] = 0.5,
        temperature: float = 1.0,
        interpolation: Interpolation = "none",
        cf1: CF1Definition = "harmonic",
        compile: bool = False,
        unknown: Rule = "ignore",
        unknown_weight: float | None = None,
    ) -> None:
        super().__init__()
        self.network, self.temperature, self.second_stage = network, temperature, callbacks.SecondStage(init_from)
        self.classification_loss = classification_loss or BinaryCrossEntropy()
        self.embedding_loss, self.embedding_weight = embedding_loss, embedding_weight
        self.optimizer_factory, self.schedule, self.lr_mult = optimizer, schedule or Constant(), lr_mult or {}
        metrics = MultiLabelMetrics(network.num_classes, threshold, interpolation, cf1, temperature)
        self.val_metrics = self.test_metrics = metrics  # one object: it is reset before each use
        self.spread = callbacks.EmbeddingSpread(network.num_classes, network.embedding_dim)
        self.config: dict[str, Any] | None = None  # the parsed command line, set by mlcl.cli
        self.stored: dict[str, Any] | None = None  # record of the checkpoint that this training continues
        self.total_steps: int | None = None  # of the optimizer in this training
        self.evaluating, self.equal_batches, self.embedding_share = False, False, 1.0
        self.unknown, self.whole_batches = callbacks.UnknownLabels(unknown, unknown_weight), callbacks.WholeBatches()
        self.callbacks = [callbacks.Reproducible(), callbacks.FastStep(compile), self.second_stage, self.unknown]
        self.callbacks += [callbacks.EmbeddingRamp(embedding_start, embedding_ramp), callbacks.ScheduleCheck()]
        self.callbacks += [callbacks.FreezeFirst(), callbacks.Extraction(), callbacks.PosWeight(), callbacks.Monitors()]
        self.callbacks.append(self.whole_batches)

    def configure_callbacks(self) -> list[Callback]:
        """What a training needs around its steps; Lightning adds them to any Trainer, after the Trainer's own."""
        return self.callbacks

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, K) of uint8 images (B, 3, H, W)."""
        return torch.sigmoid(self.network(image).logits.float() / self.temperature)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every term by name, and ``loss``, their sum; views count as images for the classification loss."""
        image, target = batch["image"], batch["target"]
        out = self.network(image.flatten(0, -4), embeddings=self.embedding_loss is not None)
        self.own_logits = out.logits.detach()  # of this rank, for Finite
        logits, targets = global_batch(out.logits.unflatten(0, (len(target), -1)), target, self.equal_batches)
        terms = {"classification": self.unknown.loss(self, logits, targets, batch)}
        if self.embedding_loss is not None:
            embeddings, _ = global_batch(out.embeddings.unflatten(0, (len(target), -1)), target, self.equal_batches)
            weight = self.embedding_weight * self.embedding_share
            terms |= {name: weight * term for name, term in self.embedding_loss.terms(embeddings, targets).items()}
            if self.training and type(self.embedding_loss).update is not EmbeddingLoss.update:  # it has a state
                self.embedding_loss.update(embeddings.detach(), targets, logits.detach().sigmoid())
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step; the terms are logged as ``train/<name>``, and checked by :class:`mlcl.callbacks.Finite`."""
        terms = self.losses(batch)
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        return terms

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect what the metrics need; while training also log the loss."""
        logits, embeddings = self.whole_batches.evaluate(self.network, batch)
        self.val_metrics.update(logits, batch["target"], batch["index"])
        self.spread.update(embeddings, batch["target"])
        if not self.evaluating:
            loss = self.classification_loss(logits, batch["target"])
            self.log("val/classification", loss, on_epoch=True, sync_dist=True, batch_size=len(logits))

    def on_validation_epoch_start(self) -> None:
        """Start afresh."""
        self.val_metrics.reset()
        self.spread.reset()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/mAP`` (in a test ``test/mAP``) and the rest, the same on every rank."""
        split, values = "test" if self.trainer.testing else "val", self.val_metrics.compute() | self.spread.compute()
        self.log_dict({f"{split}/{name}": value for name, value in values.items()})

    test_step = validation_step
    on_test_epoch_start, on_test_epoch_end = on_validation_epoch_start, on_validation_epoch_end

    def configure_optimizers(self) -> Any:
        """Groups by part, and a schedule that steps with the optimizer."""
        self.second_stage.load(self)
        optimizer = make_optimizer(self, self.optimizer_factory, self.lr_mult)
        self.total_steps, self.steps_per_epoch = training_length(self.trainer)
        scheduler = self.schedule.build(optimizer, self.total_steps, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the record from which the checkpoint alone is tested, loaded and continued."""
        checkpoint[record.KEY] = record.make(self.config, getattr(self.trainer, "datamodule", None), self.total_steps)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """An evaluation needs the network only: its losses may be others."""
        network = {name: value for name, value in checkpoint["state_dict"].items() if name.startswith("network.")}
        if self.evaluating:
            checkpoint["state_dict"] = self.state_dict() | network
        else:
            self.stored = checkpoint.get(record.KEY, {})
