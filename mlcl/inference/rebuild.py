"""The network and the dataset of a checkpoint, made from its record without a trainer or a command line."""

from pathlib import Path
from typing import Any

from jsonargparse import ArgumentParser

from mlcl.data import MultiLabelDataModule
from mlcl.errors import MlclError, find_cause
from mlcl.network import Network
from mlcl.runs import record, trust


class Rebuilt:
    """A checkpoint whose network and dataset can be made.

    Of the classes that it names, only mlcl's, torch's and those in the modules ``imports`` are used.
    """

    def __init__(self, path: Path, imports: tuple[str, ...] = ()) -> None:
        trust.import_modules(imports)
        self.path = path
        self.content = record.load(path)
        self.config = record.for_evaluation(record.config_of(self.content, path))
        trust.check_classes(self.config, path, imports)
        self.classes: list[str] = self.content[record.KEY]["classes"]

    def network(self) -> Network:
        """The network in eval mode with its trained weights: the averaged ones if there was an EMA."""
        settings = self.config["model"]["network"]
        arguments = {**settings["init_args"], "num_classes": len(self.classes)}
        network: Network = self._make(Network, {**settings, "init_args": arguments})
        stored = self.content["state_dict"].items()
        weights = {name.removeprefix("network."): value for name, value in stored if name.startswith("network.")}
        try:
            network.load_state_dict(weights)
        except RuntimeError as error:
            first = (str(error).splitlines()[1:] or [str(error)])[0].strip()
            raise MlclError(f"{self.path}: the weights do not fit the network that the record names: {first}") from None
        return network.eval()

    def datamodule(self, root: str | None = None, **changes: Any) -> MultiLabelDataModule:
        """The dataset it was trained on, with its splits read; ``root`` and ``changes`` replace its arguments."""
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
