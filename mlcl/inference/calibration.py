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
from mlcl.analysis import conformal, thresholds
from mlcl.analysis.thresholds import Calibration
from mlcl.data import ImageDataset, MultiLabelDataModule
from mlcl.data.bad_images import BadImages, listed, name_of, new_list
from mlcl.errors import MlclError
from mlcl.inference import forward, promises
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
    guarantee: str | None = None,
    false_alarms: float | None = None,
    tta: Tta | None = None,
    imports: tuple[str, ...] = (),
    root: str | None = None,
    accelerator: str = "auto",
    changes: dict[str, Any] | None = None,
) -> Calibration:
    """Fit on the validation images, write a checkpoint that holds the result, and print what it changes.

    The arguments are those of ``mlcl calibrate``, with ``target``, ``level`` and ``shrink`` as in
    :func:`mlcl.analysis.thresholds.fit`; ``guarantee`` is a kind of :func:`mlcl.analysis.conformal.fit`, which then
    takes the level of the recall; ``changes`` are other arguments of the dataset, such as its batch_size.
    """
    if guarantee is not None and (target != "recall" or level is None):
        raise ValueError(f"a guarantee takes the target recall with a level, got {target!r} and {level}")
    rebuilt = Rebuilt(checkpoint, imports)
    data = rebuilt.datamodule(root, **(changes or {}))
    check_held_out(data, checkpoint)
    network = rebuilt.network()
    use_tta(network, tta)
    logits, targets = _evaluate(rebuilt, network, data, accelerator, output.parent)
    if not logits.isfinite().all():
        raise MlclError(f"{checkpoint}: the network's output for held-out images is not finite; nothing can be fitted")
    goal = target if level is None else f"{target} of {level:g}"
    how: dict[str, Any] = {"target": goal, "images": len(logits)}
    how |= {"shrink": shrink} if guarantee is None else promises.recall_entry(targets, level or 0.0, guarantee)
    energy = None if false_alarms is None else promises.energy_entry(logits, false_alarms)

    def fitted(logits: Tensor, targets: Tensor) -> Calibration:
        if guarantee is not None:
            return conformal.fit(logits, targets, level or 0.0, guarantee)
        return thresholds.fit(logits, targets, target, level, shrink)

    made = fitted(logits, targets)
    plain = Calibration(1.0, torch.full((len(rebuilt.classes),), 0.5, dtype=torch.float64))
    before = thresholds.summary(plain.predicted(logits), plain.probabilities(logits), targets)
    predicted, probabilities = thresholds.cross_fitted(logits, targets, fitted)
    after = thresholds.summary(predicted, probabilities, targets)
    entries = {"calibration": how} | ({"energy": energy} if energy else {})
    _write(rebuilt, made, network.tta, output, entries)
    _print(rebuilt.classes, made, targets, before, after, goal, guarantee)
    if guarantee is not None:
        promises.say_recall(how, rebuilt.classes, conformal.missed(predicted, targets, guarantee))
    elif level is not None:
        say(_reached(predicted, targets, target, level))
    if energy:
        promises.say_energy(energy)
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
    """Logits (N, K) float32 and targets (N, K) of the validation images; bad ones are listed in the folder instead."""
    data.prepare_data()
    process = forward.start(accelerator, precision=rebuilt.config["trainer"].get("precision") or "32-true")
    loader, bad = data.val_dataloader(), None
    if isinstance(loader.dataset, ImageDataset) and loader.dataset.bad is not None:
        bad = loader.dataset.bad = BadImages("val", len(loader.dataset), new_list(folder))
    batches = forward.logits(process, network, loader)
    logits, targets = zip(*((logits.float(), batch["target"]) for batch, logits in batches), strict=True)
    unread = listed(bad.file, "val") if bad else set()
    read = torch.tensor([name_of(path) not in unread for path in data.splits["val"].paths]) if unread else slice(None)
    return torch.cat(logits)[read], torch.cat(targets)[read]


def _write(rebuilt: Rebuilt, made: Calibration, tta: Tta, output: Path, entries: dict[str, Any]) -> None:
    """The old checkpoint with thresholds, temperature and tta in its configuration, where every verb reads them.

    The entries come into the record in place of those of an earlier calibration.
    """
    config = record.config_of(rebuilt.content, rebuilt.path)
    config["tta"] = tta  # the thresholds belong to such logits
    config["model"] |= {"threshold": made.thresholds.tolist(), "temperature": made.temperature}
    kept = {key: value for key, value in rebuilt.content[record.KEY].items() if key not in ("calibration", "energy")}
    stored = {**kept, "config": yaml_text.dump(config), **entries}
    write_whole(output, lambda path: torch.save({**rebuilt.content, record.KEY: stored}, path))


def _reached(predicted: Tensor, targets: Tensor, target: str, level: float) -> str:
    """How many classes have the wanted level on images that did not choose their threshold."""
    table = analysis.decisions(predicted.numpy(), targets.numpy(), np.array(0.5))
    values, counted = table.precision if target == "precision" else table.recall, table.positives > 0
    reached = int((values[counted] >= level).sum())
    return f"{target} of {level:g} or more: {reached} of {int(counted.sum())} classes on images not fitted on (5-fold)"


def _print(
    classes: list[str],
    made: Calibration,
    targets: Tensor,
    before: dict[str, float],
    after: dict[str, float],
    goal: str,
    guarantee: str | None,
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
    if guarantee == "images":
        console.print(f"  threshold {made.thresholds[0]:.2g}, one for all classes", highlight=False)
        return
    positives = (targets == 1).sum(0).tolist()
    rows = zip(classes, made.thresholds.tolist(), positives, strict=True)
    console.print("  thresholds " + ", ".join(f"{name} {value:.2g}" for name, value, _ in rows), highlight=False)
    few = [name for name, count in zip(classes, positives, strict=True) if count < 5]
    if few and guarantee is None:
        console.print(f"  fewer than 5 positives, so close to the global one: {', '.join(few)}", style="yellow")
