"""How familiar an image looks to a network: the joint energy over its labels (Wang et al., NeurIPS 2021)."""

import torch
from torch import Tensor


def joint_energy(logits: Tensor) -> Tensor:
    """Sum over the classes of log(1 + exp(logit)) (JointEnergy, arXiv 2109.14162): (..., K) to (...) float64.

    The logits are the network's own, not divided by a temperature. The higher, the more familiar; it is never below 0.
    """
    values = logits.double()
    return torch.logaddexp(values, torch.zeros_like(values)).sum(-1)
