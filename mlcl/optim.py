"""Parameter groups, and learning-rate schedules that step once per optimizer step."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from lightning import Trainer
from torch import nn
from torch.optim import SGD, Adam, AdamW, Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, OneCycleLR

from mlcl.errors import MlclError

OptimizerFactory = Callable[[Iterable[Any]], Optimizer]


def make_optimizer(module: nn.Module, factory: OptimizerFactory, lr_mult: dict[str, float]) -> Optimizer:
    """An optimizer whose groups differ in learning rate by part, with no weight decay on norms and biases.

    Args:
        module: its trainable parameters are optimised.
        factory: makes the optimizer from parameter groups, learning rate and weight decay already chosen.
        lr_mult: factor on the learning rate by part: a prefix of the parameter's name, with or without ``network.``,
            for example ``{backbone: 0.1}``; of several that match, the longest counts.

    Raises:
        MlclError: if a part matches no parameter.
    """
    groups: dict[tuple[float, bool], list[nn.Parameter]] = {}
    unused = set(lr_mult)
    for name, parameter in module.named_parameters():
        parts = [part for part in lr_mult if f"{name}.".startswith((f"{part}.", f"network.{part}."))]
        unused -= set(parts)
        if parameter.requires_grad:
            factor = lr_mult[max(parts, key=len)] if parts else 1.0
            groups.setdefault((factor, parameter.ndim > 1), []).append(parameter)
    if unused:
        raise MlclError(f"model.lr_mult names {sorted(unused)[0]!r}, which is no part; use backbone, head, ...")
    settings: list[dict[str, Any]] = []
    for factor, decays in sorted(groups):
        own: dict[str, Any] = {} if decays else {"weight_decay": 0.0}
        settings.append({"params": groups[factor, decays], "name": _group_name(lr_mult, factor, decays), **own})
    optimizer = factory(settings)
    for group, (factor, _) in zip(optimizer.param_groups, sorted(groups), strict=True):
        group["lr"] *= factor
    _fuse(optimizer)
    return optimizer


def _group_name(lr_mult: dict[str, float], factor: float, decays: bool) -> str:
    """The name of its learning-rate curve: ``backbone``, ``other_no_decay``, ``head+other``."""
    parts = [*(part for part, own in lr_mult.items() if own == factor), *(["other"] if factor == 1 else [])]
    return f"{'+'.join(parts)}{'' if decays else '_no_decay'}"


def _fuse(optimizer: Optimizer) -> None:
    """Update all parameters in one kernel unless the user chose otherwise: on the CPU in a fifth of the time.

    Set in the groups and not in the constructor, because Lightning refuses to clip gradients under ``16-mixed`` when an
    optimizer was made as fused.
    """
    chosen = any(optimizer.defaults.get(name) is not None for name in ("foreach", "fused"))
    if type(optimizer) not in (Adam, AdamW, SGD) or chosen or optimizer.defaults.get("differentiable"):
        return
    for group in optimizer.param_groups:
        group["fused"] = all(parameter.device.type in ("cpu", "cuda") for parameter in group["params"])


def training_length(trainer: Trainer) -> tuple[int, int]:
    """Optimizer steps of the whole training, and of an epoch; an MlclError if the training has no end."""
    steps = trainer.estimated_stepping_batches
    if steps == float("inf"):
        raise MlclError("the schedule needs an end: set --trainer.max_epochs or --trainer.max_steps")
    trainer.fit_loop.setup_data()  # or the number of batches is unknown when only max_steps is given
    batches = trainer.num_training_batches / trainer.accumulate_grad_batches
    return int(steps), max(1, math.ceil(batches))


class Schedule(ABC):
    """A learning-rate schedule: a factor on every group's own learning rate, step by step."""

    ends = False  # whether its shape depends on the total number of steps

    @abstractmethod
    def build(self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
        """A scheduler to be stepped after every optimizer step."""

    def check_length(self, planned: int | None, steps: int) -> None:
        """Raise an MlclError if the schedule has an end, and a continued checkpoint planned other steps."""
        if self.ends and planned not in (None, steps):
            raise MlclError(
                f"the checkpoint's schedule is laid out for {planned} steps, this run wants {steps}: "
                "continue with the same --trainer.max_epochs, or start a new run with --model.init_from"
            )


class Constant(Schedule):
    """A constant learning rate after an optional linear warm-up.

    Args:
        warmup_epochs: epochs of linear warm-up from 0.
    """

    def __init__(self, warmup_epochs: float = 0.0) -> None:
        self.warmup_epochs = warmup_epochs

    def build(self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
        """See :class:`Schedule`."""
        return _warmed_up(optimizer, self.warmup_epochs * steps_per_epoch, lambda step: 1.0)


class WarmupCosine(Schedule):
    """Linear warm-up, then half a cosine down.

    Args:
        warmup_epochs: epochs of linear warm-up from 0.
        final_factor: factor at the last step.
    """

    ends = True

    def __init__(self, warmup_epochs: float = 1.0, final_factor: float = 0.0) -> None:
        self.warmup_epochs, self.final_factor = warmup_epochs, final_factor

    def build(self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
        """See :class:`Schedule`."""
        warmup, low = self.warmup_epochs * steps_per_epoch, self.final_factor

        def cosine(step: int) -> float:
            progress = min(1.0, (step - warmup) / max(1.0, total_steps - warmup))
            return low + (1 - low) * (1 + math.cos(math.pi * progress)) / 2

        return _warmed_up(optimizer, warmup, cosine)


class StepDecay(Schedule):
    """Multiplies by ``factor`` every few epochs, after an optional linear warm-up (CSRA, MulCon's second stage).

    Args:
        every_epochs: epochs between two decays.
        factor: of each decay.
        warmup_epochs: epochs of linear warm-up from 0.
    """

    def __init__(self, every_epochs: float = 20.0, factor: float = 0.1, warmup_epochs: float = 0.0) -> None:
        self.every_epochs, self.factor, self.warmup_epochs = every_epochs, factor, warmup_epochs

    def build(self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
        """See :class:`Schedule`."""
        warmup, every = self.warmup_epochs * steps_per_epoch, self.every_epochs * steps_per_epoch
        return _warmed_up(optimizer, warmup, lambda step: float(self.factor ** (step // every)))


class OneCycle(Schedule):
    """Torch's one-cycle policy: up to the optimizer's learning rate, then down (Smith and Topin, 2018).

    Args:
        warmup_share: share of the steps spent going up.
        start_divisor: the first learning rate is this much smaller than the highest.
        final_divisor: the last one is this much smaller than the first.
        cycle_momentum: also cycle the momentum (beta1), as torch and the SADCL code do.
    """

    ends = True

    def __init__(
        self,
        warmup_share: float = 0.2,
        start_divisor: float = 25.0,
        final_divisor: float = 1e4,
        cycle_momentum: bool = True,
    ) -> None:
        self.warmup_share, self.start_divisor, self.final_divisor = warmup_share, start_divisor, final_divisor
        self.cycle_momentum = cycle_momentum

    def build(self, optimizer: Optimizer, total_steps: int, steps_per_epoch: int) -> LRScheduler:
        """See :class:`Schedule`."""
        # Torch divides by zero where going up takes exactly one step (2.15).
        share = self.warmup_share if abs(self.warmup_share * total_steps - 1) > 1e-6 else 1.01 / total_steps
        return OneCycleLR(
            optimizer,
            max_lr=[group["lr"] for group in optimizer.param_groups],
            total_steps=total_steps,
            pct_start=share,
            div_factor=self.start_divisor,
            final_div_factor=self.final_divisor,
            cycle_momentum=self.cycle_momentum and any(k in optimizer.defaults for k in ("momentum", "betas")),
        )


SCHEDULES: dict[str, type] = {kind.__name__: kind for kind in (Constant, OneCycle, StepDecay, WarmupCosine)}


def _warmed_up(optimizer: Optimizer, warmup: float, factor: Callable[[int], float]) -> LambdaLR:
    """``factor`` of each step after a linear warm-up from 1 / warmup at step 0."""
    return LambdaLR(optimizer, lambda step: (step + 1) / warmup if step + 1 < warmup else factor(step))
