"""Places a run's loggers: in its folder, under its name, with the direction of each metric."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning.fabric.loggers.logger import rank_zero_experiment
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loggers import Logger, TensorBoardLogger, WandbLogger

from mlcl.callbacks.csv_log import CSVLog
from mlcl.errors import MlclError
from mlcl.metrics import NAMES
from mlcl.runs.folders import name_and_version
from mlcl.system.console import is_first


def make(chosen: Any, settings: Any, folder: Path, training: bool) -> list[Logger]:
    """The loggers of a run: ``metrics.csv`` when training, and those of the user's choice beside it."""
    if chosen is False:
        return []
    given = [] if chosen in (None, True) else chosen if isinstance(chosen, list) else [chosen]
    texts = settings if isinstance(settings, list) else [settings] * len(given)
    placed = [_placed(logger, text, folder) for logger, text in zip(given, texts, strict=True)]
    return [*([CSVLog(str(folder))] if training else []), *placed]


@contextmanager
def describing(loggers: list[Logger], config: dict[str, Any]) -> Iterator[None]:
    """Log the whole configuration (the CSV's is in config.yaml), and close W&B at the end."""
    for logger in loggers:
        if not isinstance(logger, CSVLog):
            logger.log_hyperparams(config)
    status = 1
    try:
        yield
        status = 0
    finally:
        for logger in loggers:
            if isinstance(logger, WandbLog):
                logger.close(status)


class WandbLog(WandbLogger):
    """Lightning's W&B logger in the run's folder.

    Beyond Lightning's (2.6.6): the id is kept in the folder, so that a continued run is continued in W&B, too; the
    summary of a validated metric is its best value; ``log_model`` uploads the best checkpoint only. By default the run
    is called ``<name>/version_<n>`` in the group ``<name>`` of the project ``mlcl``, unless W&B's own environment
    variables say otherwise.
    """

    def __init__(self, folder: Path, **settings: Any) -> None:
        self.kept_id, self.run = folder / "wandb" / "run_id", None
        name, version = name_and_version(folder)
        if settings.get("id") is None and settings.get("version") is None and self.kept_id.is_file():
            settings["id"] = self.kept_id.read_text().strip()
        for key, variable, value in (
            ("project", "WANDB_PROJECT", "mlcl"),
            ("name", "WANDB_NAME", f"{name}/{version}"),
            ("group", "WANDB_RUN_GROUP", re.sub(r"/version_\w+$", "", name)),  # of a later test, too
        ):
            if settings.get(key) is None:
                settings[key] = os.environ.get(variable, value)
        super().__init__(**{**settings, "save_dir": str(folder)})
        # Lightning always sends both; wandb 0.31 warns about the first, and about the second in a sweep.
        for key in ("anonymous", *(["project"] if "WANDB_SWEEP_ID" in os.environ else [])):
            self._wandb_init.pop(key)

    @property
    @rank_zero_experiment
    def experiment(self) -> Any:
        """The W&B run, made on first use (a no-op away from rank 0)."""
        import wandb

        try:
            run = super().experiment
        except wandb.errors.Error as error:
            reason = " ".join(str(error).split()).rstrip(".")
            access = isinstance(error, wandb.errors.CommError) or re.search("API.key", reason, re.I)
            instead = "; or log without an account: --trainer.logger.offline true" if access else ""
            raise MlclError(f"W&B: {reason}{instead}") from error
        if self.run is None and is_first() and not run.disabled:
            self.kept_id.parent.mkdir(parents=True, exist_ok=True)
            self.kept_id.write_text(f"{run.id}\n")
            for name in NAMES:
                run.define_metric(f"val/{name}", summary="max")
            for name in ("train/loss", "val/classification"):
                run.define_metric(name, summary="min")
        self.run = run
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Without NaN, after which wandb (0.31) finds no best value any more; ``metrics.csv`` has it."""
        super().log_metrics({name: value for name, value in metrics.items() if value == value}, step)

    def after_save_checkpoint(self, checkpoint_callback: ModelCheckpoint) -> None:
        """Upload what was chosen by its score, not the last one."""
        if checkpoint_callback.monitor is not None:
            super().after_save_checkpoint(checkpoint_callback)

    def close(self, status: int) -> None:
        """End the run; another status than 0 marks it as failed."""
        if self.run is not None:
            self.run.finish(status)


def _placed(logger: Logger, settings: Any, folder: Path) -> Logger:
    """The logger with the run's folder and name, if it is one of Lightning's own classes."""
    arguments = dict(settings.get("init_args") or {}) if isinstance(settings, dict) else {}
    if type(logger) is WandbLogger:
        return WandbLog(folder, **arguments, **settings.get("dict_kwargs", {}))
    unnamed = arguments.get("name") == "lightning_logs" and arguments.get("version") is None
    if type(logger) is TensorBoardLogger and unnamed:
        name, version = name_and_version(folder)
        return TensorBoardLogger(**{**arguments, **settings.get("dict_kwargs", {}), "name": name, "version": version})
    return logger
