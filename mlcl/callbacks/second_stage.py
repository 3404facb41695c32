"""A run that starts from another run's network (``--model.init_from``), prototypes included."""

from typing import Any

from lightning import Callback

from mlcl.callbacks.class_means import class_means
from mlcl.data import MultiLabelDataModule
from mlcl.runs import folders
from mlcl.runs.init_from import load_network
from mlcl.system.console import say


class SecondStage(Callback):
    """Loads the network of another run before training; a run that is continued has its own weights by then.

    An embedding loss with ``starts_from_means`` also gets the class means of that network over the training images.
    ``init_from`` is a checkpoint or a run's folder; None does nothing.
    """

    def __init__(self, init_from: str | None) -> None:
        self.init_from = init_from

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Before a checkpoint is restored, of which an evaluation takes the network only."""
        pl_module.evaluating = stage != "fit"

    def load(self, pl_module: Any) -> None:
        """Load the network: before the optimizer asks for the loader, for which a frozen one computes features."""
        if self.init_from is not None and pl_module.stored is None:
            classes = getattr(getattr(pl_module.trainer, "datamodule", None), "classes", ())
            say(load_network(pl_module.network, folders.best_checkpoint(self.init_from), list(classes)))

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Compute the class means; every rank takes its share of the images."""
        loss, data = pl_module.embedding_loss, getattr(trainer, "datamodule", None)
        if self.init_from is None or pl_module.stored is not None or loss is None or not loss.starts_from_means:
            return
        if not isinstance(data, MultiLabelDataModule):
            say("prototypes stay as initialised: class means need a MultiLabelDataModule")
            return
        say("computing the prototypes from all training images ...")
        batches = 1 if trainer.fast_dev_run else None
        means, (confident, positives) = class_means(pl_module.network, data, pl_module.device, batches=batches)
        loss.start_from(means, positives > 0)
        sure, none = int((confident > 0).sum()), int((positives == 0).sum())
        say(f"prototypes: {sure} classes from confident positives, {none} without positives as initialised")
