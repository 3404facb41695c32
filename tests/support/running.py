"""The command line in processes of its own, and flags and data small enough for a test."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]


@dataclass
class Outcome:
    """What a command line did."""

    status: int
    out: str
    err: str


def run_process(*arguments: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run ``python -m mlcl`` as a user would, in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "mlcl", *map(str, arguments)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


def tiny_data(kind: str, folder: Path) -> list[str]:
    """Write a tiny dataset of this class in its real layout; returns the flags that point to it."""
    from support.photo_lists import write_nuswide, write_vg500
    from support.trees import write_coco, write_voc

    from mlcl.data.coco import COCO_CLASSES

    kind = kind.rpartition(".")[2]
    if kind == "Demo":
        flags = {"root": folder, "train_images": 16, "test_images": 6, "scene_size": 48}
    elif kind == "COCO2014":
        categories = {i + 1: name for i, name in enumerate(COCO_CLASSES)}
        images = {i: [1 + i % 3, 5] for i in range(1, 9)}
        write_coco(folder, categories, images, images)
        flags = {"root": folder}
    elif kind == "NUSWIDE":
        photos = [f"sky/{i:04d}_{i}.jpg" for i in range(16)]
        labels = [["clouds", "sky"] if i % 2 else ["dog"] for i in range(8)]
        write_nuswide(folder, *(dict(zip(part, labels, strict=True)) for part in (photos[:8], photos[8:])))
        flags = {"root": folder}
    elif kind == "VG500":
        folder.mkdir(parents=True, exist_ok=True)
        write_vg500(folder, *({f"{n}{i}.jpg": [i % 3, 499] if i % 2 else [i] for i in range(8)} for n in (1, 2)))
        flags = {"root": folder}
    else:
        sets = {"VOC2007": ("trainval", "test"), "VOC2012": ("train", "val")}[kind]
        lists = {
            name: {f"{name}_{i}": {"cat": 1 if i % 2 else -1, "dog": (-1, 0, 1)[i % 3]} for i in range(8)}
            for name in sets
        }
        write_voc(folder, lists, year=kind.removeprefix("VOC"))
        flags = {"root": folder}
    return [part for name, value in flags.items() for part in (f"--data.{name}", str(value))]


def one_epoch_of(name: str, root: str | Path) -> tuple[list[str], list[str]]:
    """Flags of a config (its name) on data in a folder; and those with which one epoch of it is small enough."""
    data = [
        "--config",
        str(REPOSITORY / "configs" / f"{name}.yaml"),
        "--data.root",
        str(root),
        "--data.num_workers",
        "0",
    ]
    small = ["--data.image_size", "32", "--data.batch_size", "4", "--trainer.max_epochs", "1", "--trainer.accelerator"]
    return data, [*small, "cpu", "--model.network.backbone", "test_resnet", "--model.network.pretrained", "false"]


def demo_flags(demo_root: Path) -> list[str]:
    """Flags that make the demo config small enough for a test."""
    return [
        *("--config", str(REPOSITORY / "configs" / "demo.yaml"), "--data.root", str(demo_root)),
        *("--data.train_images", "80", "--data.test_images", "25", "--data.scene_size", "64"),
        *("--data.image_size", "48", "--data.batch_size", "16", "--data.num_workers", "0"),
        *("--trainer.max_epochs", "2"),
    ]


def at_once(lines: Sequence[Sequence[str]], cwd: Path) -> list[Outcome]:
    """Run command lines in one process in which torch, numpy and jsonargparse cannot be imported."""
    script = (
        "import contextlib, io, json, sys\n"
        "for name in ('torch', 'numpy', 'yaml', 'jsonargparse', 'lightning'): sys.modules[name] = None\n"
        "from mlcl.__main__ import main\n"
        "for line in json.load(sys.stdin):\n"
        "    out, err = io.StringIO(), io.StringIO()\n"
        "    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err): status = main(line)\n"
        "    print(json.dumps([status, out.getvalue(), err.getvalue()]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], input=json.dumps(lines), capture_output=True, text=True, check=False, cwd=cwd
    )
    assert done.returncode == 0, done.stderr
    return [Outcome(*json.loads(answer)) for answer in done.stdout.splitlines()]
