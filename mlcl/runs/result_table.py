"""An evaluation at the terminal: the metrics, the AP of every class, and how the numbers are meant."""

import math
import os
from pathlib import Path
from typing import Any

from rich.columns import Columns
from rich.console import Console
from rich.table import Table
from rich.text import Text

from mlcl.analysis import frequency
from mlcl.analysis.measures import Evaluation

_SHOWN = 200  # classes in the table on the terminal; of more, the best and the worst
_NAMED = 20  # classes without AP
_GROUPS = ("head", "medium", "tail")


def show(summary: dict[str, Any], evaluation: Evaluation, classes: list[str], folder: Path) -> None:
    """Print an evaluation, with what ``metrics.json`` in this folder says of it."""
    console = Console()
    console.print()  # ends the line of a progress bar
    metrics = summary["metrics"]
    table = Table(title=f"{summary['split']}: {summary['N']:,} images, {len(classes)} classes (percent)")
    names = ("mAP", "CP", "CR", "CF1", "OP", "OR", "OF1")
    for name in ("", *names):
        table.add_column(name, justify="right")
    table.add_row("all", *(_percent(metrics[name]) for name in names))
    table.add_row("top-3", "", *(_percent(metrics[f"{name}_top3"]) for name in names[1:]))
    console.print(table)
    console.print(_class_lines(evaluation, classes))
    if len(classes) > _SHOWN:
        console.print(f"  the best and the worst of {len(classes):,} classes; all are in per_class.csv")
    if groups := summary.get("frequency"):
        parts = [f"{name} {_percent(groups[name]['mAP'])} ({_count(groups[name]['classes'])})" for name in _GROUPS]
        console.print(f"  mAP by training images: {', '.join(parts)}; {frequency.meaning(groups['borders'])}",
                      highlight=False)  # fmt: skip
    if members := summary.get("members"):
        console.print(_members(members, metrics["mAP"]))
    if summary.get("localisation", {}).get("positives"):
        console.print(_localised(summary["localisation"]))
    if found := summary.get("probe"):
        console.print(
            f"  to beat: mAP {_percent(found['mAP'])} by {found['kind']} heads on pooled features (penalty "
            f"{found['penalty']:g}, chosen by {min(5, found['images'])} folds of {found['images']:,} training images)",
            style="yellow" if (metrics["mAP"] or 0) < (found["mAP"] or 0) else None, highlight=False,
        )  # fmt: skip
    for name, meaning in summary["definitions"].items():
        console.print(f"  {name}: {meaning}", style="dim", highlight=False)
    if summary.get("tta") == "flip":
        console.print("  tta: mean logits of every picture and its mirror image", style="dim", highlight=False)
    for kind, what in (("positives", "no positive"), ("absences", "nothing known to be absent")):
        if names := summary[f"classes_without_{kind}"]:
            more = f" and {len(names) - _NAMED:,} more" if len(names) > _NAMED else ""
            console.print(f"  {what}, so no AP: {', '.join(names[:_NAMED])}{more}", style="yellow", highlight=False)
    if found := summary.get("label_issues"):
        console.print(f"  labels that the scores contradict: {found:,}, in label_issues.csv", highlight=False)
    console.print(f"results in {os.path.relpath(folder)}", highlight=False, soft_wrap=True)


def _members(members: list[dict[str, Any]], own: float | None) -> Table:
    """The mAP of the members of an ensemble, and its own."""
    table = Table(title="mAP of the members (percent)")
    table.add_column("", overflow="fold")
    table.add_column("mAP", justify="right", no_wrap=True)
    for member in members:
        table.add_row(Text(member["folder"]), _percent(member["mAP"]))
    table.add_row("ensemble", _percent(own))
    return table


def _localised(found: dict[str, Any]) -> Table:
    """Whether the attention of each class lies on its objects, over all positives and by the size of the object."""
    left_out = found["positives_without_region"]
    note = f"{left_out:,} positives have no mask or box" if left_out else None
    table = Table(title="attention on the objects, and AP by their size (percent)", caption=note)
    by = {"energy": "chance", "gain": "", "pointing": "pointing_chance", "specificity": "", "AP": "AP_chance"}
    for name in ("", "positives", *by):
        table.add_column(name, justify="right", no_wrap=True)
    for size, row in {"all": found, **found["sizes"]}.items():
        if row["positives"]:
            for label, number, names in ((size, f"{row['positives']:,}", by), ("chance", "", by.values())):
                table.add_row(label, number, *(_percent(row[name]) if name in row else "" for name in names))
    return table


def _class_lines(evaluation: Evaluation, classes: list[str]) -> Columns:
    """AP and number of positives of every class, best first, in columns; of very many classes, both ends."""
    aps, counts = evaluation.class_ap.tolist(), evaluation.positives.tolist()
    ranked = sorted(range(len(classes)), key=lambda k: -1.0 if math.isnan(aps[k]) else aps[k], reverse=True)
    if len(ranked) > _SHOWN:
        measured = [k for k in ranked if not math.isnan(aps[k])] or ranked
        ranked = [*measured[: _SHOWN // 2], *measured[_SHOWN // 2 :][-_SHOWN // 2 :]]
    longest = max(len(classes[k]) for k in ranked)
    lines = [Text(f"{classes[k]:<{longest}} {_percent(aps[k]):>6}  n={counts[k]}", no_wrap=True) for k in ranked]
    return Columns(lines, padding=(0, 3), equal=True, column_first=True, title="AP and positives of each class")


def _count(classes: int) -> str:
    return "1 class" if classes == 1 else f"{classes:,} classes" if classes else "no class"


def _percent(value: float | None) -> str:
    return "-" if value is None or math.isnan(value) else f"{100 * value:.2f}"
