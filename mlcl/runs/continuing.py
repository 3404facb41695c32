"""How a training that was stopped goes on."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlcl.errors import MlclError
from mlcl.runs import folders, record, trust


def how_to_continue(folder: Path, config: dict[str, Any], imports: Sequence[str], arguments: Sequence[str]) -> str:
    """The end of a stopped training's message: what is saved, and the command that continues it."""
    last = folder / folders.CHECKPOINTS / "last.ckpt"
    if not last.is_file():
        return " before the end of the first epoch: there is nothing to continue from, start again"
    try:
        trust.check_classes(config, last, tuple(imports))
        command = [part for module in imports for part in ("--import", module)]
        command += ["--data.root", store] if (store := trust.store_of(config)) else []
    except MlclError:  # a checkpoint may not name the user's own classes, but the config files given again may
        command = [*arguments]
        while "--ckpt_path" in command:
            place = command.index("--ckpt_path")
            del command[place : place + 2]
        command = [argument for argument in command if not argument.startswith("--ckpt_path=")]
    line = shlex.join(["mlcl", "fit", *command, "--ckpt_path", os.path.relpath(last)])
    return f"; epoch {record.load(last)['epoch'] + 1} is saved, continue with: {line}"
