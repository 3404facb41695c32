"""Findings as each logger can show them; a logger that shows numbers only has none of them."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger
from markupsafe import escape

if TYPE_CHECKING:  # with matplotlib, which a run that logs numbers only does without
    from mlcl.report.findings import Findings, Table

Showing = Callable[[Any, "Findings"], None]  # takes the logger's own object (``logger.experiment``)


def showing(logger: Logger) -> Showing | None:
    """How this logger shows findings, or None if it cannot."""
    if isinstance(logger, WandbLogger):
        return _in_wandb
    return _in_tensorboard if isinstance(logger, TensorBoardLogger) else None


def _in_wandb(run: Any, found: "Findings") -> None:
    """Tables, a chart of curves, images, and the embeddings as a table (W&B's projector reads its columns)."""
    import wandb

    shown: dict[str, Any] = {
        name: wandb.Table(columns=[*table.columns], data=table.rows) for name, table in found.tables.items()
    }
    if found.curves is not None and found.curves.rows:
        table = wandb.Table(columns=[*found.curves.columns], data=found.curves.rows)
        shown["pr_curves"] = wandb.plot.line(table, "recall", "precision", "class", "precision over recall, lowest AP")
    for name, pictures in found.pictures.items():
        shown[name] = [wandb.Image(p.pixels, caption=p.caption, file_type="jpg") for p in pictures]
    if len(found.owners):
        columns = ["class", *(f"d{n}" for n in range(found.embeddings.shape[1]))]
        rows = [[owner, *row] for owner, row in zip(found.owners, found.embeddings.round(4).tolist(), strict=True)]
        shown["embedding_table"] = wandb.Table(columns=[*columns], data=rows)
    run.log({f"{found.split}/{name}": value for name, value in shown.items()})


def _in_tensorboard(writer: Any, found: "Findings") -> None:
    """Tables as text, images, and the embeddings in the projector; the curves as a table."""
    curves = {"pr_curves": found.curves} if found.curves is not None else {}
    for name, table in {**found.tables, **curves}.items():
        writer.add_text(f"{found.split}/{name}", _markdown(table))
    for name, pictures in found.pictures.items():
        for number, picture in enumerate(pictures):
            writer.add_image(f"{found.split}/{name}", picture.pixels, number, dataformats="HWC")
        writer.add_text(f"{found.split}/{name}", "\n".join(f"{n}. {_cell(p.caption)}" for n, p in enumerate(pictures)))
    if len(found.owners):
        names = [" ".join(owner.split()) for owner in found.owners]  # a line each
        writer.add_embedding(found.embeddings, names, tag=f"{found.split}_embeddings")
    writer.flush()


def _markdown(table: "Table") -> str:
    lines = [table.columns, ["---"] * len(table.columns), *table.rows]
    return "\n".join("| " + " | ".join(map(_cell, line)) + " |" for line in lines)


def _cell(value: Any) -> str:
    """Nothing of it is read as HTML or as the end of a cell."""
    text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
    return str(escape(" ".join(text.split()))).replace("|", "&#124;")
