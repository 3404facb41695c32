"""What the rules for unknown labels are worth: one positive label per image, against all labels (docs/methods.md).

python tests/real/missing.py voc2012|coco --root DIR --weights FILE     EfficientNet-lite2's weights; half an hour

Trains a head on frozen features with each rule and several seeds (a seed also chooses which labels stay), and compares
them; runs that are there are kept. --select holds a fifth of the training images out and takes seeds from 10 on.
"""

import argparse
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RULES = ("ignore", "negative", "weak_negative", "entropy", "large_loss", "large_loss_temporary", "large_loss_permanent")


def main() -> None:
    """Train and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=("voc2012", "coco"))
    parser.add_argument("--root", required=True, help="of the dataset")
    parser.add_argument("--weights", required=True, help="of tf_efficientnet_lite2, for timm")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--only", nargs="+", default=["full", *RULES], help="full, or rules")
    parser.add_argument("--weight", help="model.unknown_weight of all of them")
    parser.add_argument("--select", action="store_true")
    options = parser.parse_args()
    base = ["fit", "--config", f"{CONFIGS}/{options.data}.yaml", "--config", f"{CONFIGS}/methods/frozen.yaml"]
    base += f"--data.root {options.root} --data.image_size 256 --trainer.accelerator cpu".split()
    base += f"--model.network.backbone tf_efficientnet_lite2 --model.network.weights {options.weights}".split()
    base += "--model.network.pretrained false --model.classification_loss BinaryCrossEntropy".split()
    # One validation, at the end: nothing is selected by it.
    base += f"--trainer.max_epochs {options.epochs} --trainer.check_val_every_n_epoch {options.epochs}".split()
    first = 10 if options.select else 0
    base += ["--seeds", str([*range(first, first + options.seeds)])]
    base += ["--data.val_fraction", "0.2", "--test_after_fit", "false"] if options.select else []
    runs = []
    for rule in options.only:
        own = [] if rule == "full" else ["--data.single_positive", "true", "--model.unknown", rule]
        own += ["--model.unknown_weight", options.weight] if options.weight else []
        name = f"{options.data}_{rule}" + f"_{options.weight}" * bool(options.weight) + "_selected" * options.select
        if not Path("runs", name).is_dir():
            subprocess.run([sys.executable, "-m", "mlcl", *base, *own, "--name", name], check=True)
        runs.append(f"runs/{name}")
    if not options.select and len(runs) > 1:
        subprocess.run([sys.executable, "-m", "mlcl", "compare", *runs], check=True)


if __name__ == "__main__":
    main()
