"""A training that computes with nan or infinity stops, and says where it began; no checkpoint of it is written."""

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor
from torch.nn.utils import get_total_norm
from torch.optim import Optimizer

from mlcl.callbacks import replay
from mlcl.distributed import gather, gather_objects, rank, world_size
from mlcl.errors import MlclError
from mlcl.metrics import MultiLabelMetrics
from mlcl.system.console import say
from mlcl.system.seeding import global_seed

GRADIENT = "gradient"
_HOPELESS = 50  # fp16 overflows in a row; the scale has fallen to 2 ** -34 of what it was
_NAMED = 3  # file names in the message


class Finite(Callback):
    """Looks at loss terms and gradients of every step, and every so often at what was seen.

    To ask the device in each step would make the host wait for it. So the values of the last steps stay where they are
    and are read together: in the steps that are logged, where the host waits anyway, and before anything is saved. From
    a gradient that is not finite on, until it is read, the optimizer changes nothing (its kernel takes a flag on the
    device for that, which mixed precision uses): the step can be repeated with the weights that it had.

    Under ``16-mixed`` an overflow is part of the method: the scaler leaves the step out, ``gradient/overflows`` counts.

    Args:
        folder: of the run, for the batch of the step.
        every: steps between two readings; by default ``log_every_n_steps`` of the trainer.
    """

    def __init__(self, folder: Path, every: int | None = None) -> None:
        self.folder, self.every = folder, every

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start afresh."""
        self._steps: list[replay.Step] = []
        self._window = self.every or trainer.log_every_n_steps or 50  # type: ignore[attr-defined]
        self._scales = getattr(trainer.precision_plugin, "scaler", None) is not None
        zero = torch.zeros((), device=pl_module.device)
        self._zero, self._broken, self._gradient, self._overflows, self._in_a_row = zero, zero, zero, zero, 0

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what the step begins with."""
        self._number, self._gradient = trainer.global_step, self._zero
        self._random = replay.random_state(pl_module.device)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Optimizer) -> None:
        """The largest gradient (a sum of squares overflows before its parts do), and no step with a broken one."""
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        self._gradient = get_total_norm(gradients, math.inf).float()
        broken = (~self._gradient.isfinite()).float()
        if self._scales:
            self._overflows = self._overflows + broken
            pl_module.log("gradient/overflows", self._overflows)
            return
        self._broken = torch.maximum(self._broken, broken)
        if all(group.get("fused") for group in optimizer.param_groups):
            optimizer.found_inf = self._broken  # type: ignore[attr-defined]
        else:
            for gradient in gradients:
                gradient.masked_fill_(self._broken.bool(), 0)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the values of the step, and read them every so often."""
        if not isinstance(outputs, Mapping):
            return
        terms = {k: v.detach().float() for k, v in outputs.items() if isinstance(v, Tensor) and v.numel() == 1}
        index = batch.get("index") if isinstance(batch, Mapping) else None
        values = torch.stack([*(term.reshape(()) for term in terms.values()), self._gradient])
        names = (*terms, GRADIENT)
        self._steps.append(replay.Step(self._number, trainer.current_epoch, index, self._random, names, values))
        if len(self._steps) >= self._window:
            self._read(trainer, pl_module)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before an epoch's validation, whose numbers would choose a checkpoint."""
        if trainer.state.fn == "fit" and not trainer.sanity_checking:
            self._read(trainer, pl_module)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The same for the logits of a validation, which may overflow where no training step does."""
        metrics = getattr(pl_module, "val_metrics", None)
        if trainer.state.fn != "fit" or metrics is None:
            return
        if broken := broken_scores(trainer, "val", metrics):
            where = f"after {trainer.global_step} steps (epoch {trainer.current_epoch})"
            raise MlclError(f"{where} {broken}; {_remedy(self.folder)}")

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Before the epoch's checkpoint."""
        self._read(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say what the scaler left out; leave the optimizers as they were."""
        if self._scales and (count := int(self._overflows)):
            say(f"fp16: {count} of {trainer.global_step} steps overflowed and were left out (gradient/overflows)")
        for optimizer in trainer.optimizers:
            vars(optimizer).pop("found_inf", None)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Nothing is written over a good checkpoint: neither from a broken step nor of broken weights or statistics."""
        if trainer.state.fn == "fit":
            self._read(trainer, pl_module)
        kept = {name for name, _ in pl_module.named_parameters()}  # a loss's buffers may hold an infinity on purpose
        states = [checkpoint["state_dict"], checkpoint.get("current_model_state", {})]
        broken = [
            name
            for state in states
            for name, tensor in state.items()
            if (name in kept or name.startswith("network.")) and tensor.is_floating_point()
            if not tensor.isfinite().all()
        ]
        everywhere = gather(torch.tensor([len(broken)], device=pl_module.device), equal=True)
        if everywhere.any():
            raise MlclError(
                f"after {trainer.global_step} steps (epoch {trainer.current_epoch}) "
                f"{(broken or ['the model'])[0]} is not finite, so no checkpoint is written; {_remedy(self.folder)}"
            )

    def _read(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look at the steps since the last time, together with the other ranks.

        Raises:
            MlclError: on all ranks, naming the first step that broke on any of them.
        """
        steps, self._steps = self._steps, []
        if not steps:
            return
        sound = torch.cat([step.values.isfinite() for step in steps]).tolist()
        place, first = 0, len(steps)
        for number, step in enumerate(steps):
            terms, gradient = sound[place : place + len(step.names) - 1], sound[place + len(step.names) - 1]
            place += len(step.names)
            self._in_a_row = 0 if gradient else self._in_a_row + 1
            overflow = self._scales and all(terms) and self._in_a_row < _HOPELESS
            if not (all(terms) and (gradient or overflow)):
                first = number
                break
        first = int(gather(torch.tensor([first], device=pl_module.device), equal=True).min())
        if first < len(steps):
            with torch.inference_mode(False), torch.enable_grad():  # Lightning's, around a validation
                self._stop(steps[first], trainer, pl_module)

    def _stop(self, step: replay.Step, trainer: Trainer, pl_module: LightningModule) -> None:
        """Run the step again, save its batch, and tell."""
        batch = replay.batch_of(step, trainer, pl_module)
        possible = all(gather_objects(batch is not None))  # the losses of one rank wait for the others'
        found = replay.run_again(step, batch, trainer, pl_module) if batch is not None and possible else None
        values = dict(zip(step.names, step.values.tolist(), strict=True))
        terms = {name: value for name, value in values.items() if not math.isfinite(value) and name != GRADIENT}
        # After DDP's averaging every rank's gradient is broken: the culprit's is before it, too.
        guilty = bool(terms) or (found is not None and (found.gradient or found.module) is not None)
        tellers = gather_objects((guilty, rank()))
        teller = min([number for own, number in tellers if own] or [0])
        folder = Path(gather_objects(str(self.folder))[0])
        line, path = "", folder / f"not_finite_step_{step.number}{f'_rank_{rank()}' if world_size() > 1 else ''}.pt"
        if guilty or rank() == teller:
            files = replay.files_of(step, trainer)
            try:
                replay.save(path, step, batch, found, files, seed=global_seed(), rank=rank())
                kept = f"{os.path.relpath(path)} keeps the batch"
                look = f"torch.load({os.path.relpath(path)!r}, weights_only=True)"
            except (OSError, RuntimeError) as error:  # torch's writer makes the latter of a disk that is full
                kept, look = f"its batch could not be saved ({getattr(error, 'strerror', None) or 'no room?'})", ""
            line = f"{_what(step, terms, values, found)}; {kept}{_named(files)}; {_remedy(folder)}"
        lines = gather_objects((line, look if line else ""))
        if lines[teller][1]:
            say(f'to look at it: python -c "import torch; print({lines[teller][1]})"')
        raise MlclError(lines[teller][0])


def broken_scores(trainer: Trainer, split: str, metrics: MultiLabelMetrics) -> str | None:
    """What of an evaluation is no number, in words, before metrics are computed of it; every rank calls this.

    Args:
        trainer: its datamodule, if it has one, names the images.
        split: train, val or test.
        metrics: with logits (B, K) and index (B,) of each batch.
    """
    broken = [i for logits, index in zip(metrics.logits, metrics.index, strict=True)
              for i in index[~logits.isfinite().all(1)].tolist()]  # fmt: skip
    everywhere = sorted({index for part in gather_objects(broken) for index in part})
    if not everywhere:
        return None
    splits = getattr(getattr(trainer, "datamodule", None), "splits", {})
    first = splits[split].paths[everywhere[0]] if split in splits else f"number {everywhere[0]}"
    named = {"val": "validation"}.get(split, split)
    return f"the logits of {len(everywhere)} {named} images are not finite, the first is {first}"


def _what(step: replay.Step, terms: dict[str, float], values: dict[str, float], found: replay.Found | None) -> str:
    parts = [name for name in terms if name != "loss"] or list(terms)
    broken = " and ".join(f"{name} is {terms[name]}" for name in parts) or f"the gradient is {values[GRADIENT]}"
    where = f" on rank {rank()}" if world_size() > 1 else ""
    if found is None:
        origin = ""
    elif found.module is not None:
        reaches = f"what enters it reaches {found.reaches:.3g}" if math.isfinite(found.reaches or 0) else "as its input"
        origin = f"; the first module whose output is not finite: {found.module} ({reaches})"
    elif found.gradient is not None:
        origin = f"; the first gradient that is not finite: {found.gradient}"
    else:
        origin = "; every module's output is finite when the step runs again"
    return f"step {step.number} (epoch {step.epoch}){where}: {broken}{origin}"


def _named(files: list[str]) -> str:
    return f" of {len(files)} images ({', '.join(files[:_NAMED])}{', ...' * (len(files) > _NAMED)})" if files else ""


def _remedy(folder: Path) -> str:
    last = folder / "checkpoints" / "last.ckpt"
    clip = "--trainer.gradient_clip_val 1"
    lower = f"start again with a lower --model.optimizer.lr or {clip}"
    return f"{lower}, or go on with --ckpt_path {os.path.relpath(last)} {clip}" if last.is_file() else lower
