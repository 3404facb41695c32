"""Flipped labels among real ones: how many the list of label issues finds, beside cleanlab's filter on the same scores.

python tests/real/label_issues.py FILE.npz [--share 0.05] [--seeds 5]

FILE.npz is the scores.npz of mlcl test, or holds features (N, C) and targets (N, K); the scores are then those of heads
that are fitted to the flipped labels without the image in question. Needs cleanlab, which mlcl does not.
"""

import argparse
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from scipy.special import expit
from sklearn.metrics import average_precision_score

from mlcl.analysis import label_issues
from mlcl.analysis.probe import held_out_logits


def ours(logits: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """What the list names first, as it is written, then the rest by their doubt; (N, K)."""
    slope, shifts = label_issues.calibrate(logits, targets)
    scores = label_issues.doubt(expit(slope * logits + shifts), targets)
    listed = label_issues.find(logits, targets, targets.size)
    scores[listed.rows, listed.classes] += 10
    return scores


def theirs(logits: np.ndarray, targets: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Of each of cleanlab's filters: what it finds first, each part by self-confidence; (N, K)."""
    from cleanlab.multilabel_classification.filter import find_multilabel_issues_per_class

    probabilities = expit(logits).clip(1e-6, 1 - 1e-6)
    confidence = np.where(targets == 1, probabilities, 1 - probabilities)
    labels = [list(np.flatnonzero(row == 1)) for row in targets]
    for name in ("prune_by_noise_rate", "prune_by_class", "both", "confident_learning", "low_self_confidence"):
        found = find_multilabel_issues_per_class(labels, probabilities, filter_by=name)
        yield f"cleanlab, {name}", np.asarray(found) * 10.0 + 1 - confidence


def main() -> None:
    """Print the precision among the first 100 and the average precision, mean and standard deviation."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--share", type=float, default=0.05)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    stored = np.load(options.file)
    targets = stored["targets"]
    if (targets < 0).any():
        parser.error("cleanlab knows no unknown labels; give a file without")
    results: dict[str, list[tuple[float, float]]] = {}
    for seed in range(options.seeds):
        flipped = np.random.default_rng(seed).random(targets.shape) < options.share
        given = np.where(flipped, 1 - targets, targets).astype(np.int8)
        if "logits" in stored:
            logits = stored["logits"].astype(np.float64)
        else:
            features = torch.from_numpy(stored["features"])
            found = held_out_logits(features, torch.from_numpy(given), torch.arange(len(features)))
            assert found is not None
            logits = found.numpy()
        for name, scores in [("mlcl", ours(logits, given)), *theirs(logits, given)]:
            first = np.argsort(-scores, axis=None, kind="stable")[:100]
            value = average_precision_score(flipped.ravel(), scores.ravel())
            results.setdefault(name, []).append((flipped.ravel()[first].mean(), value))
    print(f"{targets.shape[0]} images, {targets.shape[1]} classes, {options.share:.0%} flipped, {options.seeds} seeds")
    for name, values in results.items():
        (first, ap), (spread, ap_spread) = np.mean(values, 0), np.std(values, 0, ddof=1)
        print(f"{name:32} first 100 {first:.3f} ± {spread:.3f}   AP {ap:.3f} ± {ap_spread:.3f}")


if __name__ == "__main__":
    main()
