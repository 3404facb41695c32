"""Every method with the same budget, several seeds: the tables of docs/methods.md.

    python tests/real/methods.py demo --seeds 3
    python tests/real/methods.py voc2012 --root DIR --weights FILE --seeds 5
    python tests/real/methods.py heads --root DIR --weights FILE --seeds 3

Every run is a command line, started in this process. One-stage methods train all epochs; a second stage starts from
the first one's checkpoint, and both together train as many. On VOC2012 the backbone is frozen, and only classes with
at least five positives among the test images count. Runs that are there already (same folder) are not repeated.
"""

import argparse
import csv
import io
import json
import multiprocessing
import os
import statistics
from concurrent.futures import ProcessPoolExecutor
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"  # the runs themselves are side by side

import matplotlib.pyplot as plt
import numpy as np
import torch

from mlcl.__main__ import main as mlcl
from mlcl.metrics import average_precision

REPOSITORY = Path(__file__).resolve().parents[2]
CONFIGS = REPOSITORY / "configs"
METHODS = CONFIGS / "methods"
WIDTH = ["--model.network.head.dim", "128"]  # the papers' widths are for a ResNet-101
SLOWER = ["--model.lr_mult", "{head: 0.2}"]  # attention over attention; the demo's rate is for a light head
PROJECTION = ["--model.embedding_loss.projection", "64"]
LATER = ["--model.embedding_start", "3", "--model.embedding_ramp", "3"]  # of 12 epochs; the overlays' 5 are for 20
SAME_HEAD = [
    "--model.network.head",
    "SemanticAttention",
    "--model.network.head.dim",
    "256",
    "--model.network.head.dropout",
    "0",
]


class Run:
    """One row of a table: overlays and flags, and the first stage it needs."""

    def __init__(self, overlays: str, *flags: str, epochs: int = 12, first: str | None = None) -> None:
        self.overlays, self.flags, self.epochs, self.first = overlays.split(), flags, epochs, first


def one_head(*head: str) -> dict[str, Run]:
    """Losses under the same head."""
    second = {"epochs": 4, "first": "BCE, first stage"}
    return {
        "BCE": Run("bce", *head),
        "untrained": Run("bce", *head, "--model.optimizer.lr", "1e-12", epochs=1),
        "ASL": Run("asl", *head),
        "discriminative": Run("discriminative", *head, *LATER),
        "PSCL, one stage": Run("pscl", *head),
        "BCE, first stage": Run("bce", *head, epochs=8),
        "MulCon": Run("mulcon", *head, *PROJECTION, **second),
        "MulCon's control": Run("mulcon stage2_control", *head, **second),
        "SADCL": Run("sadcl", *head, *PROJECTION, **second),
        "SADCL's control": Run("sadcl stage2_control", *head, **second),
    }


def own_heads() -> dict[str, Run]:
    """Methods as their overlays say, heads included, in a width for small pictures."""
    return {
        "bce": Run("bce"),
        "asl": Run("asl"),
        "discriminative": Run("discriminative", *LATER),
        "pscl": Run("pscl"),
        "mulsupcon": Run("mulsupcon", *PROJECTION, *LATER),
        "mulcon_stage1": Run("mulcon_stage1", *WIDTH, *SLOWER, epochs=8),
        "mulcon": Run("mulcon", *WIDTH, *PROJECTION, epochs=4, first="mulcon_stage1"),
        "mulcon stage2_control": Run("mulcon stage2_control", *WIDTH, epochs=4, first="mulcon_stage1"),
        "sadcl_stage1": Run("sadcl_stage1", *WIDTH, *SLOWER, epochs=8),
        "sadcl": Run("sadcl", *WIDTH, *PROJECTION, epochs=4, first="sadcl_stage1"),
        "sadcl stage2_control": Run("sadcl stage2_control", *WIDTH, epochs=4, first="sadcl_stage1"),
    }


