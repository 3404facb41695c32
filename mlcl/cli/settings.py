"""From a command line to the settings of a run: the checkpoint's own, then the config files, then the flags."""

import copy
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser, Namespace

from mlcl.callbacks import fast_step
from mlcl.cli.command_line import CommandLine
from mlcl.cli.messages import misplaced_null
from mlcl.cli.parser import Parser, make_parser
from mlcl.data import MultiLabelDataModule
from mlcl.errors import MlclError
from mlcl.runs import record, trust
from mlcl.system import yaml_text
from mlcl.system.console import say
from mlcl.system.files import from_home

_QUERIES = "model.network.head.queries"
# Restored with the optimizer's state, so that another value on the command line would have no effect, or break it; or
# the weights were trained for it.
_FIXED = (
    *("model.optimizer", "model.schedule", "model.lr_mult", "ema_decay", "model.classification_loss.pos_weight"),
    *("model.network.feature_norm", "model.network.head.average", _QUERIES),
)
_NOWHERE = "a store that the command line has to name"
_NOT_ZERO = {
    "fit": ("limit_train_batches", "max_epochs", "max_steps"),
    **{"validate": ("limit_val_batches",), "test": ("limit_test_batches",)},
}


@dataclass
class Settings:
    """A parsed command line, and what is known of the checkpoint it names."""

    verb: str
    command_line: CommandLine
    parser: Parser
    config: Namespace
    name: str
    checkpoint: Path | None
    chosen_precision: bool  # by us, since the user gave none
    stored_classes: list[str]  # in the checkpoint; these three are empty, -1 and 0 without one
    stored_epoch: int
    stored_steps: int

    def as_dict(self) -> dict[str, Any]:
        """The whole configuration as plain values, class paths and arguments."""
        dumped = self.parser.dump(self.config, skip_none=False, skip_validation=True)  # as parsed, so valid
        plain: dict[str, Any] = yaml_text.read(dumped, "the settings")
        return plain


def parse(verb: str, arguments: list[str]) -> Settings:
    """Parse a command line of fit, validate, test, check or pack."""
    line = CommandLine(arguments)
    trust.import_modules(line.imports)
    checkpoint, stored, layer = line.checkpoint, {}, {}
    if checkpoint is not None:
        stored = record.load(checkpoint)
        if verb != "fit" or not line.configs:  # else the config files are the whole configuration
            whole = record.config_of(stored, checkpoint)
            layer = whole if verb == "fit" else record.for_evaluation(whole, stored["state_dict"])
            trust.check_classes(layer, checkpoint, line.imports)
        if verb == "fit" and "optimizer_states" not in stored:
            raise MlclError(f"--ckpt_path {checkpoint} holds weights only: start from them with --model.init_from")
    parser = make_parser(verb)
    parser.command_line = line
    known_layer = copy.deepcopy(layer)
    if place := trust.store_of(layer):
        known_layer["data"]["init_args"]["root"] = _NOWHERE
    stored_words = [f"--config={yaml_text.dump(known_layer)}"] if layer else []
    config = parser.parse_args([*stored_words, *line.parsed])
    if place and checkpoint and config.data.init_args.get("root") == _NOWHERE:
        trust.check_place(layer, checkpoint)
    if mistake := misplaced_null(config, line.arguments):
        parser.error(mistake)
    _expand(config)
    for name in _NOT_ZERO.get(verb, ()):
        if config.trainer[name] == 0:
            done = "trained" if verb == "fit" else "evaluated"
            raise MlclError(f"--trainer.{name} is {config.trainer[name]}: nothing would be {done}")
    known = stored.get(record.KEY, {})
    settings = Settings(
        verb=verb,
        command_line=line,
        parser=parser,
        config=config,
        name=line.name(layer.get("name")),
        checkpoint=checkpoint,
        chosen_precision=config.trainer.precision is None and not config.trainer.plugins,  # a plugin may set one
        stored_classes=known.get("classes", []),
        stored_epoch=stored.get("epoch", -1),
        stored_steps=stored.get("global_step", 0),
    )
    config["name"], config["ckpt_path"] = settings.name, str(checkpoint) if checkpoint else None
    if settings.chosen_precision:
        config.trainer.precision = fast_step.precision_for(config.trainer.accelerator)
    head = config.get("model.network.init_args.head.init_args") or {}
    if verb != "fit":  # the weights are in the checkpoint
        network = config.model.network.init_args
        network["pretrained"], network["weights"] = False, None
        if "queries" in head and (width := record.query_width(stored.get("state_dict", {}))) is not None:
            head["queries"] = width
    elif isinstance(head.get("queries"), int):
        raise MlclError(f"--{_QUERIES} {head['queries']}: a training needs the file of the vectors, or null")
    if checkpoint is not None and "config" in known:
        _report_overridden(settings, layer or record.config_of(stored, checkpoint))
    return settings


def dataset(verb: str, arguments: list[str]) -> MultiLabelDataModule:
    """The dataset of a command line of check or pack."""
    parsed = parse(verb, arguments).config.data
    parser = ArgumentParser(exit_on_error=False)  # of the dataset alone: the one of fit would also make the network
    parser.add_subclass_arguments(MultiLabelDataModule, "data", required=True)
    data: MultiLabelDataModule = parser.instantiate_classes(parser.parse_object({"data": parsed})).data
    return data


def _expand(settings: Namespace | dict[str, Any]) -> None:
    """Put the home folder in place of each ``~/`` that begins a text, but not in a list of names."""
    for key, value in list(settings.items()):
        if isinstance(value, str):
            settings[key] = from_home(value)
        for part in value if isinstance(value, list) else [value]:
            if isinstance(part, Namespace | dict):
                _expand(part)


def _report_overridden(settings: Settings, stored: dict[str, Any]) -> None:
    """Name what differs from the checkpoint; refuse what would be undone by the optimizer's restored state."""
    for key, before, after in record.differences(stored, settings.as_dict()):
        if settings.verb == "fit" and key.startswith(_FIXED):
            value = json.dumps(before, ensure_ascii=False).strip('"')
            keep = f"give --{key} {value}, or " if key.startswith("model.network") else ""
            raise MlclError(
                f"a run is continued as it was: {key} was {before}, now {after}; {keep}start a new run, with "
                f"--model.init_from {settings.checkpoint}"
            )
        say(f"the command line overrides the checkpoint: {key}: {before} -> {after}")
