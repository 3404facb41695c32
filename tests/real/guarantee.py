"""Does the promise of ``mlcl calibrate --guarantee`` hold? A thousand random halves of a tested split.

    python tests/real/guarantee.py SCORES.npz [--recall 0.9] [--splits 1000]
    python tests/real/guarantee.py generated

SCORES.npz is the file of ``mlcl test``, with metrics.json beside it. Thresholds are chosen on one half and used on the
other. Printed are, over the splits, the mean and the standard deviation of the share missed: of an image's labels, mean
over images with a label ("images"); of the images of a class, mean over classes ("classes"); and of all labels. Beside
our thresholds stand those of the plain recall target, and those of MAPIE (pip install mapie) where it is installed.
"""

import argparse
import math
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from mlcl.analysis import conformal, thresholds
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs import results
from mlcl.runs.result_files import write_scores

Decide = Callable[[NDArray[Any], NDArray[Any]], NDArray[np.bool_]]  # rows to fit, rows to decide: (N, K) decisions


def ours(logits: torch.Tensor, targets: torch.Tensor, recall: float) -> Iterator[tuple[str, Decide]]:
    """The promises and the plain target, as ``mlcl calibrate`` fits them."""

    def using(fit: Callable[..., thresholds.Calibration], *how: Any) -> Decide:
        return lambda fitted, held: fit(logits[fitted], targets[fitted], *how).predicted(logits[held]).numpy()

    yield "--guarantee images", using(conformal.fit, recall, "images")
    yield "--guarantee classes", using(conformal.fit, recall, "classes")
    yield "plain, --shrink 10", using(thresholds.fit, "recall", recall)
    yield "plain, --shrink 0", using(thresholds.fit, "recall", recall, 0.0)


def mapie(logits: torch.Tensor, targets: torch.Tensor, recall: float) -> Iterator[tuple[str, Decide]]:
    """MAPIE's thresholds from the images with a label: it refuses others.

    It decides by score > threshold, with thresholds on a grid, and knows no unknown labels; for the recall of the
    present ones they may count as absent. Its losses of all images are computed once: a loop in Python takes minutes.
    """
    from mapie.risk_control import MultiLabelClassificationController

    scores, present = logits.double().sigmoid().numpy(), (targets == 1).long().numpy()
    labelled, grid = present.any(1), {"0.01": np.arange(0, 1, 0.01), "0.001": np.arange(0, 1, 0.001)}
    kinds: dict[str, dict[str, Any]] = {
        "MAPIE crc": {"method": "crc", "predict_params": grid["0.01"]},
        "MAPIE crc, grid of 0.001": {"method": "crc", "predict_params": grid["0.001"]},
        "MAPIE rcps, 90 %": {"method": "rcps", "confidence_level": 0.9, "predict_params": grid["0.01"]},
    }
    losses: dict[int, NDArray[np.float64]] = {}
    for name, how in kinds.items():
        controller = MultiLabelClassificationController(
            lambda rows: scores[np.asarray(rows)], risk="recall", target_level=recall, **how
        )
        size = len(how["predict_params"])
        if size not in losses:
            controller.compute_risks(np.flatnonzero(labelled), present[labelled])
            losses[size] = np.ones((len(scores), size))
            losses[size][labelled] = controller._risks

        def decide(fitted: NDArray[Any], held: NDArray[Any], controller=controller, risks=losses[size]) -> Any:
            controller._risks = risks[fitted[labelled[fitted]]]
            controller.compute_best_predict_param()
            return controller.predict(held)[:, :, 0]

        yield name, decide


def missed(predicted: NDArray[np.bool_], targets: NDArray[Any]) -> tuple[float, float, float]:
    """The share missed: over images, over classes, of all labels."""
    present, lost = targets == 1, (targets == 1) & ~predicted
    images, classes = ((lost.sum(axis), present.sum(axis)) for axis in (1, 0))
    means = [float((part[whole > 0] / whole[whole > 0]).mean()) for part, whole in (images, classes)]
    return means[0], means[1], float(lost.sum() / present.sum())


def generated(folder: Path, images: int = 600, classes: int = 12) -> Path:
    """Scores of images with 0 to 8 labels: in crowded ones labels are harder to see, so that the shares differ."""
    generator = torch.Generator().manual_seed(0)
    crowd = torch.randn(images, 1, generator=generator)
    rate = (crowd - torch.linspace(0.5, 2.5, classes)).sigmoid()
    targets = (torch.rand(images, classes, generator=generator) < rate).to(torch.int8)
    logits = 2.5 * targets - 2.5 - 0.5 * crowd * targets + torch.randn(images, classes, generator=generator)
    targets[torch.rand(images, classes, generator=generator) < 0.05] = -1
    metrics = MultiLabelMetrics(classes)
    metrics.update(logits, targets, torch.arange(images))
    metrics.compute()
    assert metrics.evaluation is not None
    write_scores(folder / "scores.npz", metrics.evaluation, [f"c{k}" for k in range(classes)], [])
    return folder / "scores.npz"


def read(path: Path) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits and targets of a file of ``mlcl test``, or of one without metrics.json beside it."""
    if (path.parent / "metrics.json").is_file():
        stored = results.read(path.parent)
        return torch.from_numpy(stored.logits), torch.from_numpy(stored.targets).long()
    with np.load(path, allow_pickle=False) as arrays:
        return torch.from_numpy(arrays["logits"]), torch.from_numpy(arrays["targets"]).long()


def main() -> None:
    """Print a line per method."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("scores", help="scores.npz, or the word generated")
    parser.add_argument("--recall", type=float, default=0.9)
    parser.add_argument("--splits", type=int, default=1000)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        given = generated(Path(folder)) if options.scores == "generated" else Path(options.scores)
        logits, targets = read(given)
    methods = dict(ours(logits, targets, options.recall))
    try:
        methods |= dict(mapie(logits, targets, options.recall))
    except ImportError as error:
        print(f"without MAPIE: {error}")
    labelled, random = (targets == 1).any(1), np.random.default_rng(0)
    orders = [random.permutation(len(logits)) for _ in range(options.splits)]
    print(
        f"{len(logits)} images, {int(labelled.sum())} with a label, {logits.shape[1]} classes, "
        f"{float((targets == 1).sum(1)[labelled].float().mean()):.1f} labels per such image; "
        f"{options.splits} random halves, recall {options.recall:g}: missed in percent, mean (sd), and labels predicted"
    )
    print(f"{'':26} {'images':>14} {'classes':>14} {'all labels':>14} {'predicted':>10}")
    for name, decide in methods.items():
        rows = []
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # MAPIE's, of grids
            for order in orders:
                fitted, held = np.array_split(order, 2)
                predicted = decide(fitted, held)
                rows.append((*missed(predicted, targets[held].numpy()), predicted.sum(1).mean()))
        table = np.array(rows)
        shares = zip(100 * table[:, :3].mean(0), 100 * table[:, :3].std(0), strict=True)
        cells = " ".join(f"{mean:7.2f} ({spread:4.2f})" for mean, spread in shares)
        error = 100 * table[:, 0].std() / math.sqrt(len(table))
        print(f"{name:26} {cells} {table[:, 3].mean():10.2f}   standard error of the first {error:.3f}", flush=True)


if __name__ == "__main__":
    main()
