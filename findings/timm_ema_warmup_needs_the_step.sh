#!/usr/bin/env bash
# Finding: timm's ModelEmaV3(model, use_warmup=True) does not warm up unless every update is given the step; and given it, the
# first two updates copy the model, with or without a warm-up.
#
# Guess before: use_warmup=True is enough, as in other averages, which count their own updates; the first update copies, or
# keeps the usual share.
# Seen (timm 1.0.31, torch 2.14.1): after 100 calls of update(model), decay 0.9999, the average still is 99 % the random weights
# that the model had when the average was made, exactly as without use_warmup; with update(model, step=i) nothing of them is left. Without
# use_warmup, passing the step changes the average, too: updates 0 and 1 then copy, while without it none does.
# Way out: update(model, step=i) with i counted from 0; torch's AveragedModel counts itself, and its first update copies.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 torchvision==0.29.1 timm==1.0.31
"$folder/venv/bin/python" - <<'PYTHON'
import timm
import torch
from timm.utils import ModelEmaV3


def of_the_start(steps, with_step, **settings):
    """The share of the first weight, 1, in the average after steps with the weight 0."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.ones_(model.weight)
    average = ModelEmaV3(model, **settings)
    torch.nn.init.zeros_(model.weight)
    for step in range(steps):
        average.update(model, step=step) if with_step else average.update(model)
    return average.module.weight.item()


asked = {with_step: of_the_start(100, with_step, decay=0.9999, use_warmup=True) for with_step in (False, True)}
plain = of_the_start(100, False, decay=0.9999)


def first_updates(with_step):
    """Which of four updates to a new weight are copies."""
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(model.weight)
    average, copies = ModelEmaV3(model, decay=0.9), []
    for step in range(4):
        torch.nn.init.constant_(model.weight, 2.0 ** (step + 1))
        average.update(model, step=step) if with_step else average.update(model)
        copies.append(bool(average.module.weight == model.weight))
    return copies


print(f"timm {timm.__version__}: of the start after 100 updates: use_warmup {asked[False]:.3f}, with the step {asked[True]:.3f},"
      f" neither {plain:.3f}; copies without and with the step: {first_updates(False)}, {first_updates(True)}")
assert asked[False] == plain > 0.98, "use_warmup alone warms up now"
assert asked[True] == 0, "the way out no longer works"
assert first_updates(False) == [False] * 4 and first_updates(True) == [True, True, False, False], "other copies"
PYTHON
