"""Trainings of the demo's network in this process, and callbacks that look at each step."""

import lightning
import torch
from lightning import Trainer
from support.step_parts import ADAM, EMBEDDINGS, make
from support.waits import Waits

from mlcl.heads import HEADS
from mlcl.losses import EMBEDDING_LOSSES
from mlcl.module import MultiLabelModule
from mlcl.network import Network


class Around(lightning.Callback):
    """Does something around whole batches: hooks of callbacks and module, and what Lightning makes of the log."""

    def begin(self, module, batch, batch_idx) -> None: ...

    def end(self) -> None: ...

    def on_train_start(self, trainer, module):
        connector = trainer._logger_connector
        last = connector.on_batch_end
        connector.on_batch_end = lambda: (last(), self.end() if trainer.training else None)

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.begin(module, batch, batch_idx)


class Watch(Around):
    """Counts what waits, and the rows."""

    def __init__(self) -> None:
        self.found: list[str] = []
        self.present: list[int] = []
        self.capacities: list[int | None] = []

    def begin(self, module, batch, batch_idx):
        self.present.append(int((batch["target"] == 1).sum()) * batch["image"].shape[1])
        self.capacities.append(module.embedding_loss.capacity)
        assert module.equal_batches
        self.mode = Waits().__enter__()

    def end(self):
        self.mode.__exit__(None, None, None)
        self.found += self.mode.found


def fit(made: MultiLabelModule, data, callbacks, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = Trainer(
        **{"max_epochs": 3, "accelerator": "cpu", "logger": False, "num_sanity_val_steps": 0, **quiet, **settings},
        callbacks=callbacks,
    )
    trainer.fit(made, datamodule=data)
    return trainer


def demo_module(embedding: str) -> MultiLabelModule:
    torch.manual_seed(0)
    network = Network("test_resnet", make(HEADS["SemanticAttention"]), 12)
    kind, settings = EMBEDDINGS[embedding]
    loss = make(EMBEDDING_LOSSES[kind], network.embedding_dim, **{**settings, "num_classes": 12})
    return MultiLabelModule(network, embedding_loss=loss, optimizer=ADAM)