def heads() -> dict[str, Run]:
    """Binary cross-entropy with every head."""
    flag = "--model.network.head"
    return {
        "GlobalPool": Run("bce", flag, "GlobalPool"),
        "SemanticAttention": Run("bce", flag, "SemanticAttention", f"{flag}.dim", "512"),
        "CSRA": Run("bce", flag, "CSRA"),
        "MLDecoder": Run("bce", flag, "MLDecoder"),
        "LabelAttention": Run("bce", flag, "LabelAttention"),
        "QueryDecoder, lean": Run("bce", flag, "QueryDecoder"),
        "QueryDecoder, published": Run("bce", flag, "QueryDecoder", f"{flag}.dim", "2048", f"{flag}.ffn", "8192"),
    }


def tables(given: argparse.Namespace) -> dict[str, Run]:
    """The rows of the table that was asked for, the baseline first."""
    return {"demo": own_heads, "voc2012": lambda: one_head(*SAME_HEAD), "heads": heads}[given.table]()


def recipe(given: argparse.Namespace) -> list[str]:
    """What all runs of a table share."""
    if given.table == "demo":
        return ["--config", str(CONFIGS / "demo.yaml"), "--data.num_workers", "0"]
    return [
        *("--config", str(CONFIGS / "voc2012.yaml"), "--data.root", given.root, "--data.augment", "flip"),
        *(
            "--model.network",
            "frozen.FrozenNetwork",
            "--model.network.backbone",
            "mobilenetv1_100",
            "--model.network.weights",
            given.weights,
        ),
        *("--model.network.backbone_kwargs", "{pad_type: same}", "--model.network.freeze_batch_norm", "true"),
        *("--model.network.freeze_stages", "6", "--data.image_size", "224", "--data.batch_size", "16"),
        *("--model.optimizer.lr", given.lr, "--ema_decay", "0.97", "--trainer.precision", given.precision),
        *("--trainer.accelerator", "cpu", "--data.num_workers", "0"),
    ]


def train(name: str, seed: int, runs: dict[str, Run], given: argparse.Namespace) -> dict[str, Any]:
    """Train one row with one seed, its first stage before it; returns what it reached."""
    run = runs[name]
    kind = given.table if given.table == "demo" else f"{given.table}-{given.lr}-{given.precision}"
    place = f"{kind}/{name.replace(' ', '_').replace(',', '')}/seed_{seed}"
    flags = [flag for overlay in run.overlays for flag in ("--config", str(METHODS / f"{overlay}.yaml"))]
    epochs = ["--trainer.max_epochs", str(run.epochs), "--trainer.check_val_every_n_epoch", str(run.epochs)]
    if run.first is not None:
        train(run.first, seed, runs, given)
        flags += ["--model.init_from", f"runs/{kind}/{run.first.replace(' ', '_').replace(',', '')}/seed_{seed}"]
    command = ["fit", *recipe(given), *flags, *run.flags, *epochs, "--seed_everything", str(seed), "--name", place]
    if not list(Path("runs", place).glob("version_*/metrics.json")):
        output = io.StringIO()
        with redirect_stdout(output), redirect_stderr(output):
            status = mlcl(command)
        if status:
            raise RuntimeError(f"{' '.join(command)}\n{output.getvalue()}")
    folder = max(Path("runs", place).glob("version_*/metrics.json")).parent
    stored, summary = np.load(folder / "scores.npz"), json.loads((folder / "metrics.json").read_text())
    ap = average_precision(torch.tensor(stored["logits"]), torch.tensor(stored["targets"]))
    rows = list(csv.DictReader((folder / "per_class.csv").read_text().splitlines()))
    return {
        "AP": ap,
        "targets": torch.tensor(stored["targets"]),
        "spread": summary["embedding_spread"],
        "class_spread": [float(row["spread"]) for row in rows],
    }


