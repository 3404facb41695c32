"""The parser of fit, validate, test and check: keys, defaults and links between them."""

import inspect
import os
import sys
import traceback
from argparse import ArgumentError
from typing import Any, get_args

from jsonargparse import ArgumentParser, set_dumper
from jsonargparse.typing import NonNegativeInt
from lightning import Trainer

import mlcl.data
import mlcl.heads
import mlcl.losses
from mlcl.cli.command_line import CommandLine
from mlcl.cli.messages import translate
from mlcl.errors import line
from mlcl.module import MultiLabelModule
from mlcl.network import Tta
from mlcl.system import yaml_text
from mlcl.system.console import is_first

_DEFAULTS = {
    "model.network": {
        "class_path": "mlcl.network.Network",
        "init_args": {"backbone": "resnet101.tv_in1k", "head": {"class_path": "mlcl.heads.GlobalPool"}},
    },
    "model.classification_loss": {"class_path": "mlcl.losses.BinaryCrossEntropy"},
    "model.schedule": {"class_path": "mlcl.optim.OneCycle"},
    "model.optimizer": {"class_path": "torch.optim.AdamW", "init_args": {"lr": 1e-4}},
    "trainer.max_epochs": 30,
}
set_dumper("yaml", yaml_text.dump)  # jsonargparse reads again what it writes, too


class Parser(ArgumentParser):
    """Errors in one line, with status 2."""

    command_line: CommandLine | None = None  # the one that is being parsed, for messages

    def error(self, message: str, ex: Exception | None = None) -> Any:
        """Print the translated message and stop; the parsers that jsonargparse makes for classes raise it instead."""
        if self.command_line is None:
            raise ArgumentError(None, message) from ex
        if os.environ.get("MLCL_DEBUG") == "1" and ex is not None:
            traceback.print_exception(ex)
        if os.environ.get("LOCAL_RANK", "0") == "0":
            print(f"mlcl: {line(translate(message, self.command_line))}", file=sys.stderr)
        sys.exit(2)


def make_parser(verb: str) -> Parser:
    """The parser, with the arguments of :class:`MultiLabelModule`, a dataset and Lightning's Trainer."""
    parser = Parser(prog=f"mlcl {verb}", description=None, allow_abbrev=False)
    add = parser.add_argument
    add("-c", "--config", action="config", help="a YAML file; a second one is laid over the first")
    add("--seed_everything", type=bool | int, default=0, help="of weights, order and augmentation; true draws one")
    _read_whole_numbers_first()
    parser.add_class_arguments(Trainer, "trainer", fail_untyped=False, instantiate=False, sub_configs=True)
    parser.add_class_arguments(MultiLabelModule, "model", fail_untyped=False, sub_configs=True)
    parser.add_subclass_arguments(mlcl.data.MultiLabelDataModule, "data", fail_untyped=False, required=True)
    add("--ckpt_path", type=str | None, help="a checkpoint, or last: the newest run of this name")
    add("--name", type=str, default="run", help="runs/<name>/version_<n> is the run's folder")
    add("--ema_decay", type=float | None, help="moving average of the weights, e.g. 0.9997")
    add("--test_after_fit", type=bool, default=True, help="test the best checkpoint after training")
    add("--report", type=bool, default=False, help="after a test, write report.html beside it")
    add("--localise", type=bool, default=False, help="in a test, measure whether attention lies on the objects")
    add("--tta", type=Tta, default="none",
        help="flip: validate, test and predict with the mean logits of a picture and its mirror image")  # fmt: skip
    add("--log_images", type=NonNegativeInt, default=24, help="pictures of errors for W&B")
    add("--import", type=str | None, help="a module of yours whose classes a checkpoint may name")
    parser.set_defaults(_DEFAULTS)
    # The number of classes comes from the data, so that a wrong path is reported before weights are downloaded.
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
    return parser


def _read_whole_numbers_first() -> None:
    """``limit_test_batches: 1`` is one batch, where 1.0 would be all of them.

    Of Optional[Union[int, float]], which Lightning writes, and Optional[Union[float, int]], which scikit-learn does,
    typing keeps the one that comes first for both: imported before Lightning, it would have 1 read as 1.0.
    """
    hints = inspect.unwrap(Trainer.__init__).__annotations__
    hints |= {name: int | float | None for name, hint in hints.items() if get_args(hint)[:2] == (float, int)}


def _prepared_classes(data: Any) -> int:
    if is_first():
        data.prepare_data()
    return int(data.num_classes)
