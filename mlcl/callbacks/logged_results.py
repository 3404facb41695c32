"""After a test, show tables, curves, pictures and embeddings in W&B and TensorBoard."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger, WandbLogger
from markupsafe import escape

from mlcl.errors import MlclError
from mlcl.system.console import say

if TYPE_CHECKING:  # imports matplotlib, which a run that logs numbers only does without
    from mlcl.report.views import Table, Views


class LoggedResults(Callback):
    """Log the per-class table, curves, worst errors (at most ``images``) and embeddings to W&B and TensorBoard.

    It reads the files that :class:`mlcl.callbacks.Results` writes, so it comes after that callback.
    """

    def __init__(self, folder: Path, images: int = 24, imports: tuple[str, ...] = ()) -> None:
        self.folder, self.images, self.imports = folder, images, imports

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The test split."""
        self._show(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The validation split, when validated by itself."""
        if trainer.state.fn == "validate":
            self._show(trainer)

    def _show(self, trainer: Trainer) -> None:
        able = [logger for logger in trainer.loggers if isinstance(logger, WandbLogger | TensorBoardLogger)]
        if not able or not trainer.is_global_zero:
            return
        from mlcl.report import findings, views  # with matplotlib and scikit-learn, which most runs do without

        data: Any = getattr(trainer, "datamodule", None)
        root = data.portable_arguments().get("root") if hasattr(data, "portable_arguments") else None
        try:
            with torch.inference_mode(False):  # a network made in inference mode could not be used outside it
                found = findings.gather(self.folder, root, imports=self.imports)
                shown = views.views(found, self.images)
            for logger in able:
                show = show_in_wandb if isinstance(logger, WandbLogger) else show_in_tensorboard
                show(logger.experiment, shown)
            for note in found.evidence.notes:
                say(f"not shown in the logger: {note}")
        except Exception as error:  # of several libraries; the run, whose results are written, does not fail
            say(f"not shown in the logger: {error if isinstance(error, MlclError) else repr(error)}")


def show_in_wandb(run: Any, views: "Views") -> None:
    """Tables, a chart of curves, images, and the embeddings as a table (W&B's projector reads its columns)."""
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(columns=[*table.columns], data=table.rows) for name, table in views.tables.items()
    }
    if views.curves.rows:
        curves = wandb.Table(columns=[*views.curves.columns], data=views.curves.rows)
        shown["pr_curves"] = wandb.plot.line(curves, "recall", "precision", "class", "precision over recall, lowest AP")
    for name, pictures in views.pictures.items():
        shown[name] = [wandb.Image(p.pixels, caption=p.caption, file_type="jpg") for p in pictures]
    if views.embeddings is not None:
        columns = ["class", *(f"d{n}" for n in range(views.embeddings.shape[1]))]
        rows = [[owner, *row] for owner, row in zip(views.owners, views.embeddings.round(4).tolist(), strict=True)]
        shown["embedding_table"] = wandb.Table(columns=[*columns], data=rows)
    run.log({f"{views.split}/{name}": value for name, value in shown.items()})


def show_in_tensorboard(writer: Any, views: "Views") -> None:
    """Tables as text, images, and the embeddings in the projector; the curves as a table."""
    for name, table in {**views.tables, "pr_curves": views.curves}.items():
        writer.add_text(f"{views.split}/{name}", _markdown(table))
    for name, pictures in views.pictures.items():
        for number, picture in enumerate(pictures):
            writer.add_image(f"{views.split}/{name}", picture.pixels, number, dataformats="HWC")
        writer.add_text(f"{views.split}/{name}", "\n".join(f"{n}. {_cell(p.caption)}" for n, p in enumerate(pictures)))
    if views.embeddings is not None:
        names = [" ".join(owner.split()) for owner in views.owners]  # a line each
        writer.add_embedding(views.embeddings, names, tag=f"{views.split}_embeddings")
    writer.flush()


def _markdown(table: "Table") -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    """As Markdown text without HTML, line ends or cell ends."""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return str(escape(" ".join(text.split()))).replace("|", "&#124;")
