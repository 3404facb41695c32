#!/usr/bin/env bash
# Finding: what torch.serialization.get_unsafe_globals_in_checkpoint lists is not all that torch.load(weights_only=True) asks for:
# a checkpoint with a NumPy number is refused after every listed name was allowed; and the allowed function does not serve a file
# that was written with the other major version of NumPy.
#
# Guess before: "best_mAP": np.mean(...) in a checkpoint is a plain number; or else the list names what to pass to safe_globals.
# Seen (torch 2.14.1, numpy 2.4.6): the list is numpy.dtype and numpy._core.multiarray.scalar. With both allowed, the file is refused
# for numpy.dtypes.Float64DType, which no list shows. Files of NumPy 1, such as the published ones of most papers, say
# numpy.core.multiarray.scalar, and are refused with the very same function allowed.
# Way out: save float(x). To read a file: safe_globals([scalar, (scalar, "numpy.core.multiarray.scalar"), numpy.dtype,
# numpy.dtypes.Float64DType]); the pair names the function as the file does.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet torch==2.14.1 numpy==2.4.6
python3 -m venv "$folder/old"
"$folder/old/bin/pip" install --quiet numpy==1.26.4
cd "$folder"
# The bytes that NumPy 1 makes of a number, for the pickle of protocol 2 that torch.save writes.
old/bin/python -c "import numpy, pickle; print(pickle.dumps(numpy.float64(0.5), protocol=2).split(b'\n')[0])" > name.txt
venv/bin/python - <<'PYTHON'
import pickle
import zipfile
from importlib import import_module

import numpy as np
import torch
from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

torch.save({"state_dict": {"w": torch.ones(2)}, "best_mAP": np.float64(0.5)}, "new.pth")
with zipfile.ZipFile("new.pth") as new, zipfile.ZipFile("old.pth", "w") as old:  # as NumPy 1 names it
    for name in new.namelist():
        content = new.read(name)
        old.writestr(name, content.replace(b"numpy._core.multiarray", b"numpy.core.multiarray"))
assert "numpy.core.multiarray" in open("name.txt").read(), "NumPy 1 names it otherwise"


def allowed(name):
    module, _, attribute = name.rpartition(".")
    return getattr(import_module(module), attribute)


def reads(file, globals_):
    try:
        with safe_globals(globals_):
            return float(torch.load(file, weights_only=True)["best_mAP"])
    except pickle.UnpicklingError as error:
        return next((part for part in ("Float64DType", "numpy.core.multiarray.scalar") if part in str(error)), "refused")


listed = get_unsafe_globals_in_checkpoint("new.pth")
every = [allowed(name) for name in listed]
scalar = np.float64(0).__reduce__()[0]
more = [scalar, np.dtype, np.dtypes.Float64DType]
pair = [*more, (scalar, "numpy.core.multiarray.scalar")]
print(f"torch {torch.__version__}, numpy {np.__version__}: listed {listed}; all of them allowed: {reads('new.pth', every)};"
      f" and the dtype: {reads('new.pth', more)}; a file of NumPy 1: {reads('old.pth', more)}, with the pair: {reads('old.pth', pair)}")
assert sorted(listed) == ["numpy._core.multiarray.scalar", "numpy.dtype"], "another list"
assert reads("new.pth", every) == "Float64DType", "the list is enough now"
assert reads("new.pth", more) == 0.5 and reads("old.pth", pair) == 0.5, "the way out no longer works"
assert reads("old.pth", more) == "numpy.core.multiarray.scalar", "the name in the file no longer matters"
PYTHON
