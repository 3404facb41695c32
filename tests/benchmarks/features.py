"""An epoch of a head on a frozen backbone: from cached features against from pictures, in processes of their own.

python tests/benchmarks/features.py [--root DIR with VOCdevkit] [--smoke]
"""

import argparse
import contextlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

import rounds

# backbone, side in pixels, head
CASES = (
    ("resnet101", 448, "SemanticAttention"),
    ("resnet101", 448, "LabelAttention"),
    ("resnet101", 448, "QueryDecoder"),
    ("resnet101", 448, "GlobalPool"),
    ("tf_efficientnet_lite2", 256, "SemanticAttention"),
)
SMOKE = (("test_resnet", 32, "GlobalPool"),)
BATCH, IMAGES, EPOCHS = 32, 600, 5
BATCHES = 4  # of an epoch that is not done to its end: from pictures, and with a head that takes minutes
SLOW = ("LabelAttention", "QueryDecoder")


def run(backbone: str, size: int, head: str, folder: str, root: str | None, images: int, epochs: int) -> dict:
    """Train, with cached features in ``folder`` unless it is empty; what was measured."""
    import torch
    from lightning import Callback, Trainer, seed_everything

    from mlcl import heads
    from mlcl.data import VOC2012, Demo
    from mlcl.module import MultiLabelModule
    from mlcl.network import Network

    class Clock(Callback):
        def __init__(self):
            self.epochs, self.built = [], 0.0

        def on_train_epoch_start(self, *_):
            self.start = time.perf_counter()

        def on_train_batch_end(self, *_):
            self.end = time.perf_counter()

        def on_train_epoch_end(self, *_):
            self.epochs.append(self.end - self.start)

    seed_everything(0)
    settings = {"image_size": size, "batch_size": BATCH, "num_workers": 2, "augment": "none"}
    settings |= {"cache": "features", "cache_dir": folder} if folder else {}
    if root:
        data = VOC2012(root, train_split="trainval", **settings)
    else:
        data = Demo(f"{tempfile.mkdtemp()}/demo", train_images=images, test_images=8, scene_size=size, **settings)
    data.prepare_data()
    torch.manual_seed(0)
    network = Network(backbone, getattr(heads, head)(), data.num_classes, freeze_stages="all")
    clock, module = Clock(), MultiLabelModule(network)
    batches = None if folder and head not in SLOW else BATCHES
    trainer = Trainer(
        max_epochs=epochs, callbacks=[clock], accelerator="cpu", logger=False, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False, limit_val_batches=0, limit_train_batches=batches,
    )  # fmt: skip
    start = time.perf_counter()
    trainer.fit(module, datamodule=data)
    count = min(len(data.splits["train"].paths) // BATCH or 1, batches or images) * BATCH
    whole = time.perf_counter() - start
    return {
        "seconds_per_image": [seconds / count for seconds in clock.epochs],
        "before_the_first_epoch_per_image": (whole - sum(clock.epochs)) / len(data.splits["train"].paths),
        "peak_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured(case: tuple[str, int, str], folder: str, root: str | None, images: int, epochs: int) -> dict:
    """:func:`run` in a process of its own."""
    given = json.dumps([*case, folder, root, images, epochs])
    done = subprocess.run([sys.executable, __file__, "--run", given], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


def compare_seeds(repeats: int, images: int, epochs: int, size: int, backbone: str, seeds: int) -> dict:
    """Wall time of ``--seeds`` beside that of one seed, cache there, in turn; and whether the results are the same."""
    import timm
    import torch

    with tempfile.TemporaryDirectory() as folder:
        weights = f"{folder}/weights.pth"
        torch.save(timm.create_model(backbone, num_classes=0).state_dict(), weights)
        words = [
            *("fit", "--data", "Demo", "--data.root", f"{folder}/demo", "--data.train_images", str(images)),
            *("--data.test_images", "300", "--data.scene_size", str(size), "--data.image_size", str(size)),
            *("--data.augment", "none", "--data.cache", "features", "--data.cache_dir", f"{folder}/cache"),
            *("--model.network.backbone", backbone, "--model.network.weights", weights),
            *("--model.network.freeze_stages", "all", "--model.network.head", "SemanticAttention"),
            *("--trainer.accelerator", "cpu", "--trainer.max_epochs", str(epochs)),
            *("--trainer.default_root_dir", folder),
        ]

        def train(*more: str) -> None:
            done = subprocess.run(
                [sys.executable, "-m", "mlcl", *words, *more], capture_output=True, text=True, check=False
            )
            if done.returncode:
                raise RuntimeError(done.stderr[-2000:])

        seconds = rounds.measure(
            {
                "one seed": lambda: train("--seed_everything", "1", "--name", "one"),
                f"--seeds {seeds}": lambda: train("--seeds", str(seeds), "--name", "many"),
            },
            repeats,
        )
        files = [f"{folder}/runs/{run}/metrics.json" for run in ("one/version_0", "many/version_1")]
        scores = [json.loads(open(file).read())["metrics"]["mAP"] for file in files]
    print(f"wall time, {images} images, {epochs} epochs, SemanticAttention on {backbone} at {size}")
    print(rounds.table(seconds, "one seed", "s"))
    print(f"mAP of seed 1 alone and among the others: {scores}")
    return {"times": rounds.summary(seconds, "one seed"), "mAP": scores}


def main(argv: Sequence[str] | None = None) -> None:
    """Measure every case with and without; a table, and runs/bench-features.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", help="a folder with VOCdevkit/VOC2012; by default pictures are generated")
    parser.add_argument("--only", help="cases whose head or backbone begins so")
    parser.add_argument("--run", help=argparse.SUPPRESS)
    parser.add_argument("--smoke", action="store_true", help="one tiny case: only to see that it works")
    options = parser.parse_args(argv)
    if options.run:
        print(json.dumps(run(*json.loads(options.run))))
        return
    cases, images, epochs = (SMOKE, 40, 1) if options.smoke else (CASES, IMAGES, EPOCHS)
    report: dict[str, dict] = {}
    folders: dict[str, str] = {}  # of the caches, by backbone: only the first of its heads waits for one
    at_once: dict[str, dict] = {}
    stack = contextlib.ExitStack()
    print(f"{'':44} pictures s  cached s  faster (each epoch)      caching / epoch   peak MB")
    for case in cases:
        if options.only and not any(part.startswith(options.only) for part in (case[0], case[2])):
            continue
        plain = measured(case, "", options.root, images, 2 if epochs > 1 else 1)
        if case[0] not in folders:
            folders[case[0]] = stack.enter_context(tempfile.TemporaryDirectory())
            at_once[case[0]] = measured(case, folders[case[0]], options.root, images, 1)
        cached, built = measured(case, folders[case[0]], options.root, images, epochs), at_once[case[0]]
        slow, fast = (statistics.median(one["seconds_per_image"]) for one in (plain, cached))
        building = built["before_the_first_epoch_per_image"] - cached["before_the_first_epoch_per_image"]
        ratios = sorted(slow / each for each in cached["seconds_per_image"])
        name = f"{case[2]} on {case[0]} at {case[1]}"
        report[name] = {"pictures": plain, "building": built, "cached": cached, "times_as_fast": slow / fast}
        faster, peaks = f"{slow / fast:.0f} ({ratios[0]:.0f} to {ratios[-1]:.0f})", (plain, built, cached)
        memory = ", ".join(f"{one['peak_MB']:.0f}" for one in peaks)
        print(f"{name:44} {slow * images:10.2f} {fast * images:9.3f}  {faster:18}{building / slow:14.2f}   {memory}")
    stack.close()
    small = (1, 40, 1, 32, "test_resnet", 2)
    many = compare_seeds(*(small if options.smoke else (5, 1697, 10, 256, "tf_efficientnet_lite2", 5)))
    rounds.save("features", {"epochs": report, "seeds": many}, options.smoke)


if __name__ == "__main__":
    main()
