"""The network and the dataset of a checkpoint, made from its record without a trainer or a command line."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import torch
from jsonargparse import ArgumentParser
from torch.overrides import TorchFunctionMode

from mlcl.errors import MlclError, find_cause
from mlcl.network import Network, Tta
from mlcl.runs import record, trust
from mlcl.system.console import say

if TYPE_CHECKING:
    from mlcl.data import MultiLabelDataModule


class _NoRandomNumbers(TorchFunctionMode):
    """Leaves new weights as they are in memory: the checkpoint's take their place."""

    _FILLS = (torch.Tensor.uniform_, torch.Tensor.normal_, torch.Tensor.erfinv_)

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return args[0] if function in self._FILLS else function(*args, **(kwargs or {}))


class Rebuilt:
    """A checkpoint whose network and dataset can be made.

    Of the classes that it names, only mlcl's, torch's and those in the modules ``imports`` are used.
    """

    def __init__(self, path: Path, imports: tuple[str, ...] = ()) -> None:
        trust.import_modules(imports)
        self.path = path
        self.content = record.load(path)
        self.config = record.for_evaluation(record.config_of(self.content, path), self.content["state_dict"])
        trust.check_classes(self.config, path, imports)
        self.classes: list[str] = self.content[record.KEY]["classes"]

    def network(self) -> Network:
        """The network in eval mode with its trained weights: the averaged ones if there was an EMA."""
        settings = self.config["model"]["network"]
        arguments = {**settings["init_args"], "num_classes": len(self.classes)}
        with torch.no_grad(), _NoRandomNumbers():
            network: Network = self._make(Network, {**settings, "init_args": arguments})
        stored = self.content["state_dict"].items()
        own = network.state_dict()
        weights = {name.removeprefix("network."): value for name, value in stored if name.startswith("network.")}
        typed = {name: value.to(own[name].dtype) if name in own else value for name, value in weights.items()}
        tied = len([*network.named_parameters(remove_duplicate=False)]) > len([*network.parameters()])
        try:
            network.load_state_dict(typed, assign=not tied)  # the mapped file itself becomes the weights
        except RuntimeError as error:
            first = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            raise MlclError(f"{self.path}: the weights do not fit the network that the record names: {first}") from None
        network.backbone.to(memory_format=network.memory_format)
        network.tta = self.config.get("tta", "none")
        if network.tta not in get_args(Tta):
            raise MlclError(f"{self.path} was made with tta {network.tta!r}, which this mlcl does not know; update it")
        return network.eval()

    def datamodule(self, root: str | None = None, **changes: Any) -> "MultiLabelDataModule":
        """The dataset it was trained on, with its splits read; ``root`` and ``changes`` replace its arguments.

        Raises an MlclError if it lies in a store and ``root`` does not name one: the checkpoint must not choose it.
        """
        from mlcl.data import MultiLabelDataModule  # brings Lightning, which the network does not need

        if root is None:
            trust.check_place(self.config, self.path)
        settings = self.config["data"]
        arguments = {**settings.get("init_args", {}), **({"root": root} if root is not None else {}), **changes}
        data: MultiLabelDataModule = self._make(MultiLabelDataModule, {**settings, "init_args": arguments})
        if list(data.classes) != self.classes:
            raise MlclError(f"the classes of the data at {data.root} are not those of {self.path}: check --data.root")
        data.read_splits()
        return data

    def _make(self, kind: type, settings: dict[str, Any]) -> Any:
        parser = ArgumentParser(exit_on_error=False)
        parser.add_subclass_arguments(kind, "part", required=True)
        try:
            return parser.instantiate_classes(parser.parse_object({"part": settings}))["part"]
        except MlclError:
            raise
        except Exception as error:  # jsonargparse wraps what a constructor raises in several ways
            reason = find_cause(error, MlclError) or error
            raise MlclError(f"{self.path}: {' '.join(str(reason).split())[:400]}") from error


def use_tta(network: Network, given: Tta | None) -> None:
    """Let ``--tta``, if given, override what the checkpoint says, and say so."""
    if given not in (None, network.tta):
        say(f"the command line overrides the checkpoint: tta: {network.tta} -> {given}")
        network.tta = given
