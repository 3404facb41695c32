"""Checkpoints that differ from a trained one in what a test is about."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

from mlcl.runs import folders, record


def altered(run: Path, target: Path, change: Callable[[dict[str, Any], dict[str, Any]], object]) -> Path:
    """Write a run's best checkpoint again, after ``change(content, config)``, where config is the one in its record."""
    content = record.load(folders.best_checkpoint(run))
    config = yaml.safe_load(content[record.KEY]["config"])
    change(content, config)
    content[record.KEY]["config"] = yaml.safe_dump(config)
    torch.save(content, target)
    return target
