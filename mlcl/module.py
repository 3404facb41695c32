"""The LightningModule: batch -> network -> losses -> metrics, every step on one screen."""

import math
from typing import Any, cast

import torch
from lightning import LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor
from torch.optim import AdamW
from torchmetrics import Metric

from mlcl import runs
from mlcl.callbacks import fast_step, small_batch
from mlcl.callbacks.class_means import start_prototypes
from mlcl.callbacks.spread import EmbeddingSpread
from mlcl.distributed import broadcast_buffers, gather, global_batch, rank
from mlcl.errors import MlclError
from mlcl.losses import ClassificationLoss, EmbeddingLoss
from mlcl.losses.binary_cross_entropy import BinaryCrossEntropy
from mlcl.metrics import CF1Definition, Interpolation, MultiLabelMetrics
from mlcl.network import Network
from mlcl.optim import Constant, OptimizerFactory, Schedule, make_optimizer, training_length
from mlcl.runs import record
from mlcl.runs.init_from import load_network
from mlcl.system.console import say
from mlcl.system.seeding import derive, global_seed


class MultiLabelModule(LightningModule):
    """Trains and evaluates a multi-label classifier.

    Args:
        network: pixels to logits, class-specific embeddings and attention.
        classification_loss: on the logits; by default binary cross-entropy.
        embedding_loss: on the class-specific embeddings of all ranks together.
        embedding_weight: factor on ``embedding_loss``, beside a classification loss that is a mean.
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
    ) -> None:
        super().__init__()
        self.network = network
        self.classification_loss = classification_loss or BinaryCrossEntropy()
        self.embedding_loss, self.embedding_weight = embedding_loss, embedding_weight
        self.embedding_start, self.embedding_ramp, self.init_from = embedding_start, embedding_ramp, init_from
        self.optimizer_factory, self.schedule, self.lr_mult = optimizer, schedule or Constant(), lr_mult or {}
        self.planned_steps: int | None = None  # of the schedule, from a checkpoint
        self.goes_on, self.steps_per_epoch = False, 1  # goes_on: the weights are a checkpoint's of this very run
        self.to_compile, self.equal_batches = compile, False  # equal_batches: all ranks' steps have as many images
        if min(embedding_start, embedding_ramp) < 0:
            raise MlclError(f"model.embedding_start and embedding_ramp: {embedding_start}, {embedding_ramp} is below 0")
        self.temperature = temperature
        self.val_metrics = MultiLabelMetrics(network.num_classes, threshold, interpolation, cf1, temperature)
        self.test_metrics = self.val_metrics.clone()
        self.spread = EmbeddingSpread(network.num_classes, network.embedding_dim)
        self.config: dict[str, Any] | None = None  # the parsed command line, set by cli.py

    def forward(self, image: Tensor) -> Tensor:
        """Probabilities (B, K) of uint8 images (B, 3, H, W)."""
        return torch.sigmoid(self.network(image).logits.float() / self.temperature)

    def losses(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """Every term by name, and ``loss``, their sum; views count as images for the classification loss."""
        image, target = batch["image"], batch["target"]
        views = image.shape[1] if image.ndim == 5 else 1
        out = self.network(image.flatten(0, -4))
        terms = {"classification": self.classification_loss(out.logits, target.repeat_interleave(views, 0))}
        if self.embedding_loss is not None:
            embeddings, targets = global_batch(out.embeddings.unflatten(0, (-1, views)), target, self.equal_batches)
            weight = self.embedding_weight * self.embedding_ramped()
            terms |= {name: weight * term for name, term in self.embedding_loss.terms(embeddings, targets).items()}
            if self.training and type(self.embedding_loss).update is not EmbeddingLoss.update:  # it has a state
                probabilities = gather(out.logits.sigmoid().unflatten(0, (-1, views)), self.equal_batches)
                self.embedding_loss.update(embeddings.detach(), targets, probabilities)
        return {**terms, "loss": torch.stack(list(terms.values())).sum()}

    def embedding_ramped(self) -> float:
        """Share of its full weight that the embedding loss has by now: 0, then a ramp, then 1."""
        late = (self.global_step / self.steps_per_epoch if self._trainer else math.inf) - self.embedding_start
        return 0.0 if late < 0 else min(1.0, late / self.embedding_ramp) if self.embedding_ramp else 1.0

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> dict[str, Tensor]:
        """One step; the terms are logged as ``train/<name>``, and looked at by :class:`mlcl.callbacks.Finite`."""
        if "drawn" in batch:
            raise MlclError(
                "the augmentation is not finished (data.augment_on device): give the trainer the datamodule, not its "
                "loader, and call super() where you override transfer_batch_to_device"
            )
        with small_batch.explained(self, batch["image"]):
            terms = self.losses(batch)
        self.log_dict({f"train/{name}": term for name, term in terms.items()})
        return terms

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect what the metrics need; while training also the loss."""
        logits = self._evaluate(batch, self.val_metrics)
        if self.trainer.state.fn == TrainerFn.FITTING:
            loss = self.classification_loss(logits, batch["target"])
            self.log("val/classification", loss, on_epoch=True, sync_dist=True, batch_size=len(logits))

    def test_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        """Collect what the metrics need."""
        self._evaluate(batch, self.test_metrics)

    def _evaluate(self, batch: dict[str, Tensor], metrics: Metric) -> Tensor:
        logits, embeddings, _ = self.network(batch["image"])
        metrics.update(logits, batch["target"], batch["index"])
        self.spread.update(embeddings, batch["target"])
        return cast(Tensor, logits)

    def on_train_epoch_start(self) -> None:
        """Dropout and the like depend on (seed, epoch, rank) only: Lightning stores no generator's state."""
        torch.manual_seed(derive(global_seed(), self.current_epoch, rank()))
        self.equal_batches = fast_step.fix_shapes(self.embedding_loss, self.trainer)

    def on_train_epoch_end(self) -> None:
        """What comes next has other batches."""
        self.equal_batches = fast_step.free_shapes(self.embedding_loss)

    def on_validation_epoch_start(self) -> None:
        """One model for all ranks."""
        broadcast_buffers(self.network)
        self.val_metrics.reset()
        self.spread.reset()

    def on_validation_epoch_end(self) -> None:
        """Log ``val/mAP`` and the rest, the same on every rank."""
        self._log_all("val", self.val_metrics.compute())

    def on_test_epoch_start(self) -> None:
        """Start afresh."""
        self.test_metrics.reset()
        self.spread.reset()

    def on_test_epoch_end(self) -> None:
        """Log ``test/mAP`` and the rest, the same on every rank."""
        self._log_all("test", self.test_metrics.compute())

    def _log_all(self, split: str, values: dict[str, Tensor]) -> None:
        self.log_dict({f"{split}/{name}": value for name, value in {**values, **self.spread.compute()}.items()})

    def setup(self, stage: str) -> None:
        """Resize as the backbone's weights want it."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is not None and datamodule.interpolation is None:
            datamodule.interpolation = self.network.interpolation

    def on_fit_start(self) -> None:
        """Start from another run's network where asked to; a run that goes on has its own weights by now."""
        if self.init_from is not None and not self.goes_on:
            classes = getattr(getattr(self.trainer, "datamodule", None), "classes", ())
            say(load_network(self.network, runs.best_checkpoint(self.init_from), list(classes)))
        if self.to_compile:
            fast_step.compile_step(self.network, self.embedding_loss)

    def configure_optimizers(self) -> Any:
        """Groups by part, and a schedule that steps with the optimizer."""
        optimizer = make_optimizer(self, self.optimizer_factory, self.lr_mult)
        steps, self.steps_per_epoch = training_length(self.trainer)
        scheduler = self.schedule.build(optimizer, steps, self.steps_per_epoch)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def on_train_start(self) -> None:
        """Say now what would come out wrong hours from now; start the prototypes of a second stage."""
        before, self.planned_steps = self.planned_steps, int(self.trainer.estimated_stepping_batches)
        self.schedule.check_length(before, self.planned_steps)
        late, epochs = self.embedding_start + self.embedding_ramp, self.planned_steps / self.steps_per_epoch
        if self.embedding_loss is not None and late >= epochs:
            say(f"warning: the embedding loss has its full weight after epoch {late:g}, training ends at {epochs:g}")
        if self.embedding_loss is not None and self.init_from is not None and not self.goes_on:
            start_prototypes(self.embedding_loss, self.network, self.trainer, self.device)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the checkpoint says of itself."""
        checkpoint[record.KEY] = record.make(self.config, getattr(self.trainer, "datamodule", None))
        checkpoint[record.KEY]["planned_steps"] = self.planned_steps

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the length of the schedule; away from training, the losses' parameters are of no use."""
        self.planned_steps, self.goes_on = checkpoint.get(record.KEY, {}).get("planned_steps"), True
        if self._trainer is None or self.trainer.state.fn != TrainerFn.FITTING:
            stored = checkpoint["state_dict"].items()
            checkpoint["state_dict"] = self.state_dict() | {k: v for k, v in stored if k.startswith("network.")}
