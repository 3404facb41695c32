"""Reading a W&B run that was made offline: its one file holds records of wandb's protobuf in LevelDB's log framing."""

import json
import struct
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_BLOCK, _HEADER, _START = 32 * 1024, 7, 7  # LevelDB's log format; W&B puts seven bytes of its own before it
_FULL, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4


@dataclass
class WandbRun:
    """What was recorded."""

    folder: Path
    id: str = ""
    name: str = ""
    group: str = ""
    project: str = ""
    config: dict[str, Any] = field(default_factory=dict)
    configured: int = 0  # how often keys of the config were sent
    history: list[dict[str, Any]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)  # of define_metric
    artifacts: list[Any] = field(default_factory=list)
    exit_code: int | None = None
    kinds: list[str] = field(default_factory=list)

    def table(self, key: str) -> tuple[list[str], list[list[Any]]]:
        """Columns and rows of a table in the summary."""
        content = json.loads((self.folder / "files" / self.summary[key]["path"]).read_text())
        return content["columns"], content["data"]


def read_run(folder: Path) -> WandbRun:
    """The run in an ``offline-run-*`` folder."""
    import wandb
    from wandb.proto import wandb_internal_pb2 as proto

    wandb.teardown()  # a process of W&B's writes the file: whole when that has ended
    (file,) = folder.glob("run-*.wandb")
    run = WandbRun(folder)
    for data in _records(file.read_bytes()):
        record = proto.Record()
        record.ParseFromString(data)
        kind = record.WhichOneof("record_type")
        run.kinds.append(kind)
        if kind == "run":
            run.id, run.name = record.run.run_id, record.run.display_name
            run.group, run.project = record.run.run_group, record.run.project
            _update(run, record.run.config.update)
        elif kind == "config":
            _update(run, record.config.update)
        elif kind == "history":
            run.history.append({_key(item): json.loads(item.value_json) for item in record.history.item})
        elif kind == "summary":
            run.summary |= _nested(record.summary.update)
        elif kind == "metric":
            run.metrics[record.metric.name or record.metric.glob_name] = record.metric
        elif kind == "artifact":
            run.artifacts.append(record.artifact)
        elif kind == "exit":
            run.exit_code = record.exit.exit_code
    return run


def _records(data: bytes) -> list[bytes]:
    records, part, place = [], b"", _START
    while place + _HEADER <= len(data):
        left = _BLOCK - place % _BLOCK
        if left < _HEADER:  # the end of a block is padded
            place += left
            continue
        _, length, kind = struct.unpack("<IHB", data[place : place + _HEADER])
        piece = data[place + _HEADER : place + _HEADER + length]
        place += _HEADER + length
        part = piece if kind in (_FULL, _FIRST) else part + piece
        if kind in (_FULL, _LAST):
            records.append(part)
    return records


def _key(item: Any) -> str:
    return item.key or ".".join(item.nested_key)


def _update(run: WandbRun, items: Any) -> None:
    sent = _nested(items)
    sent.pop("_wandb", None)
    run.configured += bool(sent)
    run.config |= sent


def _nested(items: Any) -> dict[str, Any]:
    """Keys of several parts as dicts in dicts."""
    result: dict[str, Any] = {}
    for item in items:
        *above, last = [item.key] if item.key else list(item.nested_key)
        place = result
        for name in above:
            place = place.setdefault(name, {})
        place[last] = json.loads(item.value_json)
    return result
