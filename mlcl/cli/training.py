"""fit, validate, test: the only file that knows jsonargparse and LightningCLI."""

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

import yaml
from jsonargparse.typing import NonNegativeInt
from lightning import Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

import mlcl.callbacks as callbacks
import mlcl.data
import mlcl.heads
import mlcl.losses
from mlcl import runs
from mlcl.callbacks import fast_step, loggers
from mlcl.callbacks.one_run import naming_ranks
from mlcl.cli import command_line
from mlcl.cli.messages import misplaced_null, translate
from mlcl.errors import MlclError, line
from mlcl.module import MultiLabelModule
from mlcl.runs import record
from mlcl.system import console, signals
from mlcl.system.console import is_first, say

_RUN_FOLDER = "MLCL_RUN_FOLDER"  # tells the child processes of a DDP run where the first one put it


class Parser(LightningArgumentParser):
    """Errors in one line, status 2."""

    arguments: ClassVar[list[str]] = []  # the command line, for the message

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print the translated message and stop."""
        if os.environ.get("MLCL_DEBUG") == "1" and ex is not None:
            traceback.print_exception(ex)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"mlcl: {line(translate(message, self.arguments))}", file=sys.stderr)
        sys.exit(2)


class CLI(LightningCLI):
    """One parser for one verb: ``model``, ``data``, ``trainer`` and a few keys of ours."""

    def __init__(self, verb: str, arguments: list[str]) -> None:
        self.verb = verb
        self.stored_classes: list[str] = []
        self.stored_epoch, self.stored_steps = -1, 0
        super().__init__(
            MultiLabelModule,
            mlcl.data.MultiLabelDataModule,
            save_config_callback=None,
            seed_everything_default=0,
            parser_class=Parser,
            parser_kwargs={"prog": f"mlcl {verb}", "description": None},
            subclass_mode_data=True,
            args=arguments,
            run=False,
            auto_configure_optimizers=False,
            load_from_checkpoint_support=False,
        )

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The keys of ours, the defaults that make a short command line work, and the links."""
        parser.add_argument("--ckpt_path", type=str | None, help="a checkpoint, or last: the newest run of this name")
        parser.add_argument("--name", type=str, default="run", help="runs/<name>/version_<n> is the run's folder")
        parser.add_argument("--ema_decay", type=float | None, help="moving average of the weights, e.g. 0.9997")
        parser.add_argument("--test_after_fit", type=bool, default=True, help="test the best checkpoint after training")
        parser.add_argument("--report", type=bool, default=False, help="after a test, write report.html beside it")
        parser.add_argument("--log_images", type=NonNegativeInt, default=24, help="pictures of errors for W&B")
        parser.add_argument("--import", type=str | None, help="a module of yours whose classes a checkpoint may name")
        parser.set_defaults(
            {
                "model.network": {
                    "class_path": "mlcl.network.Network",
                    "init_args": {
                        "backbone": "resnet101.tv_in1k",
                        "head": {"class_path": "mlcl.heads.GlobalPool"},
                    },
                },
                "model.classification_loss": {"class_path": "mlcl.losses.BinaryCrossEntropy"},
                "model.schedule": {"class_path": "mlcl.optim.OneCycle"},
                "model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4}},
                "trainer.max_epochs": 30,
            }
        )
        # Through a look at the data: a wrong path is told before any weights are downloaded.
        parser.link_arguments(
            "data", "model.network.init_args.num_classes", compute_fn=_prepared_classes, apply_on="instantiate"
        )
        parser.link_arguments("data.num_classes", "model.embedding_loss.init_args.num_classes", apply_on="instantiate")
        parser.link_arguments(
            "model.network",
            "model.embedding_loss.init_args.dim",
            compute_fn=lambda network: network.embedding_dim,
            apply_on="instantiate",
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """The checkpoint's own record is the lowest layer: whatever the command line says wins over it."""
        args = command_line.checked(command_line.nulls(args))
        Parser.arguments, self.imports = args, command_line.values(args, "--import")
        self.repeated = [Path(f).parent for flag in ("--config", "-c") for f in command_line.values(args, flag)]
        self.name, self.runs_root, ckpt_path = command_line.early(args, {})
        self.checkpoint = command_line.checkpoint_of(ckpt_path, self.runs_root / self.name)
        layer: dict[str, Any] = {}
        if self.checkpoint is not None:
            content = record.load(self.checkpoint)
            self.stored_classes, self.stored_epoch = content[record.KEY].get("classes", []), content.get("epoch", -1)
            self.stored_steps = content.get("global_step", 0)
            if self.verb != "fit" or not any(a.split("=")[0] in ("-c", "--config") for a in args):
                layer = self._stored_layer(content, self.checkpoint, self.imports)
                self.name = command_line.early(args, layer)[0]
        first = ["--config", yaml.safe_dump(layer, sort_keys=False)] if layer else []
        self.config = parser.parse_args([*first, *args])
        if mistake := misplaced_null(self.config, args):
            parser.error(mistake)
        self.config["name"] = self.name
        self.config["ckpt_path"] = str(self.checkpoint) if self.checkpoint else None
        settings = self.config.trainer
        self.chosen_precision = settings.precision is None and not settings.plugins  # which may hold a precision
        if self.chosen_precision:
            settings.precision = fast_step.precision_for(settings.accelerator)
        if self.verb != "fit":  # the weights are in the checkpoint, whatever a config of the user's says
            network = self.config.model.network.init_args
            network["pretrained"], network["weights"] = False, None
        if self.checkpoint is not None and "config" in content[record.KEY]:
            stored = layer or record.config_of(content, self.checkpoint)
            self._say_overridden(stored, yaml.safe_load(parser.dump(self.config, skip_none=False)))

    def _say_overridden(self, stored: dict[str, Any], final: dict[str, Any]) -> None:
        """Say what differs from the checkpoint; refuse what the optimizer's restored state would silently undo."""
        for key, before, after in record.differences(stored, final):
            if self.verb == "fit" and key.startswith(_FIXED):
                raise MlclError(
                    f"a run is continued as it was: {key} was {before}, now {after}; start a new run instead, with "
                    f"--model.init_from {self.checkpoint}"
                )
            say(f"the command line overrides the checkpoint: {key}: {before} -> {after}")

    def _stored_layer(self, content: dict[str, Any], checkpoint: Path, trusted: tuple[str, ...]) -> dict[str, Any]:
        config = record.config_of(content, checkpoint)
        layer = config if self.verb == "fit" else record.for_evaluation(config)
        record.check_classes(layer, checkpoint, trusted)
        return layer

    def _parse_ckpt_path(self) -> None:
        """Replaced by :meth:`parse_arguments`: Lightning lets the checkpoint win, silently (2.6.6)."""

    def instantiate_trainer(self, **overrides: Any) -> Trainer:
        """The trainer of the verb, once network and data are made; its folder too, and what the run is made from."""
        stored = self.stored_classes
        if stored and list(self.datamodule.classes) != stored:
            raise MlclError(
                f"the checkpoint knows {len(stored)} classes ({', '.join(stored[:3])}, ...), the data has "
                f"{len(self.datamodule.classes)} ({', '.join(self.datamodule.classes[:3])}, ...): give its own dataset"
            )
        config = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        self.model.config = {key: value for key, value in config.items() if key not in ("ckpt_path", "import")}
        self.folder = self._run_folder()
        chosen, training = self.config_init.trainer.logger, self.verb == "fit"
        self.loggers = loggers.make(chosen, config["trainer"]["logger"], self.folder, training)
        with self._in_run_folder():
            if training and is_first():
                runs.describe(self.folder, self.model.config)
            return self._trainer(training, self.checkpoint)

    def execute(self) -> None:
        """Run the verb, and what follows it."""
        if self.verb == "fit":
            config, arguments = self.model.config or {}, Parser.arguments
            signals.advise(partial(runs.how_to_continue, self.folder, config, self.imports, arguments))
        with self._in_run_folder(), loggers.describing(self.trainer.loggers, self.model.config), naming_ranks():
            self._execute()

    def _execute(self) -> None:
        chosen = f" ({self.config.trainer.precision}, as fits the device)" if self.chosen_precision else ""
        say(f"mlcl {self.verb}: {os.path.relpath(self.folder)}{chosen}")
        arguments = {"datamodule": self.datamodule, "weights_only": True, "ckpt_path": self.config.ckpt_path}
        quiet = {} if self.verb == "fit" else {"verbose": False}
        if self.verb == "fit" and 0 < (self.config.trainer.max_epochs or 0) <= self.stored_epoch + 1:
            say(f"the checkpoint is at epoch {self.stored_epoch + 1} of {self.config.trainer.max_epochs}: all is done")
        try:
            getattr(self.trainer, self.verb)(self.model, **arguments, **quiet)
        except RuntimeError as error:
            if "loading state_dict" not in str(error):
                raise
            first = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise MlclError(f"network or loss differ from the checkpoint's: {first[:300]}") from error
        if self.verb == "fit" and self.config.test_after_fit and not self.config.trainer.fast_dev_run:
            self._test_best(arguments)
        if self.config.report and is_first() and (self.folder / "scores.npz").is_file():
            from mlcl.report.page import write  # with matplotlib, which most runs do without

            write(self.folder, data_root=str(self.datamodule.root), imports=self.imports)

    def _test_best(self, arguments: dict[str, Any]) -> None:
        """With a new trainer: in the old one the EMA callback would load the raw weights (lightning 2.6.6)."""
        self.folder = Path(self.trainer.strategy.broadcast(str(self.folder)))
        folder = self.folder / runs.CHECKPOINTS
        written = [folder / name for name in ("best.ckpt", "last.ckpt") if (folder / name).is_file()]
        if not written:
            say("no checkpoint was written, so nothing is tested")
            return
        trainer = self._trainer(False, written[0])
        trainer.test(self.model, **{**arguments, "ckpt_path": str(written[0])}, verbose=False)

    @contextmanager
    def _in_run_folder(self) -> Iterator[None]:
        """Child processes learn where the run lives; one that fails before it, or W&B, wrote anything leaves none."""
        inherited = os.environ.get(_RUN_FOLDER)
        os.environ[_RUN_FOLDER] = str(self.folder)
        try:
            yield
        except BaseException:
            if is_first():
                runs.discard_if_untouched(self.folder)
            raise
        finally:
            if inherited is None:
                del os.environ[_RUN_FOLDER]

    def _trainer(self, training: bool, checkpoint: Path | None) -> Trainer:
        config = dict(self.config_init.trainer)
        extra: list[Any] = []
        if config["enable_progress_bar"] is not False and sys.stderr.isatty():
            extra.append(callbacks.ImageProgressBar())  # before the results, so that the bar ends above their table
        else:
            config["enable_progress_bar"] = False
        extra.append(callbacks.Results(self.folder, str(checkpoint) if checkpoint else None))
        extra.append(callbacks.LoggedResults(self.folder, self.config.log_images, self.imports))
        extra += [callbacks.Interruptible(), callbacks.OneRun(checkpoint)]
        config["enable_checkpointing"] = training and config["enable_checkpointing"] is not False
        if training:
            own = config["callbacks"] or []
            extra += [*(own if isinstance(own, list) else [own]), callbacks.EpochLines()]
            extra.append(callbacks.DataNote(self.folder, [self.folder, *self.repeated]))
            if config["enable_checkpointing"] and not config["fast_dev_run"]:
                extra += callbacks.best_and_last(self.folder / runs.CHECKPOINTS)
            if self.config.ema_decay is not None:
                if not 0 < self.config.ema_decay < 1:
                    raise MlclError(f"--ema_decay is {self.config.ema_decay}, it must lie between 0 and 1")
                extra.append(callbacks.EMA(self.config.ema_decay))
            extra.append(callbacks.Finite(self.folder))  # after EMA, whose average is saved too
        config["logger"] = self.loggers
        if self.loggers and training:
            extra += [LearningRateMonitor("step"), callbacks.GradientNorms()]
        if not training and not isinstance(config["strategy"], str):  # an object serves one trainer only
            config["strategy"] = "ddp" if self.trainer.world_size > 1 else "auto"
        config["default_root_dir"] = str(self.folder)
        config["enable_model_summary"] = config["enable_model_summary"] or False
        return callbacks.prepared(Trainer(**{**config, "callbacks": extra}))

    def _run_folder(self) -> Path:
        if _RUN_FOLDER in os.environ:
            return Path(os.environ[_RUN_FOLDER])
        run = runs.run_of(self.checkpoint) if self.checkpoint else None
        parent = self.runs_root / self.name
        if not is_first():  # started by torchrun or SLURM: the first process makes it and broadcasts it
            return parent / "version_pending"
        if self.verb != "fit":
            return runs.new_folder(run, f"{self.verb}_") if run and os.access(run, os.W_OK) else runs.new_folder(parent)
        if run and self.checkpoint and self.checkpoint.name == "last.ckpt":
            runs.tidy(run, self.stored_steps)
            return run
        return runs.new_folder(parent)


def run(verb: str, arguments: list[str]) -> None:
    """Parse, make and run one verb.

    Raises:
        MlclError: for what the user can mend once the classes are known.
        SystemExit: with status 2 for a wrong command line, 0 after ``--help`` and ``--print_config``.
    """
    for module in command_line.values(arguments, "--import"):
        try:
            import_module(module)
        except ImportError as error:
            raise MlclError(f"--import {module}: {error}") from error
    console.quieten()
    CLI(verb, arguments).execute()


# What lies in the optimizer's restored state: another value on the command line would have no effect, or break it.
_FIXED = ("model.optimizer", "model.schedule", "model.lr_mult", "ema_decay")


def _prepared_classes(data: Any) -> int:
    """K, after a look at whether the data is there (once; Lightning looks again on every node)."""
    if is_first():
        data.prepare_data()
    return int(data.num_classes)
