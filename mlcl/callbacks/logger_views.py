"""How each logger shows tables, pictures and embeddings."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from markupsafe import escape

if TYPE_CHECKING:  # imports matplotlib, which a run that logs numbers only does without
    from mlcl.report.views import Table, Views

Showing = Callable[[Any, "Views"], None]  # takes ``logger.experiment``


def showing(logger: Logger) -> Showing | None:
    """The function that shows the views in this logger; None for one that takes numbers only."""
    if isinstance(logger, WandbLogger):
        return _in_wandb
    return _in_tensorboard if isinstance(logger, TensorBoardLogger) else None


def _in_wandb(run: Any, views: "Views") -> None:
    """Tables, a chart of curves, images, and the embeddings as a table (W&B's projector reads its columns)."""
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(columns=[*table.columns], data=table.rows) for name, table in views.tables.items()
    }
    if views.curves is not None and views.curves.rows:
        table = wandb.Table(columns=[*views.curves.columns], data=views.curves.rows)
        shown["pr_curves"] = wandb.plot.line(table, "recall", "precision", "class", "precision over recall, lowest AP")
    for name, pictures in views.pictures.items():
        shown[name] = [wandb.Image(p.pixels, caption=p.caption, file_type="jpg") for p in pictures]
    if len(views.owners):
        columns = ["class", *(f"d{n}" for n in range(views.embeddings.shape[1]))]
        rows = [[owner, *row] for owner, row in zip(views.owners, views.embeddings.round(4).tolist(), strict=True)]
        shown["embedding_table"] = wandb.Table(columns=[*columns], data=rows)
    run.log({f"{views.split}/{name}": value for name, value in shown.items()})


def _in_tensorboard(writer: Any, views: "Views") -> None:
    """Tables as text, images, and the embeddings in the projector; the curves as a table."""
    curves = {"pr_curves": views.curves} if views.curves is not None else {}
    for name, table in {**views.tables, **curves}.items():
        writer.add_text(f"{views.split}/{name}", _markdown(table))
    for name, pictures in views.pictures.items():
        for number, picture in enumerate(pictures):
            writer.add_image(f"{views.split}/{name}", picture.pixels, number, dataformats="HWC")
        writer.add_text(f"{views.split}/{name}", "\n".join(f"{n}. {_cell(p.caption)}" for n, p in enumerate(pictures)))
    if len(views.owners):
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
