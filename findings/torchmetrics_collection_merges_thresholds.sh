#!/usr/bin/env bash
# Finding: torchmetrics' MetricCollection gives metrics with different thresholds one common state, for good, if their counts
# happen to be equal after the first batch; from then on all of them report the number of the first one.
#
# Guess before: its compute groups join metrics that count the same (precision, recall and F1 at one threshold), which depends
# on their kind and arguments, not on the data.
# Seen (torchmetrics 1.9.0): F1 at 0.3, 0.5 and 0.7, and an untrained network whose first batch has probabilities below 0.3:
# nothing is predicted at any threshold, the counts are equal, and the three are 0.79 each at the end, where they are 0.79,
# 0.80 and 0.46 by themselves. A reset keeps the groups, so Lightning's sanity check before the training decides for all epochs.
# Way out: MetricCollection(..., compute_groups=False).
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from torchmetrics import MetricCollection
from torchmetrics.classification import MultilabelF1Score

random = torch.Generator().manual_seed(0)
labels = (torch.rand(200, 4, generator=random) < 0.3).long()
untrained = 0.02 + 0.2 * torch.rand(200, 4, generator=random)
trained = (labels * 1.9 - 1.4 + 0.8 * torch.randn(200, 4, generator=random)).sigmoid()


def three():
    return {f"f1_{percent}": MultilabelF1Score(4, threshold=percent / 100) for percent in (30, 50, 70)}


def numbers(collection):
    return {name: round(value.item(), 3) for name, value in collection.compute().items()}


alone = {name: round(metric(trained, labels).item(), 3) for name, metric in three().items()}
results = {}
for name, settings in (("together", {}), ("compute_groups=False", {"compute_groups": False})):
    collection = MetricCollection(three(), **settings)
    collection.update(untrained[:32], labels[:32])  # as in a sanity check
    collection.reset()
    collection.update(trained, labels)
    results[name] = numbers(collection)
print("torchmetrics", torchmetrics.__version__, "each by itself:", alone)
print(results)
assert len(set(alone.values())) == 3
assert set(results["together"].values()) == {alone["f1_30"]}, "the thresholds are kept apart now"
assert results["compute_groups=False"] == alone, "the way out no longer works"
PYTHON
