#!/usr/bin/env bash
# Finding: torchmetrics' MultilabelCoverageError with ignore_index gives every image that has an ignored label the worst value,
# the number of all labels, whatever its scores.
#
# Guess before: ignored labels leave their image as if its label set were smaller, as MultilabelAveragePrecision and the F1
# scores do it ("does not contribute to the metric calculation").
# Seen (torchmetrics 1.9.0): the present label first, two absent ones behind it and one ignored: 4, where scikit-learn has 1
# for the three known labels. With a tenth of ten labels ignored at random in 1,000 images that are ranked without an error,
# the error is 7.45 instead of 2.71. MultilabelRankingLoss takes ignored labels for absent ones with the lowest score: a third
# instead of a half of the pairs is wrong where one of three is.
# Way out: scikit-learn's coverage_error and label_ranking_loss for each image, with its known labels.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import torch
import torchmetrics
from sklearn.metrics import coverage_error, label_ranking_loss
from torchmetrics.classification import MultilabelCoverageError, MultilabelRankingLoss

labels = torch.tensor([[1, 0, 0, -1]])
first = MultilabelCoverageError(4, ignore_index=-1)(torch.tensor([[0.9, 0.5, 0.2, 0.1]]), labels).item()
known = coverage_error([[1, 0, 0]], [[0.9, 0.5, 0.2]])
between = MultilabelRankingLoss(4, ignore_index=-1)(torch.tensor([[0.5, 0.9, 0.2, 0.1]]), labels).item()
known_loss = label_ranking_loss([[1, 0, 0]], [[0.5, 0.9, 0.2]])
print("torchmetrics", torchmetrics.__version__)
print(f"coverage error {first} with an ignored label, {known} of the known ones; ranking loss {between:.3f}, {known_loss}")

random = np.random.default_rng(0)
truth = (random.random((1000, 10)) < 0.3).astype(int)
scores = (0.5 * truth + 0.5 * random.random((1000, 10))).astype(np.float32)  # every present label before every absent one
given = np.where(random.random((1000, 10)) < 0.1, -1, truth)
many = MultilabelCoverageError(10, ignore_index=-1)(torch.tensor(scores), torch.tensor(given)).item()
rows = [coverage_error(t[None, t >= 0], s[None, t >= 0]) for s, t in zip(scores, given)]
print(f"of 1,000 images: {many:.2f}, of the known labels {np.mean(rows):.2f}")
assert first == 4 and known == 1, "ignored labels leave the coverage error now"
assert abs(between - 1 / 3) < 1e-6 and known_loss == 0.5, "ignored labels leave the ranking loss now"
assert many > 2 * np.mean(rows)
PYTHON
