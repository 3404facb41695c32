"""What ``--localise`` adds to a test: the demo's small network, and a ResNet-50, on generated scenes.

make bench
python tests/benchmarks/localise.py [--smoke]

The map of where the objects lie is there already, as in every test but a dataset's first.
"""

import argparse
import os
import tempfile
import warnings
from functools import partial
from pathlib import Path

import rounds
import torch
from lightning import Trainer

from mlcl import callbacks
from mlcl.data import Demo
from mlcl.heads import SemanticAttention
from mlcl.module import MultiLabelModule
from mlcl.network import Network
from mlcl.system import console

CASES = {"test_resnet": (96, 600), "resnet50": (224, 48)}  # side in pixels, images


def test_once(module: MultiLabelModule, data: Demo, localise: bool, folder: Path) -> None:
    """As ``mlcl test`` does, with or without."""
    found = callbacks.Localise() if localise else None
    results = callbacks.Results(folder, None, found)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "accelerator": "cpu"}
    trainer = Trainer(default_root_dir=folder, callbacks=[results, *([found] if found else [])], **quiet)
    trainer.test(module, datamodule=data, verbose=False)


def main() -> None:
    """Measure in turn, print ratios."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="as small as possible, to see that it runs")
    smoke = parser.parse_args().smoke
    console.quieten()
    warnings.simplefilter("ignore")
    report = {}
    with tempfile.TemporaryDirectory() as place:
        os.environ["XDG_CACHE_HOME"] = place
        for backbone, (side, images) in ({"test_resnet": (48, 8)} if smoke else CASES).items():
            torch.manual_seed(0)
            root = Path(place, f"scenes{images}")
            data = Demo(str(root), train_images=8, test_images=images, image_size=side, num_workers=0)
            data.prepare_data()
            data.setup()
            module = MultiLabelModule(Network(backbone, SemanticAttention(), 12))
            steps = {
                name: partial(test_once, module, data, localise, Path(place))
                for name, localise in (("test", False), ("test --localise", True))
            }
            with open(os.devnull, "w") as nowhere:
                own, twin = os.dup(1), nowhere.fileno()
                os.dup2(twin, 1)  # the tables of the results
                seconds = rounds.measure(steps, 1 if smoke else 7)
                os.dup2(own, 1)
            print(f"{backbone}, {side} pixels, {images} images", flush=True)
            print(rounds.table(seconds, "test", per=images), flush=True)
            report[backbone] = rounds.summary(seconds, "test")
    rounds.save("localise", report, smoke)


if __name__ == "__main__":
    main()
