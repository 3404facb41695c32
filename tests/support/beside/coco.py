"""pycocotools' COCOeval on image-level scores, as people use it: every label is a box around the whole image."""

import contextlib
import io
from typing import Any

import numpy as np
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

_BOX = {"bbox": [0, 0, 10, 10], "area": 100}


def coco_ap(scores: Any, targets: Any, first_id: int = 1, categories: bool = True) -> Any:
    """AP at an IoU of 0.5 of every class (K,), -1 without positives; an unknown label is a crowd, which is ignored."""
    images = [{"id": i, "width": 10, "height": 10} for i in range(len(scores))]
    labels = [(int(i), int(k), int(targets[i, k] < 0)) for i, k in np.argwhere(targets != 0)]
    boxes = [{"id": first_id + n, "image_id": i, "category_id": k, "iscrowd": crowd, **_BOX}
             for n, (i, k, crowd) in enumerate(labels)]  # fmt: skip
    found = [{"image_id": i, "category_id": k, "bbox": _BOX["bbox"], "score": float(score)}
             for (i, k), score in np.ndenumerate(scores)]  # fmt: skip
    with contextlib.redirect_stdout(io.StringIO()):
        truth = COCO()
        kinds = [{"id": k, "name": str(k)} for k in range(scores.shape[1])]
        truth.dataset = {"images": images, "annotations": boxes, "categories": kinds}
        truth.createIndex()
        evaluation = COCOeval(truth, truth.loadRes(found), "bbox")
        evaluation.params.useCats, evaluation.params.iouThrs = int(categories), np.array([0.5])
        evaluation.evaluate()
        evaluation.accumulate()
    return evaluation.eval["precision"][0, :, :, 0, -1].mean(0)


def coco_map(*arguments: Any, **settings: Any) -> float:
    """The mean over the classes with positives, as summarize() takes it."""
    ap = coco_ap(*arguments, **settings)
    return float(ap[ap > -1].mean())
