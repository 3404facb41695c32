#!/usr/bin/env bash
# Finding: torchmetrics' RetrievalMAP and RetrievalMRR count a relevant entry whose score is 0 or less as irrelevant, without a
# word, so that logits and cosine similarities give another number than the same ranking as probabilities.
#
# Guess before: a metric of rankings looks at the order of the scores alone; the average precision of the labels of an image
# is the same for logits and for their sigmoid, as scikit-learn's average_precision_score(average="samples") has it.
# Seen (torchmetrics 1.9.0): a picture whose only label has the highest score has the average precision 1 if that is 0.1,
# and 0 if it is -0.1. For 500 pictures and ten labels RetrievalMAP is 0.78 of probabilities, as scikit-learn's, and 0.71 of
# the same logits; RetrievalMRR is 0.86 and 0.72. RetrievalNormalizedDCG is 0.86 of both.
# Way out: any increasing function with values above 0, such as the sigmoid, before the update; or scikit-learn.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torchmetrics==1.9.0 torch==2.14.1 scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import torch
import torchmetrics
from sklearn.metrics import average_precision_score
from torchmetrics.retrieval import RetrievalMAP, RetrievalMRR, RetrievalNormalizedDCG

one = [RetrievalMAP()(torch.tensor([top, -3.0, -4.0]), torch.tensor([1, 0, 0]), torch.tensor([0, 0, 0])).item()
       for top in (0.1, -0.1)]

random = torch.Generator().manual_seed(0)
logits = torch.randn(500, 10, generator=random) * 2 - 2
labels = torch.rand(500, 10, generator=random) < logits.sigmoid()
logits, labels = logits[labels.any(1)], labels[labels.any(1)].long()
pictures = torch.arange(len(logits))[:, None].expand_as(logits)


def score(kind, values):
    return kind()(values.flatten(), labels.flatten(), pictures.flatten()).item()


print("torchmetrics", torchmetrics.__version__, "the only label first, with a score of 0.1:", one[0], "of -0.1:", one[1])
found = {}
for kind in (RetrievalMAP, RetrievalMRR, RetrievalNormalizedDCG):
    found[kind] = score(kind, logits), score(kind, logits.sigmoid())
    print(f"{kind.__name__}: logits {found[kind][0]:.3f}, probabilities {found[kind][1]:.3f}")
expected = [average_precision_score(labels.numpy(), values.numpy(), average="samples")
            for values in (logits, logits.sigmoid())]
print(f"scikit-learn: logits {expected[0]:.3f}, probabilities {expected[1]:.3f}")
assert one == [1.0, 0.0], "a score below 0 is a score now"
for kind in (RetrievalMAP, RetrievalMRR):
    assert found[kind][0] < found[kind][1] - 0.05, f"logits give the same {kind.__name__} now"
assert abs(found[RetrievalNormalizedDCG][0] - found[RetrievalNormalizedDCG][1]) < 1e-5
assert abs(found[RetrievalMAP][1] - expected[0]) < 1e-5 and abs(expected[0] - expected[1]) < 1e-9
PYTHON
