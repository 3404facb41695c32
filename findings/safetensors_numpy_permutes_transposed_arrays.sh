#!/usr/bin/env bash
# Finding: safetensors.numpy.save_file writes a transposed array with its numbers in another order, and says nothing.
#
# Guess before: it makes the array contiguous, or refuses it as safetensors.torch does ("you are trying to save a non
# contiguous tensor"); a kernel of Keras (h, w, in, out), transposed to torch's (out, in, h, w), is then read as it was.
# Seen (safetensors 0.8.0, numpy 2.4.6): the shape is that of the transposed array, the numbers are in the order of the memory
# before it: nearly all are at the wrong place. A slice with a step ([::2]) reads back as the first half of the whole. A network
# with such weights loads without an error and predicts nonsense. safetensors.torch refuses the same.
# Way out: numpy.ascontiguousarray around every array; or convert to torch and save there.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet safetensors==0.8.0 numpy==2.4.6
cd "$folder"
venv/bin/python - <<'PYTHON'
import numpy as np
import safetensors
from safetensors.numpy import load_file, save_file

keras = np.random.default_rng(0).normal(size=(3, 3, 16, 32)).astype(np.float32)
kernel = keras.transpose(3, 2, 0, 1)
every_second = np.arange(6.0)[::2]
save_file({"plain": kernel, "mended": np.ascontiguousarray(kernel), "step": every_second}, "w.safetensors")
read = load_file("w.safetensors")
wrong = float((read["plain"] != kernel).mean())
print(f"safetensors {safetensors.__version__}, numpy {np.__version__}: shape {read['plain'].shape}, {wrong:.1%} of the numbers wrong;"
      f" {every_second} is read as {read['step']}")
assert read["plain"].shape == kernel.shape and np.array_equal(read["plain"].ravel(), keras.ravel()), "stored otherwise now"
assert wrong > 0.9 and read["step"].tolist() == [0, 1, 2], "no longer wrong"
assert np.array_equal(read["mended"], kernel), "the way out no longer works"
PYTHON
