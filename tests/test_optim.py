"""Parameter groups, and the shape of every schedule."""

import itertools

import pytest
import torch
from torch import nn

from mlcl.errors import MlclError
from mlcl.optim import Constant, OneCycle, StepDecay, WarmupCosine, make_optimizer


class Parts(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.network = nn.ModuleDict(
            {"backbone": nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)), "head": nn.Linear(2, 1)}
        )
        self.loss = nn.Linear(3, 3)
        self.loss.bias.requires_grad_(False)


def sgd(groups):
    return torch.optim.SGD(groups, lr=1.0, weight_decay=0.5)


def test_groups_by_part_and_by_decay():
    module = Parts()
    optimizer = make_optimizer(module, sgd, {"backbone": 0.1, "backbone.1": 0.01, "loss": 2.0})
    found = {
        name: (group["lr"], group["weight_decay"])
        for group in optimizer.param_groups
        for name, parameter in module.named_parameters()
        if any(parameter is member for member in group["params"])
    }
    assert found == {
        "network.backbone.0.weight": (0.1, 0.5),
        "network.backbone.0.bias": (0.1, 0.0),
        "network.backbone.1.weight": (0.01, 0.0),
        "network.backbone.1.bias": (0.01, 0.0),
        "network.head.weight": (1.0, 0.5),
        "network.head.bias": (1.0, 0.0),
        "loss.weight": (2.0, 0.5),  # its bias is frozen
    }


def test_a_part_that_does_not_exist_is_named():
    with pytest.raises(MlclError, match="names 'back', which is no part"):
        make_optimizer(Parts(), sgd, {"back": 0.1})


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW])
def test_the_optimizer_is_fused_unless_the_user_says_how(kind):
    """The same update; and a resumed one goes on bit for bit."""
    made, states = {}, {}
    for said in ({}, {"fused": False}, {"foreach": True}):
        torch.manual_seed(0)
        module = Parts()
        optimizer = make_optimizer(module, lambda groups, said=said: kind(groups, lr=0.1, **said), {"backbone": 0.1})
        for step in range(3):
            for parameter in module.parameters():
                parameter.grad = torch.full_like(parameter, 0.5 + step)
            optimizer.step()
        made[str(said)], states[str(said)] = optimizer, module.state_dict()
    plain, *others = made
    assert all(group["fused"] for group in made[plain].param_groups)
    assert not any(group["fused"] for other in others for group in made[other].param_groups)
    assert not getattr(made[plain], "_step_supports_amp_scaling", False)  # Lightning would refuse to clip
    for other in others:
        for name, value in states[plain].items():
            torch.testing.assert_close(value, states[other][name])


def test_an_optimizer_without_a_kernel_is_left_alone():
    assert "fused" not in make_optimizer(Parts(), torch.optim.RMSprop, {}).param_groups[0]
    assert not make_optimizer(Parts(), torch.optim.Adagrad, {}).param_groups[0]["fused"]


def rates(schedule, total=100, per_epoch=10):
    optimizer = torch.optim.SGD([{"params": [nn.Parameter(torch.zeros(1))], "lr": 2.0}], lr=9.0, momentum=0.9)
    scheduler = schedule.build(optimizer, total, per_epoch)
    seen = []
    for _ in range(total):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return seen


def test_warmup_cosine():
    seen = rates(WarmupCosine(warmup_epochs=2, final_factor=0.1))
    assert seen[:3] == pytest.approx([0.1, 0.2, 0.3]) and seen[19] == pytest.approx(2.0, rel=1e-2)
    assert seen[60] == pytest.approx(2 * (0.1 + 0.9 * 0.5)) and seen[-1] == pytest.approx(0.2, rel=1e-2)
    assert all(a <= b for a, b in itertools.pairwise(seen[:20]))
    assert all(a >= b for a, b in itertools.pairwise(seen[20:]))


def test_one_cycle():
    seen = rates(OneCycle(warmup_share=0.2, start_divisor=25, final_divisor=100))
    assert seen[0] == pytest.approx(2 / 25) and max(seen) == pytest.approx(2.0)
    assert seen.index(max(seen)) == 19 and seen[-1] == pytest.approx(2 / 25 / 100)


@pytest.mark.parametrize("share", [0.1, 0.2, 0.5])
def test_one_cycle_of_any_length(share):
    """Torch divides by zero where going up takes exactly one step."""
    for total in range(2, 60):
        assert max(rates(OneCycle(warmup_share=share), total=total)) <= 2.0 + 1e-9


def test_step_decay_and_constant():
    seen = rates(StepDecay(every_epochs=4, factor=0.1, warmup_epochs=1))
    assert seen[0] == pytest.approx(0.2) and seen[9:40] == [2.0] * 31
    assert seen[40:80] == pytest.approx([0.2] * 40) and seen[80:] == pytest.approx([0.02] * 20)
    assert rates(Constant()) == [2.0] * 100
