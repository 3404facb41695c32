#!/usr/bin/env bash
# Finding: scikit-learn's log_loss takes a multi-hot matrix of labels and leaves out all absent ones: who predicts 1 for every
# class of every image has a perfect loss of 0.
#
# Guess before: multi-hot targets are refused, as by confusion_matrix and most others that know one label per row; or the loss
# is the binary cross-entropy, as average_precision_score and roc_auc_score treat such a matrix class by class.
# Seen (scikit-learn 1.9.1): the sum over the present labels of -log p, a mean over images, with one warning, that the
# probabilities of a row do not sum to one. Predicting what is right has a loss of 0.88, predicting 1 for everything has 0.
# brier_score_loss takes the same matrix and sums over classes: K times the mean squared error, without leaving any out.
# Way out: log_loss and brier_score_loss of labels.ravel() and probabilities.ravel().
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet scikit-learn==1.9.1 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
import sklearn
from sklearn.metrics import brier_score_loss, log_loss

random = np.random.default_rng(0)
p = random.beta(0.5, 1.5, (2000, 4)).clip(0.001, 0.999)
labels = (random.random(p.shape) < p).astype(int)  # p is exactly right
cross_entropy = -(labels * np.log(p) + (1 - labels) * np.log(1 - p)).mean()
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    right, everything = log_loss(labels, p), log_loss(labels, np.ones(p.shape))
    squared = brier_score_loss(labels, p)
print(f"scikit-learn {sklearn.__version__}: log loss {right:.3f} of the right probabilities, {everything:.3f} of 1 for all")
print(f"binary cross-entropy {cross_entropy:.3f}, of the flattened matrix {log_loss(labels.ravel(), p.ravel()):.3f}")
print(f"Brier {squared:.3f}, mean squared error {((labels - p) ** 2).mean():.3f}; {({str(w.message) for w in caught})}")
assert np.isclose(right, -(labels * np.log(p)).sum(1).mean()), "absent labels enter the loss now"
assert abs(everything) < 1e-9 < right and not np.isclose(right, cross_entropy, rtol=0.05)
assert np.isclose(squared, 4 * ((labels - p) ** 2).mean()), "the Brier score has changed"
assert np.isclose(log_loss(labels.ravel(), p.ravel()), cross_entropy), "the way out no longer works"
PYTHON
