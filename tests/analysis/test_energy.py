"""The joint energy against a loop."""

import math

import pytest
import torch

from mlcl.analysis.energy import joint_energy


def test_against_a_loop():
    """Also where exp overflows, and where log(1 + exp) is 1e-18."""
    logits = torch.tensor([[0.5, -2.0, 3.0], [800.0, -800.0, 0.0], [-40.0, -41.0, -42.0]])
    expected = [sum(max(x, 0.0) + math.log1p(math.exp(-abs(x))) for x in row) for row in logits.tolist()]
    energy = joint_energy(logits)
    assert energy.dtype == torch.float64 and energy.tolist() == pytest.approx(expected, rel=1e-12)
    assert 0 < energy[2] < 1e-17 and joint_energy(logits[0]) == energy[0]
    assert joint_energy(logits.bfloat16()[:1])[0] == pytest.approx(expected[0], rel=1e-12)  # these fit bfloat16
