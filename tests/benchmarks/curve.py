"""What a training step costs beyond the backbone, as classes and images grow: time, memory, and fitted exponents.

python tests/benchmarks/curve.py [--smoke | --plot]
"""

import argparse
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import plain
import rounds
import torch
from torch import Tensor

from mlcl.heads import SemanticAttention
from mlcl.losses import BinaryCrossEntropy, LabelContrastiveLoss

CLASSES, BATCHES, REPEATS = (20, 80, 500, 2000), (16, 32, 64, 128, 256), 3
CHANNELS, SIDE, DIM = 2048, 14, 256  # ResNet-101's map at 448 px
MEMORY, SECONDS = 4e9, 6.0  # what one call may take; beyond it a size is left out
OURS, THEIRS = "present rows", "all pairs"
LOSS, STEP = "contrastive loss alone", "all after the backbone"
PLOT = Path(__file__).with_name("cost_curve.svg")
Row = dict[str, float]


def loss_alone(images: int, classes: int, formulation: str) -> Callable[[], object]:
    """Forward and backward of the contrastive loss, on embeddings (B, K, D)."""
    generator = torch.Generator().manual_seed(0)
    embeddings = torch.randn(images, classes, DIM, generator=generator, requires_grad=True)
    loss = LabelContrastiveLoss(temperature=0.2) if formulation == OURS else plain.all_pairs
    targets = labels(images, classes)
    return lambda: torch.autograd.grad(loss(embeddings, targets), embeddings)


def head_and_losses(images: int, classes: int, formulation: str) -> Callable[[], object]:
    """Forward and backward of all that follows the backbone, gradient of its map included; ours only."""
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(images, CHANNELS, SIDE, SIDE, generator=generator, requires_grad=True)
    head = SemanticAttention(DIM).build(CHANNELS, classes)
    classification, contrastive, targets = BinaryCrossEntropy(), LabelContrastiveLoss(), labels(images, classes)
    inputs = [features, *head.parameters()]

    def call() -> object:
        out = head(features)
        return torch.autograd.grad(classification(out.logits, targets) + contrastive(out.embeddings, targets), inputs)

    return call


def labels(images: int, classes: int) -> Tensor:
    """About three per image, whatever K is."""
    return torch.from_numpy(plain.coco_like(images, classes)).long()


MAKERS = {LOSS: loss_alone, STEP: head_and_losses}
PARTS = ((LOSS, OURS), (LOSS, THEIRS), (STEP, OURS))


def expected_bytes(part: str, formulation: str, images: int, classes: int) -> float:
    """A guess from above of what one call needs, inputs included; only to leave out what does not fit."""
    rows = images * classes
    pairs = 28.0 * rows**2 if formulation == THEIRS else 0.0  # seven float matrices
    maps = 4.0 * (3 * images * CHANNELS * SIDE**2 + 3 * rows * CHANNELS + 6 * rows * SIDE**2) if part == STEP else 0.0
    return pairs + maps + 16.0 * rows * DIM


def sweep(part: str, formulation: str, classes: Sequence[int], batches: Sequence[int], repeats: int) -> list[Row]:
    """Every size that fits, smaller ones first: once one is too long for its K, the larger ones are left out.

    A size that takes more than a second is timed once.
    """
    rows: list[Row] = []
    for count in classes:
        rate = 0.0  # seconds per image, as last measured
        for images in batches:
            grown = 2.0 if formulation == THEIRS else 1.0
            too_long = rate * images * grown > SECONDS
            if too_long or expected_bytes(part, formulation, images, count) > min(MEMORY, rounds.available_bytes() / 2):
                print(f"  {part}, {formulation}: K={count}, B={images} left out, too {'long' if too_long else 'large'}")
                break
            call = MAKERS[part](images, count, formulation)
            times = rounds.measure({"": call}, repeats if rate * images < 1 else 1)[""]
            low, middle, high = rounds.summary({"": times}, "")[""]["seconds_min_median_max"]
            rate = middle / images
            rows.append({"K": count, "B": images, "min": low, "median": middle, "max": high})
            rows[-1]["bytes"] = rounds.peak_bytes(call)
    return rows


def exponent(rows: Sequence[Row], what: str, along: str) -> float | None:
    """p of ``cost ~ B^p`` or ``K^p``: least squares in logarithms over the upper half of every line, one p for all."""
    other = "K" if along == "B" else "B"
    x, y = [], []
    for fixed in {row[other] for row in rows}:
        line = sorted((row[along], row[what]) for row in rows if row[other] == fixed)
        points = np.log(line[(len(line) - 1) // 2 :])
        x.extend(points[:, 0] - points[:, 0].mean())
        y.extend(points[:, 1] - points[:, 1].mean())
    return float(np.dot(x, y) / np.dot(x, x)) if np.any(x) else None


def show(part: str, formulation: str, rows: Sequence[Row]) -> dict[str, dict[str, float | None]]:
    """A grid of time and memory; returns the exponents."""
    print(f"\n{part}, {formulation}: ms / MB, medians")
    batches = sorted({int(row["B"]) for row in rows})
    print(f"{'K':>6}" + "".join(f"{f'B={images}':>19}" for images in batches))
    for classes in sorted({int(row["K"]) for row in rows}):
        line = [row for row in rows if row["K"] == classes]
        cells = {row["B"]: f"{1e3 * row['median']:.4g} / {row['bytes'] / 1e6:.4g}" for row in line}
        print(f"{classes:6d}" + "".join(f"{cells.get(images, ''):>19}" for images in batches))
    fitted = {
        name: {along: exponent(rows, key, along) for along in "BK"}
        for name, key in (("time", "median"), ("memory", "bytes"))
    }
    for name, powers in fitted.items():
        print(f"  {name} ~ " + " ".join(f"{along}^{power:.2f}" for along, power in powers.items() if power is not None))
    return fitted


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, fit, write runs/bench-curve.json and draw it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it works")
    parser.add_argument("--plot", action="store_true", help="draw runs/bench-curve.json again, measure nothing")
    options = parser.parse_args(argv)
    if not options.plot:
        classes, batches, repeats = ((3, 6), (2, 4), 1) if options.smoke else (CLASSES, BATCHES, REPEATS)
        print(f"forward + backward, fp32, D={DIM}, about 3 labels per image, {torch.get_num_threads()} thread(s)")
        report: dict[str, dict] = {}
        for part, formulation in PARTS:
            rows = sweep(part, formulation, classes, batches, repeats)
            fitted = show(part, formulation, rows)
            report.setdefault(part, {})[formulation] = {"rows": rows, "exponents": fitted}
        path = rounds.save("curve", report, options.smoke)
    else:
        path = Path("runs/bench-curve.json")
    import curve_plot  # with matplotlib, which measures nothing

    curve_plot.draw(json.loads(path.read_text())["report"], path.with_suffix(".svg") if options.smoke else PLOT)


if __name__ == "__main__":
    main()
