#!/usr/bin/env bash
# Finding: MAPIE's multi-label risk control with method="rcps" and its default bound (wsr) exceeds the wanted risk more often
# than its confidence level allows.
#
# Guess before: a bound from the literature (Waudby-Smith and Ramdas, as in arXiv 2101.02703) is conservative: of a hundred
# calibrations at confidence 0.9 fewer than ten end with a risk above the target.
# Seen (mapie 1.6.0): with 80 calibration images and a true risk that is known exactly, 12.7 % of 2,000 calibrations exceed
# a target of 0.1 (standard error 0.7); the same bound computed over all images at once: 4.5 %. The images are divided into
# two halves to save memory and the maxima of both halves are added, which is more than the maximum over all, so the bound
# is too low; of an odd number of images the middle one is in neither half.
# Way out: bound="hoeffding" or "bernstein", which are conservative, or method="crc", whose promise is about the mean.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet mapie==1.6.0 numpy scikit-learn
"$folder/venv/bin/python" - <<'PYTHON'
import warnings

import numpy as np
from mapie.risk_control.methods import find_best_predict_param, get_r_hat_plus

warnings.simplefilter("ignore")
TARGET, DELTA, IMAGES, REPEATS = 0.1, 0.1, 80, 2000
thresholds = np.arange(0, 1, 0.01)


def at_once(losses):
    """Upper bound of the mean of (n,) losses in [0, 1], on the same grid of risks, over all images at once."""
    n = len(losses)
    steps = np.arange(1, n + 1)
    mean = (0.5 + np.cumsum(losses)) / (steps + 1)
    variance = (0.25 + np.cumsum((losses - mean) ** 2)) / (steps + 1)
    bet = np.minimum(1, np.sqrt(2 * np.log(1 / DELTA) / (n * np.concatenate([[0.25], variance[:-1]]))))
    capital = np.cumsum(np.log(1 - bet[:, None] * (losses[:, None] - thresholds) + 1e-16), axis=0).max(0)
    refuted = np.flatnonzero(capital > -np.log(DELTA))
    return thresholds[refuted[0]] if len(refuted) else 1.0


random = np.random.default_rng(0)
exceeded = {"mapie": 0, "at once": 0}
for _ in range(REPEATS):
    # One label per image with a score uniform in [0, 1]: with the threshold t the risk, the share missed, is exactly t.
    losses = (random.random(IMAGES)[:, None] <= thresholds).astype(float)
    _, bound = get_r_hat_plus(losses, thresholds, "rcps", "wsr", DELTA, 0.25)
    exceeded["mapie"] += find_best_predict_param(thresholds, bound, np.array([TARGET]))[0] > TARGET + 1e-9
    # The risk grows with the threshold: the chosen one exceeds the target if the next one above it is accepted.
    exceeded["at once"] += at_once(losses[:, 11]) < TARGET
for name, count in exceeded.items():
    print(f"{name}: the risk exceeds {TARGET} in {100 * count / REPEATS:.1f} % of {REPEATS} calibrations")
assert exceeded["mapie"] / REPEATS > 0.115, "mapie keeps its confidence now"
assert exceeded["at once"] / REPEATS < 0.1, "the bound itself is not conservative"
PYTHON
