"""Numbers of netcal, MAPIE and cleanlab, where these are: ``python elsewhere_numbers.py PARTS.npz OUT.json``."""

import json
import sys
import warnings
from importlib.metadata import version

import numpy as np
from cleanlab.multilabel_classification.filter import find_label_issues
from mapie.risk_control import MultiLabelClassificationController
from netcal.metrics import ECE
from netcal.scaling import TemperatureScaling

warnings.simplefilter("ignore")
parts = np.load(sys.argv[1])
p, y = parts["plain p"], parts["plain y"]
found = {"versions": [version(name) for name in ("netcal", "MAPIE", "cleanlab")]}


def pooled(name):
    return parts[f"{name} p"].ravel(), parts[f"{name} y"].ravel()


def temperature(name):
    scaling = TemperatureScaling()
    scaling.fit(*pooled(name))
    return float(scaling.temperature[0])


def threshold(rows):
    control = MultiLabelClassificationController(
        lambda chosen: p[rows][chosen], risk="recall", target_level=0.8, method="crc"
    )
    try:
        return float(control.calibrate(np.arange(len(p[rows])), y[rows]).best_predict_param[0])
    except ValueError:
        return "refused"


def issues(labels):
    return int(find_label_issues(labels, p, filter_by="confident_learning").sum())


for name in ("plain", "ties", "saturated", "everywhere"):
    found[f"ece {name}"] = float(ECE(15).measure(*pooled(name)))
found["hot ece plain"] = float(ECE(15).measure(p, y))
found |= {f"temperature {name}": temperature(name) for name in ("plain", "saturated")}
found |= {"crc": threshold(y.any(1)), "crc of all": threshold(np.full(len(y), True))}
found |= {"issues": issues([np.flatnonzero(row).tolist() for row in y]), "hot issues": issues(y.tolist())}
with open(sys.argv[2], "w") as file:
    json.dump(found, file)
