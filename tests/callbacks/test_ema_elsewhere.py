"""The table of moving averages in docs/interop.md: what torch's and timm's do where ours is different."""

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from mlcl.callbacks.ema import _Average, decay_at

DECAY = 0.9
KINDS = {
    "torch": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY)),
    "torch, buffers": lambda model: AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(DECAY), use_buffers=True),
    "timm": lambda model: ModelEmaV3(model, decay=DECAY),
    "timm, step": lambda model: ModelEmaV3(model, decay=DECAY),
    "timm, no buffers": lambda model: ModelEmaV3(model, decay=DECAY, exclude_buffers=True),
    "ours": lambda model: _Average(model, torch.device("cpu"), DECAY),
}


class Counted(nn.Module):
    """In step i everything is i + 1, before it 0."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("mean", torch.zeros(1))
        self.register_buffer("count", torch.tensor(0))
        self.register_buffer("flag", torch.tensor(False))


def averages(kind, steps=4):
    """Weight, statistics, counter and flag in the average after each update."""
    model = Counted()
    average, found = KINDS[kind](model), []
    for step in range(steps):
        with torch.no_grad():
            for tensor in (model.weight, model.mean, model.count):
                tensor.fill_(step + 1)
        model.flag.fill_(True)
        if isinstance(average, AveragedModel):
            average.update_parameters(model)
        else:
            average.update(model, *([step] if kind == "timm, step" else []))
        found.append([value.item() for value in average.module.state_dict().values()])
    return [list(column) for column in zip(*found, strict=True)]


def mean_of(start, keeps):
    """The moving average of 1, 2, ... with these shares of the old one."""
    found = [start]
    for value, keep in enumerate(keeps, 1):
        found.append(keep * found[-1] + (1 - keep) * value)
    return pytest.approx(found[1:], abs=1e-5)


COPY, ALWAYS, COUNTER, FLAGS = [0.0, DECAY, DECAY, DECAY], [DECAY] * 4, [1, 2, 3, 4], [True] * 4


def test_ours():
    weight, mean, count, flag = averages("ours")
    expected = mean_of(0.0, [decay_at(step, DECAY) for step in range(4)])
    assert weight == expected and mean == expected and count == COUNTER and flag == FLAGS


@pytest.mark.upstream
@pytest.mark.parametrize(
    ("kind", "weights", "statistics", "count"),
    [
        ("torch", COPY, None, COUNTER),
        ("torch, buffers", COPY, COPY, [1, 1, 1, 1]),
        ("timm", ALWAYS, ALWAYS, COUNTER),
        ("timm, step", [0.0, 0.0, DECAY, DECAY], [0.0, 0.0, DECAY, DECAY], COUNTER),
        ("timm, no buffers", ALWAYS, None, COUNTER),
    ],
)
def test_theirs(kind, weights, statistics, count):
    """Torch 2.14.1, timm 1.0.31; where this fails, the table has to change."""
    weight, mean, counted, flag = averages(kind)
    assert weight == mean_of(0.0, weights)
    assert mean == (mean_of(0.0, statistics) if statistics else [1, 2, 3, 4])
    assert counted == count and flag == FLAGS


@pytest.mark.upstream
def test_torch_s_plain_average_fails_at_a_flag():
    """Torch 2.14.1: only with use_buffers, from the second update on."""
    model = Counted()
    average = AveragedModel(model, use_buffers=True)
    average.update_parameters(model)
    with pytest.raises(NotImplementedError):
        average.update_parameters(model)


@pytest.mark.upstream
def test_timm_warms_up_only_with_the_step():
    model = Counted()
    average = ModelEmaV3(model, decay=DECAY, use_warmup=True)
    assert [average.get_decay(step) for step in (None, 0, 1)] == [DECAY, 0.0, 0.0] and average.get_decay(2) < DECAY
