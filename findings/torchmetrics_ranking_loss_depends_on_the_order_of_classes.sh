#!/usr/bin/env bash
# Finding: torchmetrics' MultilabelRankingLoss breaks ties by the number of the class: of equal scores, the loss is 0 if the
# present labels are the last classes and 1 if they are the first; and it depends on how images are divided into batches.
#
# Guess before: a tie is an error, as in scikit-learn's label_ranking_loss, whose definition the documentation repeats, or half
# a one; and a batch of images without labels adds zeros.
# Seen (torchmetrics 1.9.0, scikit-learn 1.9.1): a network that says 0.5 to everything has a perfect loss where classes are
# sorted from rare to frequent, and the worst where they are sorted the other way; scikit-learn has 1 both times. Logits
# above 17 are equal as float32 probabilities, too. A batch in which no image has a label counts as one image, so that
# 0.125 becomes 0.25 if four images come as one and three.
# Way out: scikit-learn's label_ranking_loss, of all images at once.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from sklearn.metrics import label_ranking_loss
from torchmetrics.classification import MultilabelRankingLoss

equal, found = torch.full((1, 4), 0.5), {}
for labels in ([0, 0, 1, 1], [1, 1, 0, 0]):
    found[tuple(labels)] = MultilabelRankingLoss(4)(equal, torch.tensor([labels])).item(), label_ranking_loss([labels], equal)
sure = MultilabelRankingLoss(2)(torch.tensor([[18.0, 40.0]]), torch.tensor([[1, 0]])).item()
other = MultilabelRankingLoss(2)(torch.tensor([[40.0, 18.0]]), torch.tensor([[0, 1]])).item()

scores = torch.tensor([[0.5, 0.8, 0.2]] * 4)
labels = torch.tensor([[1, 0, 0], [0, 0, 0], [0, 0, 0], [0, 0, 0]])
whole = MultilabelRankingLoss(3)(scores, labels).item()
parts = MultilabelRankingLoss(3)
for chosen in (slice(0, 1), slice(1, 4)):
    parts.update(scores[chosen], labels[chosen])
parts = parts.compute().item()
print("torchmetrics", torchmetrics.__version__, "equal scores (torchmetrics, scikit-learn):", found)
print("the wrong one of two logits, 18 and 40, is higher:", sure, "or, as the second class,", other)
print("four images at once", whole, "one and three", parts, "scikit-learn", label_ranking_loss(labels, scores))
assert found == {(0, 0, 1, 1): (0.0, 1.0), (1, 1, 0, 0): (1.0, 1.0)}, "a tie is something else now"
assert (sure, other) == (1.0, 0.0), "logits are ranked as they are now"
assert (whole, parts) == (0.125, 0.25), "batches no longer matter"
PYTHON
