#!/usr/bin/env bash
# Finding: on a CPU, ONNX Runtime's Sigmoid returns exactly 0 for inputs from about -18 on, where float32 could still hold
# the probability, 1.5e-8, down to about -87.
#
# Guess before: it rounds as torch.sigmoid and numpy do, to within a few units in the last place.
# Seen (onnxruntime 1.32.0): Sigmoid(-10) is right, Sigmoid(-17) is 8.94e-08, twice the exact 4.14e-08, and Sigmoid(-18) and all
# below are 0.0, while 1 / (1 + exp(18)) in the same graph is 1.52e-08. With a calibrated threshold of a rare class, which may
# lie below 1e-8, an exported classifier decides otherwise than the trained one: no score reaches the threshold.
# Way out: export 1 / (1 + exp(-z)) instead of sigmoid(z), or the logits.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet onnxruntime==1.32.0 onnx==1.23.2 numpy==2.4.6
"$folder/venv/bin/python" - <<'PYTHON'
import numpy as np
import onnxruntime
from onnx import TensorProto, helper

nodes = [
    helper.make_node("Sigmoid", ["z"], ["sigmoid"]),
    helper.make_node("Neg", ["z"], ["minus"]),
    helper.make_node("Exp", ["minus"], ["exp"]),
    helper.make_node("Add", ["one", "exp"], ["sum"]),
    helper.make_node("Div", ["one", "sum"], ["written_out"]),
]
values = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n"]) for name in ("z", "sigmoid", "written_out")]
one = helper.make_tensor("one", TensorProto.FLOAT, [1], [1.0])
graph = helper.make_graph(nodes, "sigmoid", values[:1], values[1:], [one])
model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])

z = np.array([-10, -17, -18, -20, -60], dtype=np.float32)
sigmoid, written_out = session.run(None, {"z": z})
exact = 1 / (1 + np.exp(-z.astype(np.float64)))
for row in zip(z, exact, sigmoid, written_out):
    print("z %4g  exact %.3g  Sigmoid %.3g  1 / (1 + exp(-z)) %.3g" % row)
print("onnxruntime", onnxruntime.__version__)
assert sigmoid[2] == sigmoid[3] == sigmoid[4] == 0, "Sigmoid no longer ends at -18"
assert np.isclose(sigmoid[0], exact[0], rtol=0.01) and sigmoid[1] > 1.5 * exact[1], "Sigmoid above -18 has changed"
assert np.allclose(written_out, exact, rtol=1e-5), "the way out no longer works"
PYTHON
