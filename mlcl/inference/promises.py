"""What ``mlcl calibrate`` promises for new images: whether the held-out ones bear it, the record, and the words."""

from typing import Any

from torch import Tensor

from mlcl.analysis import conformal
from mlcl.analysis.energy import joint_energy
from mlcl.errors import MlclError
from mlcl.system.console import say

_NAMED = 20  # classes in a line


def recall_entry(targets: Tensor, recall: float, kind: str) -> dict[str, Any]:
    """The record of a promise about missed labels, from held-out targets (N, K); MlclError if these are too few."""
    alpha, present = conformal.missed_share(recall), targets == 1
    labelled, least = int(present.any(1).sum()), conformal.fewest(alpha)
    if kind == "images" and labelled < least:
        raise MlclError(
            f"--guarantee with --target recall={recall:g} takes {least:,} held-out images with a label, here are "
            f"{labelled:,}; hold out more (--data.val_fraction, or a larger validation split), or lower the recall"
        )
    positives = present.sum(0).tolist()
    if kind == "classes" and max(positives) < least:  # kept by predicting every class, which no one needs
        raise MlclError(
            f"--guarantee classes with --target recall={recall:g} takes {least:,} held-out images of a class, the most "
            f"frequent here has {max(positives):,}; hold out more (--data.val_fraction, or a larger validation split), "
            "or lower the recall"
        )
    count = labelled if kind == "images" else positives
    return {"guarantee": kind, "alpha": float(alpha), "n": count}


def energy_entry(logits: Tensor, false_alarms: float) -> dict[str, Any]:
    """The record of a threshold on the energy, from held-out logits (N, K); MlclError if N is too small."""
    least = conformal.fewest(false_alarms)
    if len(logits) < least:
        raise MlclError(
            f"--false_alarms {false_alarms:g} takes {least:,} held-out images, here are {len(logits):,}; hold out more "
            "(--data.val_fraction, or a larger validation split), or allow more false alarms"
        )
    threshold = conformal.familiar_from(joint_energy(logits).numpy(), false_alarms)
    return {"threshold": threshold, "false_alarms": false_alarms, "images": len(logits)}


def say_recall(entry: dict[str, Any], classes: list[str], missed: float) -> None:
    """The promise in words, and the share missed of images that did not choose their thresholds."""
    share, kind = f"{100 * entry['alpha']:g} %", entry["guarantee"]
    if kind == "images":
        said = f"of an image's labels at most {share} are missed on average: holds for new images like these "
        say(f"{said}{entry['n']:,} with a label (conformal risk control)")
    else:
        said = f"each class is missed in at most {share} of its images, and so at most {share} of all labels together"
        say(f"{said}: holds for new images like these {entry['images']:,} (conformal risk control, class by class)")
        least = conformal.fewest(entry["alpha"])
        if few := [name for name, n in zip(classes, entry["n"], strict=True) if n < least]:
            more = f" and {len(few) - _NAMED:,} more" if len(few) > _NAMED else ""
            say(f"present in fewer than {least:,} of them, so always predicted: {', '.join(few[:_NAMED])}{more}")
    say(f"missed on images not fitted on (5-fold): {100 * missed:.1f} %")


def say_energy(entry: dict[str, Any]) -> None:
    """The promise in words."""
    share = f"{100 * entry['false_alarms']:g} %"
    say(
        f"unfamiliar is an energy below {entry['threshold']:.6g}: at most {share} of new images like these "
        f"{entry['images']:,} are called so (mlcl predict --energy)"
    )
