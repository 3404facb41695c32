"""``mlcl calibrate``: thresholds and a temperature from held-out images, into a new checkpoint."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from mlcl import analysis
from mlcl.analysis import thresholds
from mlcl.analysis.thresholds import Calibration
from mlcl.data import ImageDataset, MultiLabelDataModule
from mlcl.data.bad_images import BadImages, new_list
from mlcl.errors import MlclError
from mlcl.inference import forward
from mlcl.inference.rebuild import Rebuilt, use_tta
from mlcl.network import Network, Tta
from mlcl.runs import record
from mlcl.system import yaml_text
from mlcl.system.console import say
from mlcl.system.files import write_whole


def calibrate(
    checkpoint: Path,
    output: Path,
    *,
    target: str = "f1",
    level: float | None = None,
    shrink: float = 10.0,
    tta: Tta | None = None,
    imports: tuple[str, ...] = (),
    root: str | None = None,
    accelerator: str = "auto",
    changes: dict[str, Any] | None = None,
) -> Calibration:
    """Fit on the validation images, write a checkpoint that holds the result, and print what it changes.

    The arguments are those of ``mlcl calibrate``, with ``target``, ``level`` and ``shrink`` as in
    :func:`mlcl.analysis.thresholds.fit`; ``changes`` are other arguments of the dataset, such as its batch_size.
    """
    rebuilt = Rebuilt(checkpoint, imports)
    data = rebuilt.datamodule(root, **(changes or {}))
    check_held_out(data, checkpoint)
    network = rebuilt.network()
    use_tta(network, tta)
    logits, targets = _evaluate(rebuilt, network, data, accelerator, output.parent)

    def fitted(logits: Tensor, targets: Tensor) -> Calibration:
        return thresholds.fit(logits, targets, target, level, shrink)

    made = fitted(logits, targets)
    plain = Calibration(1.0, torch.full((len(rebuilt.classes),), 0.5, dtype=torch.float64))
    before = thresholds.summary(plain.predicted(logits), plain.probabilities(logits), targets)
    predicted, probabilities = thresholds.cross_fitted(logits, targets, fitted)
    after = thresholds.summary(predicted, probabilities, targets)
    goal = target if level is None else f"{target} of {level:g}"
    _write(rebuilt, made, network.tta, output, {"target": goal, "shrink": shrink, "images": len(logits)})
    _print(rebuilt.classes, made, targets, before, after, goal)
    if level is not None:
        say(_reached(predicted, targets, target, level))
    if after["ECE"] > before["ECE"] + 0.02:
        say(f"warning: the probabilities got worse; {len(logits)} images are too few for a temperature")
    say(f"{os.path.relpath(output)}: predict, test and export of it use these thresholds")
    return made


def check_held_out(data: MultiLabelDataModule, checkpoint: Path) -> None:
    """Refuse a run whose validation images were used for training or testing."""
    if "val" in data.splits and data.splits["val"] is data.splits.get("test") and data.val_fraction:
        raise MlclError(f"{checkpoint}: its held-out images are its test images too; give the dataset a test split")
    own = set(data.splits["val"].paths) if "val" in data.splits else set()
    for split in ("train", "test"):
        if not own or (split in data.splits and own & set(data.splits[split].paths)):  # type: ignore[index]
            what = f"its validation images are {split} images" if own else "it has no validation images"
            raise MlclError(f"{checkpoint}: {what}; to calibrate, train with --data.val_fraction 0.1")


def _evaluate(
    rebuilt: Rebuilt, network: Network, data: MultiLabelDataModule, accelerator: str, folder: Path
) -> tuple[Tensor, Tensor]:
    """Logits (N, K) float32 and targets (N, K) of the validation images; bad images are listed in the folder."""
    data.prepare_data()
    process = forward.start(accelerator, precision=rebuilt.config["trainer"].get("precision") or "32-true")
    loader = data.val_dataloader()
    if isinstance(loader.dataset, ImageDataset) and loader.dataset.bad is not None:
        loader.dataset.bad = BadImages("val", len(loader.dataset), new_list(folder))
    batches = forward.logits(process, network, loader)
    logits, targets = zip(*((logits.float(), batch["target"]) for batch, logits in batches), strict=True)
    return torch.cat(logits), torch.cat(targets)


def _write(rebuilt: Rebuilt, made: Calibration, tta: Tta, output: Path, how: dict[str, Any]) -> None:
    """The old checkpoint with thresholds, temperature and tta in its configuration, where every verb reads them."""
    config = record.config_of(rebuilt.content, rebuilt.path)
    config["tta"] = tta  # the thresholds belong to such logits
    config["model"] |= {"threshold": made.thresholds.tolist(), "temperature": made.temperature}
    stored = {**rebuilt.content[record.KEY], "config": yaml_text.dump(config), "calibration": how}
    write_whole(output, lambda path: torch.save({**rebuilt.content, record.KEY: stored}, path))


def _reached(predicted: Tensor, targets: Tensor, target: str, level: float) -> str:
    """How many classes have the wanted level on images that did not choose their threshold."""
    table = analysis.decisions(predicted.numpy(), targets.numpy(), np.array(0.5))
    values, counted = table.precision if target == "precision" else table.recall, table.positives > 0
    reached = int((values[counted] >= level).sum())
    return f"{target} of {level:g} or more: {reached} of {int(counted.sum())} classes on images not fitted on (5-fold)"


def _print(
    classes: list[str], made: Calibration, targets: Tensor, before: dict[str, float], after: dict[str, float], goal: str
) -> None:
    console = Console()
    table = Table(title=f"{len(targets):,} held-out images, target {goal} (percent)")
    for name in ("", *before):
        table.add_column(name, justify="right")
    table.add_row("threshold 0.5", *(f"{100 * value:.2f}" for value in before.values()))
    table.add_row("calibrated, 5-fold", *(f"{100 * value:.2f}" for value in after.values()))
    console.print(table)
    console.print(
        "  5-fold: each fifth is scored by a calibration on the other four; the one stored is fitted on all of them",
        style="dim", highlight=False,
    )  # fmt: skip
    console.print(f"  temperature {made.temperature:.3f}", highlight=False)
    positives = (targets == 1).sum(0).tolist()
    rows = zip(classes, made.thresholds.tolist(), positives, strict=True)
    console.print("  thresholds " + ", ".join(f"{name} {value:.2g}" for name, value, _ in rows), highlight=False)
    if few := [name for name, count in zip(classes, positives, strict=True) if count < 5]:
        console.print(f"  fewer than 5 positives, so close to the global one: {', '.join(few)}", style="yellow")
