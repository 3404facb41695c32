"""The callbacks that a user gives beside ours: which a training takes, and what they may write."""

import re
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from lightning import Callback
from lightning.pytorch import callbacks as theirs
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, ProgressBar, WeightAveraging

from mlcl.callbacks.ema import EMA
from mlcl.errors import MlclError
from mlcl.metrics import NAMES
from mlcl.runs.folders import CHECKPOINTS
from mlcl.system.console import say

_SCORES = tuple(f"val/{name}" for name in NAMES)
_LOGGED = (*_SCORES, "val/classification", "val/spread", "val/spread_present")
_OTHERS = ("train/", "gradient/", "lr-", "epoch", "step")  # known once the training runs
_REFUSED: dict[type[Callback], str] = {
    theirs.BatchSizeFinder: "the schedule is laid out for one batch size; give --data.batch_size",
    theirs.LearningRateFinder: "it cannot set the rates of the schedule; give --model.optimizer.lr",
    theirs.GradientAccumulationScheduler: "the schedule is for equal steps; give --trainer.accumulate_grad_batches",
    theirs.BaseFinetuning: "the schedule has no rates for later parameters; give --model.network.freeze_epochs",
    theirs.StochasticWeightAveraging: "it replaces the schedule, and best.ckpt is not its average; give --ema_decay",
    theirs.ModelPruning: "validated weights would change before they are saved; prune later, by torch.nn.utils.prune",
    theirs.OnExceptionCheckpoint: "the next run starts from its file unasked; give ModelCheckpoint.save_on_exception",
}


def refuse(given: list[Callback]) -> None:
    """Raise an MlclError for a callback with which the schedule, or what is saved, would silently be wrong."""
    for callback in given:
        for kind, reason in _REFUSED.items():
            if isinstance(callback, kind):
                raise MlclError(f"{type(callback).__name__} is refused: {reason}")


def admit(given: list[Callback], folder: Path, bar: bool, averaged: bool) -> list[Callback]:
    """The user's callbacks for a training in this folder, or an MlclError; a progress bar only if there is a ``bar``.

    ``averaged``: there is a moving average already.
    """
    refuse(given)
    for callback in given:
        name = type(callback).__name__
        if type(callback) in (Callback, theirs.Checkpoint, ProgressBar):
            raise MlclError(f"{name} is refused: it is a base class and does nothing; give a class derived from it")
        if isinstance(callback, theirs.BasePredictionWriter):
            raise MlclError(f"{name} is refused: a training predicts nothing; use mlcl predict --output FILE")
        if isinstance(callback, WeightAveraging) and averaged:
            raise MlclError(f"{name} is refused: there is a moving average already; give one only, or --ema_decay null")
        averaged = averaged or isinstance(callback, WeightAveraging)
        if isinstance(callback, ModelCheckpoint):
            _check_files(callback, folder / CHECKPOINTS)
            setattr(callback, "on_exception", partial(_save_quietly, callback.on_exception))  # noqa: B010
        if isinstance(callback, ModelCheckpoint | EarlyStopping) and callback.monitor is not None:
            _check_monitor(callback, all(type(c).__module__.startswith("lightning.") for c in given))
    return [callback for callback in given if bar or not isinstance(callback, ProgressBar)]


def _save_quietly(save: Callable[..., None], *arguments: Any) -> None:
    """Save after an error, if that is possible: the line at the end is about the first error."""
    try:
        save(*arguments)
    except Exception as error:
        say(f"warning: no checkpoint is saved after the error: {error}")


def _check_files(callback: ModelCheckpoint, ours: Path) -> None:
    """Leave the run's own two checkpoints alone; without a ``dirpath``, Lightning writes beside them."""
    name = "last" if callback.save_last else callback.filename
    beside = callback.dirpath is None or Path(callback.dirpath).resolve() == ours.resolve()
    if beside and name in ("best", "last"):
        raise MlclError(
            f"ModelCheckpoint: checkpoints/{name}.ckpt is the run's own, which is written anyway; leave "
            "save_last out and give another filename, or give a dirpath"
        )


def _check_monitor(callback: ModelCheckpoint | EarlyStopping, complete: bool) -> None:
    """``complete``: nobody logs anything else, so that a metric with another name never comes."""
    name, monitor = type(callback).__name__, str(callback.monitor)
    if complete and monitor not in _LOGGED and not monitor.startswith(_OTHERS):
        raise MlclError(f"{name}: nothing is logged as {monitor}; a validation gives {', '.join(_LOGGED)}")
    lowest = callback.mode == "min"
    if monitor in _SCORES if lowest else monitor.startswith("train/") or monitor == "val/classification":
        given, right, kind = ("lowest", "max", "score") if lowest else ("highest", "min", "loss")
        say(f"warning: {name} takes the {given} {monitor} for the best, but it is a {kind}: give mode {right}")


class UsersCallbacks(Callback):
    """Looks after the user's callbacks during a training; it comes after them."""

    def on_load_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """What of their stored state counts: not a patience that has changed, nor files of others."""
        states = checkpoint["callbacks"]
        if "averaging_state" in checkpoint and not any(isinstance(c, WeightAveraging) for c in trainer.callbacks):
            raise MlclError("the checkpoint holds a moving average: continue with the callback that made it")
        for callback in trainer.callbacks:
            state = states.get(callback.state_key, {})
            if isinstance(callback, theirs.SpikeDetection):  # Lightning 2.6.6 cannot restore it
                states.pop(callback.state_key, None)
            elif isinstance(callback, EarlyStopping) and state:
                state["patience"] = callback.patience
                trainer.should_stop |= state["wait_count"] >= callback.patience
        folders = [str(c.dirpath) for c in trainer.callbacks if isinstance(c, ModelCheckpoint)]
        for state in states.values():
            if isinstance(state, dict) and "best_model_path" in state:
                _check_paths(folders, state)

    def on_save_checkpoint(self, trainer: Any, pl_module: Any, checkpoint: dict[str, Any]) -> None:
        """Lightning's averages validate and save the untrained weights until they begin (2.6.6); ours does not."""
        begun = checkpoint.get("averaging_state", {}).get("n_averaged", 1) > 0
        if not begun and not any(isinstance(c, EMA) for c in trainer.callbacks):
            raise MlclError(
                f"after {trainer.global_step} steps the moving average has not begun, and untrained weights would be "
                "saved; let it begin in the first epoch, or give --ema_decay"
            )


def _check_paths(folders: list[str], state: dict[str, Any]) -> None:
    """Refuse a stored path that leads elsewhere: Lightning removes such files when better ones come (2.6.6)."""
    single = [state.get(f"{key}_model_path") for key in ("best", "last", "kth_best")]
    for path in map(str, [*single, *state.get("best_k_models", {})]):
        remote, local = re.search("::|://", path), Path(path).absolute()
        above = [Path(folder) for folder in folders if Path(folder) in local.parents]
        outside = any(not local.resolve().is_relative_to(folder.resolve()) for folder in above)  # by .. or a link
        if outside or (remote and not path.startswith(tuple(f"{folder}/" for folder in folders))):
            raise MlclError(f"the checkpoint names {path}, which is no checkpoint of this run")
