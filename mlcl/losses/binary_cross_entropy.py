"""Binary cross-entropy, the plain baseline."""

from typing import Literal

import torch
from torch import Tensor

from mlcl.losses._timm import PerEntryLoss, Reduction


class BinaryCrossEntropy(PerEntryLoss):
    """Binary cross-entropy, -[w y log p + (1 - y) log(1 - p)], one decision per class.

    Args:
        smoothing: moves each target this share of the way towards 0.5.
        pos_weight: w, factor on the term of present labels: a number, K numbers, or ``auto``, which takes for each
            class the ratio of absent to present labels in the training split, without a limit.
        reduction: ``mean`` over known entries, or ``batchmean``: summed over classes, averaged over images.

    Raises:
        ValueError: for a weight that is not above 0. A call raises a TypeError if those of ``auto`` were not set.
    """

    def __init__(
        self,
        smoothing: float = 0.0,
        pos_weight: float | list[float] | Literal["auto"] | None = None,
        reduction: Reduction = "mean",
    ) -> None:
        numbers = pos_weight if isinstance(pos_weight, list) else [1.0 if pos_weight in (None, "auto") else pos_weight]
        if not all(isinstance(number, int | float) and 0 < number < float("inf") for number in numbers):
            raise ValueError(f"pos_weight must be a number above 0, one for each class, or auto, got {pos_weight!r}")
        given = None if pos_weight == "auto" else pos_weight
        super().__init__("BinaryCrossEntropy", reduction, smoothing=smoothing, pos_weight=given, smooth_dense=True)
        self.pos_weight = pos_weight
        if pos_weight == "auto":
            del self.entries.pos_weight  # no buffer: a moving average of the model is a copy from before set_weights
            vars(self.entries)["pos_weight"] = pos_weight  # an error in a call, until they are set

    def set_weights(self, present: Tensor, absent: Tensor) -> Tensor:
        """Set those of ``auto`` from numbers of labels (K,): absent / present, 1 where there is none of one kind."""
        weights = torch.where((present > 0) & (absent > 0), absent / present.clamp(min=1), 1.0).float()
        vars(self.entries)["pos_weight"] = weights
        return weights