def all_rows(seed: int, names: list[str], given: argparse.Namespace) -> dict[str, Any]:
    """Every row with one seed, in a process of its own."""
    torch.set_num_threads(1)
    return {name: train(name, seed, tables(given), given) for name in names}


def table(reached: dict[str, list[Any]], counted: torch.Tensor, baseline: str) -> list[dict[str, Any]]:
    """Mean, standard deviation over seeds, and the paired difference to the first row."""
    maps = {name: [100 * float(r["AP"][counted].mean()) for r in rows] for name, rows in reached.items()}
    lines = []
    for name, values in maps.items():
        differences = [a - b for a, b in zip(values, maps[baseline], strict=True)]
        error = statistics.stdev(differences) / len(values) ** 0.5 if len(values) > 1 else float("nan")
        spread = statistics.stdev(values) if len(values) > 1 else float("nan")
        mean = statistics.mean(values)
        collapse = statistics.mean(r["spread"] for r in reached[name])
        lines.append({"method": name, "mAP": values, "difference": differences, "spread": collapse})
        print(
            f"| {name:24} | {mean:5.2f} | {spread:4.2f} | {statistics.mean(differences):+6.2f} ({error:.2f}) "
            f"| {collapse:.3f} |"
        )
    return lines


def collapse_figure(reached: dict[str, list[Any]], given: argparse.Namespace) -> None:
    """One panel per row: the spread of every class's embeddings over the test images, before and after."""
    runs = tables(given)
    shown = [name for name in reached if (runs[name].first or "untrained") in reached and name != "untrained"]
    spread = {name: np.mean([r["class_spread"] for r in rows], axis=0) for name, rows in reached.items()}
    figure, axes = plt.subplots(1, len(shown), figsize=(1.7 * len(shown), 3.6), sharey=True, layout="constrained")
    for axis, name in zip(axes, shown, strict=True):
        before = runs[name].first or "untrained"
        axis.plot([0, 1], [spread[before], spread[name]], color="tab:blue", alpha=0.35, marker=".")
        axis.plot([0, 1], [spread[before].mean(), spread[name].mean()], color="black", marker="o")
        axis.set_title(name, fontsize=9)
        axis.set_xticks([0, 1], [before.replace(", ", ",\n"), "after"], fontsize=8)
        axis.set_xlim(-0.35, 1.35)
    axes[0].set_ylabel("spread over the test images\n(0: the same embedding on every image)")
    figure.suptitle(f"one line per class, black their mean; mean of {given.seeds} seeds", fontsize=9)
    figure.savefig(f"runs/methods-{given.table}-collapse.png", dpi=150)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("table", choices=("demo", "voc2012", "heads"))
    parser.add_argument("--root", help="folder of VOC2012")
    parser.add_argument("--weights", help="of mobilenetv1_100")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side")
    parser.add_argument("--lr", default="2e-3", help="of the VOC2012 tables")
    parser.add_argument("--precision", default="32-true", help="of the VOC2012 tables")
    parser.add_argument("--only", nargs="*", help="rows")
    given = parser.parse_args()
    names = [name for name in tables(given) if not given.only or name in given.only]
    with ProcessPoolExecutor(given.jobs, multiprocessing.get_context("spawn")) as pool:
        seeds = list(pool.map(all_rows, range(given.seeds), [names] * given.seeds, [given] * given.seeds))
    reached = {name: [seed[name] for seed in seeds] for name in names}
    positives = (reached[names[0]][0]["targets"] == 1).sum(0)
    counted = positives >= (5 if given.table != "demo" else 1)
    print(f"mAP of {int(counted.sum())} classes, {given.seeds} seeds: mean, standard deviation, difference to")
    print(f"{names[0]} paired by seed (standard error)")
    lines = table(reached, counted, names[0])
    if "untrained" in reached:
        collapse_figure(reached, given)
    Path(f"runs/methods-{given.table}.json").write_text(json.dumps(lines, indent=2))


if __name__ == "__main__":
    main()
