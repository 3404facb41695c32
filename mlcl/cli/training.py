"""The verbs fit, validate and test: model, dataset, run folder and trainer from a command line."""

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from lightning import Trainer, seed_everything
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.pytorch.callbacks import LearningRateMonitor, ProgressBar

from mlcl import callbacks
from mlcl.callbacks import loggers
from mlcl.callbacks.one_run import naming_ranks
from mlcl.cli.settings import Settings, parse
from mlcl.data import MultiLabelDataModule
from mlcl.distributed import gather_objects
from mlcl.errors import MlclError
from mlcl.runs import continuing, folders, provenance, record, safetensors_folder
from mlcl.system import console, signals
from mlcl.system.console import is_first, say


def run(verb: str, arguments: list[str]) -> None:
    """Parse, make and run one verb."""
    console.quieten()
    Run(parse(verb, arguments)).execute()


class Run:
    """One verb on one model, with its folder and its trainer."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.verb, self.training = settings, settings.verb, settings.verb == "fit"
        seed = settings.config.seed_everything
        if seed is not False:
            settings.config["seed_everything"] = seed_everything(None if seed is True else seed, workers=True)
        made = settings.parser.instantiate_classes(settings.config)
        self.model, self.datamodule, self.trainer_arguments = made.model, made.data, dict(made.trainer)
        given = made.trainer.callbacks or []
        self.users = given if isinstance(given, list) else [given]
        callbacks.refuse(self.users)  # before their settings are stored, which jsonargparse cannot for each of them
        stored, classes = settings.stored_classes, list(self.datamodule.classes)
        if stored and classes != stored:
            raise MlclError(
                f"the checkpoint knows {len(stored)} classes ({', '.join(stored[:3])}, ...), the data has "
                f"{len(classes)} ({', '.join(classes[:3])}, ...): give its own dataset"
            )
        kind = type(self.datamodule)
        if settings.config.localise and kind.read_regions is MultiLabelDataModule.read_regions:
            raise MlclError(f"--localise true: {kind.__name__} has no masks or boxes; go without")
        if settings.config.tta != "none" and self.datamodule.cache == "features":
            raise MlclError(
                f"--tta {settings.config.tta} needs pictures, not --data.cache features: a mirrored feature map is not "
                "that of the mirrored picture; give --tta none here, and flip to mlcl test without the cache"
            )
        self.model.network.tta = settings.config.tta
        config = settings.as_dict()
        self.model.config = {key: value for key, value in config.items() if key not in ("ckpt_path", "import")}
        self.folder = self._run_folder()
        chosen = self.trainer_arguments["logger"]
        self.loggers = loggers.make(chosen, config["trainer"]["logger"], self.folder, self.training)
        with self._in_run_folder():
            if self.training and is_first():
                provenance.describe(self.folder, self.model.config)
            self.trainer = self._trainer(self.training, settings.checkpoint)

    def execute(self) -> None:
        """Run the verb, then test the best checkpoint and write the report where these are asked for."""
        line = self.settings.command_line
        if self.training:
            config = self.model.config
            signals.advise(partial(continuing.how_to_continue, self.folder, config, line.imports, line.arguments))
        with self._in_run_folder(), loggers.describing(self.trainer.loggers, self.model.config), naming_ranks():
            self._run_verb()
            if self.training and self.settings.config.test_after_fit and not self.trainer_arguments["fast_dev_run"]:
                self._test_best()
            if self.settings.config.report and is_first() and (self.folder / "scores.npz").is_file():
                from mlcl.report.page import write  # imports matplotlib, which most runs do without

                write(self.folder, data_root=self.datamodule.portable_arguments().get("root"), imports=line.imports)

    def _run_verb(self) -> None:
        config, epochs = self.settings.config, self.settings.stored_epoch + 1
        chosen = f" ({config.trainer.precision}, as fits the device)" if self.settings.chosen_precision else ""
        say(f"mlcl {self.verb}: {os.path.relpath(self.folder)}{chosen}")
        if self.training and 0 < (config.trainer.max_epochs or 0) <= epochs:
            say(f"the checkpoint is at epoch {epochs} of {config.trainer.max_epochs}: all is done")
        quiet = {} if self.training else {"verbose": False}
        try:
            with _for_lightning(self.settings.checkpoint) as path:
                getattr(self.trainer, self.verb)(
                    self.model, datamodule=self.datamodule, ckpt_path=path, weights_only=True, **quiet
                )
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise MlclError(f"network or loss differ from the checkpoint's: {first[:300]}") from error

    def _test_best(self) -> None:
        """With a new trainer: in the old one the EMA callback would load the raw weights (lightning 2.6.6)."""
        folder = self.folder / folders.CHECKPOINTS
        written = [folder / name for name in ("best.ckpt", "last.ckpt") if (folder / name).is_file()]
        self.folder, found = self.trainer.strategy.broadcast((self.folder, written[:1]))
        if not found:
            say("no checkpoint was written, so nothing is tested")
            return
        with _seen_here(found[0]) as best:
            trainer = self._trainer(False, best)
            trainer.test(self.model, datamodule=self.datamodule, ckpt_path=str(best), weights_only=True, verbose=False)

    @contextmanager
    def _in_run_folder(self) -> Iterator[None]:
        """Child processes find the folder in the environment; a run that fails before it wrote anything leaves none."""
        inherited = os.environ.get(folders.RUN_FOLDER)
        os.environ[folders.RUN_FOLDER] = str(self.folder)
        try:
            yield
        except BaseException:
            if is_first():
                folders.discard_if_untouched(self.folder)
            raise
        finally:
            if inherited is None:
                del os.environ[folders.RUN_FOLDER]

    def _trainer(self, training: bool, checkpoint: Path | None) -> Trainer:
        arguments = dict(self.trainer_arguments)
        arguments["enable_progress_bar"] = arguments["enable_progress_bar"] is not False and sys.stderr.isatty()
        arguments["enable_checkpointing"] = training and arguments["enable_checkpointing"] is not False
        arguments["enable_model_summary"] = arguments["enable_model_summary"] or False
        arguments["default_root_dir"], arguments["logger"] = str(self.folder), self.loggers
        if not training and not isinstance(arguments["strategy"], str):  # an object serves one trainer only
            arguments["strategy"] = "ddp" if self.trainer.world_size > 1 else "auto"
        bar, averaged = arguments["enable_progress_bar"], self.settings.config.ema_decay is not None
        users = callbacks.admit(self.users, self.folder, bar, averaged) if training else []
        if self.users and not self.training:
            say(f"trainer.callbacks are for a training: mlcl {self.verb} goes without them")
        # The bar before the results, so that it ends above their table.
        bars = [callbacks.ImageProgressBar()] if bar and not any(isinstance(c, ProgressBar) for c in users) else []
        arguments["callbacks"] = [*bars, *self._callbacks(checkpoint), *users]
        if training:
            arguments["callbacks"] += self._of_a_training(arguments)
        return callbacks.prepared(_as_launched(arguments))

    def _callbacks(self, checkpoint: Path | None) -> list[Any]:
        config, imports = self.settings.config, self.settings.command_line.imports
        localise = callbacks.Localise() if config.localise else None
        return [
            callbacks.Results(self.folder, str(checkpoint) if checkpoint else None, localise),
            *([localise] if localise else []),
            callbacks.LoggedResults(self.folder, config.log_images, imports),
            callbacks.Interruptible(),
            callbacks.OneRun(checkpoint),
        ]

    def _of_a_training(self, arguments: dict[str, Any]) -> list[Any]:
        repeated = [file.parent for file in self.settings.command_line.configs]
        found: list[Any] = [callbacks.EpochLines(), callbacks.DataNote(self.folder, [self.folder, *repeated])]
        if arguments["enable_checkpointing"] and not arguments["fast_dev_run"]:
            found += callbacks.best_and_last(self.folder / folders.CHECKPOINTS)
        decay = self.settings.config.ema_decay
        if decay is not None:
            if not 0 < decay < 1:
                raise MlclError(f"--ema_decay is {decay}, it must lie between 0 and 1")
            found.append(callbacks.EMA(decay))
        found.append(callbacks.Finite(self.folder))  # after EMA, whose average is saved too
        if self.loggers:
            theirs = any(isinstance(callback, LearningRateMonitor) for callback in arguments["callbacks"])
            found += [*([] if theirs else [LearningRateMonitor("step")]), callbacks.GradientNorms()]
        return [*found, callbacks.UsersCallbacks()]

    def _run_folder(self) -> Path:
        if folders.RUN_FOLDER in os.environ:
            return Path(os.environ[folders.RUN_FOLDER])
        checkpoint = self.settings.checkpoint
        run = folders.run_of(checkpoint) if checkpoint else None
        parent = self.settings.command_line.runs_root / self.settings.name
        if not is_first():  # started by torchrun or SLURM: the first process makes it and broadcasts it
            return parent / "version_pending"
        if run and checkpoint and self.training and checkpoint.name == "last.ckpt":
            folders.tidy(run, self.settings.stored_steps)
            return run
        if run and not self.training and os.access(run, os.W_OK):
            return folders.new_folder(run, f"{self.verb}_")
        return folders.new_folder(parent)


@contextmanager
def _for_lightning(checkpoint: Path | None) -> Iterator[str | None]:
    """The checkpoint, or one made of exported weights, which Lightning cannot read."""
    if checkpoint is None or checkpoint.suffix != safetensors_folder.ENDING:
        yield str(checkpoint) if checkpoint else None
        return
    with tempfile.TemporaryDirectory() as folder:
        torch.save(record.load(checkpoint), path := os.path.join(folder, "weights.ckpt"))
        yield path


@contextmanager
def _seen_here(checkpoint: Path) -> Iterator[Path]:
    """The first process's checkpoint, or a copy of it on a node that does not see its disk."""
    seen = gather_objects(checkpoint.is_file())
    with tempfile.TemporaryDirectory() as folder:
        if not all(seen):
            [content, *_] = gather_objects(checkpoint.read_bytes() if is_first() else b"")
            if not checkpoint.is_file():
                checkpoint = Path(folder, checkpoint.name)
                checkpoint.write_bytes(content)
        yield checkpoint


