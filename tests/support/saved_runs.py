"""Run folders as training and testing leave them, written from given logits and targets; and their comparison."""

import json
from pathlib import Path

import torch
import yaml

from mlcl.comparison import folders, outcome
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs.result_files import write_scores


def write_run(folder, logits, targets, *, seed=0, names=None, classes=None, order=None, split="test", settings=None,
              config=None):  # fmt: skip
    """What ``mlcl test`` leaves in a run's folder; ``names=[]`` for images without names."""
    metrics = MultiLabelMetrics(targets.shape[1], **(settings or {}))
    index = torch.arange(len(targets)) if order is None else torch.as_tensor(order)
    metrics.update(logits, targets, index)
    metrics.compute()
    folder.mkdir(parents=True, exist_ok=True)
    names = [f"images/{i:04}.jpg" for i in range(len(targets))] if names is None else names
    write_scores(folder / "scores.npz", metrics.evaluation,
                 classes or [f"class {k}" for k in range(targets.shape[1])], names)  # fmt: skip
    summary = {"split": split, "definitions": metrics.evaluation.definitions,
               "metrics": {name: value.item() for name, value in metrics.evaluation.values.items()}}  # fmt: skip
    (folder / "metrics.json").write_text(json.dumps(summary))
    whole = {"seed_everything": seed, "data": {"class_path": "mlcl.data.Demo", "init_args": {}}, **(config or {})}
    (folder / "config.yaml").write_text(yaml.safe_dump(whole))
    return folder


def small_run(name, change=lambda logits, targets: (logits, targets), **settings):
    """A run of 30 images and 3 classes, the same in every call but for the change, in ``runs/<name>`` here."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (30, 3), generator=generator, dtype=torch.int8)
    logits = torch.randn(30, 3, generator=generator) + targets
    return write_run(Path("runs") / name, *change(logits, targets), **settings)


def compare(*runs, baseline=None, resamples=100):
    """As the command does, without its output."""
    return outcome.compare(folders.find([Path(run) for run in runs], baseline)[0], resamples)