def _as_launched(arguments: dict[str, Any]) -> Trainer:
    """The trainer, with torchrun's numbers of processes and nodes where the user gave none.

    Lightning (2.6.6) makes of a process that names no others one that is alone, whatever started it: each of them would
    compute everything, with a result of its own.
    """
    torchrun = dist.is_available() and dist.is_torchelastic_launched()
    if torchrun and (arguments["devices"], arguments["num_nodes"]) == ("auto", 1):
        arguments |= {"devices": int(os.environ["LOCAL_WORLD_SIZE"]), "num_nodes": int(os.environ["GROUP_WORLD_SIZE"])}
    try:
        trainer = Trainer(**arguments)
    except ValueError as error:  # which Lightning raises where the strategy is one of several processes
        if "world size" not in str(error):
            raise
        raise MlclError(f"--trainer.devices and --trainer.num_nodes: {error}") from None
    size = "WORLD_SIZE" if torchrun else "SLURM_NTASKS"
    started = int(os.environ[size]) if torchrun or SLURMEnvironment.detect() else trainer.world_size
    if started != trainer.world_size:
        leave = "; or --trainer.devices auto --trainer.num_nodes 1, for torchrun's numbers" if torchrun else ""
        raise MlclError(
            f"{started} processes were started, but --trainer.devices and --trainer.num_nodes are for "
            f"{trainer.world_size}: give the processes of a node, and the nodes{leave}"
        )
    return trainer
