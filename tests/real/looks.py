"""Which heads and losses look at their objects: the tables of docs/results.md.

python tests/real/looks.py demo [--seeds 5]                     hours on two CPU cores
python tests/real/looks.py coco --root DIR --weights FILE       EfficientNet-lite2's weights; two hours

Trains every head with binary cross-entropy, then continues some of them with and without contrastive losses, each with
``--localise true``; runs that are there are kept. ``mlcl compare`` then prints the tables.
"""

import argparse
import subprocess
import sys
from pathlib import Path

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
HEADS = ("GlobalPool", "CSRA", "SemanticAttention", "QueryDecoder", "LabelAttention")
SECOND = ("SemanticAttention", "QueryDecoder")
LOSSES = {
    "control": "",
    "mulcon": "--model.embedding_loss LabelContrastiveLoss --model.embedding_loss.temperature 0.2 "
    "--model.embedding_loss.projection 128 --model.embedding_loss.confidence 0.8 --model.embedding_weight 0.5",
    "sadcl": "--model.embedding_loss DualContrastiveLoss --model.embedding_loss.label_weight 0.1 "
    "--model.embedding_loss.prototype_weight 0.05 --model.embedding_loss.projection 1024 --model.embedding_loss.bank 8",
}
# Fixed before the test images were looked at. One validation, at the end, so that nothing is selected by it.
OF_HEADS = {
    "demo": {"SemanticAttention": "dim 128", "QueryDecoder": "dim 128", "LabelAttention": "dim 128"},
    "coco": {
        "CSRA": "lam 0.4",
        "SemanticAttention": "dim 512",
        "QueryDecoder": "dim 256",
        "LabelAttention": "dim 256 token_blocks 0",
    },
}
RATES = {"GlobalPool": "8e-3", "CSRA": "8e-3", "SemanticAttention": "2e-3"}  # of the frozen features; others 5e-4


def run(name: str, seed: int, *flags: str) -> None:
    """One training, unless it is there."""
    if not Path("runs", name, f"version_{seed - 1}", "localisation.npz").is_file():
        line = ["fit", *flags, "--name", name, "--seed_everything", str(seed), "--localise", "true"]
        subprocess.run([sys.executable, "-m", "mlcl", *line], check=True)


def main() -> None:
    """Train, seed by seed, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=OF_HEADS)
    parser.add_argument("--root", help="of COCO's folders")
    parser.add_argument("--weights", help="of tf_efficientnet_lite2, for timm")
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    if options.data == "demo":
        base = f"--config {CONFIGS}/demo.yaml --trainer.max_epochs 8".split()
        base += ["--model.network.backbone_kwargs", "{output_stride: 16}"]
        frozen = "--model.network.freeze_stages all --data.cache features --data.views_cached 2".split()
        first, second = base, ["--trainer.max_epochs", "4", "--model.lr_mult", "{head: 0.2}", *frozen]
    else:
        base = f"--config {CONFIGS}/coco.yaml --config {CONFIGS}/methods/frozen.yaml --data.root {options.root}".split()
        base += f"--data.image_size 256 --model.network.weights {options.weights} --trainer.accelerator cpu".split()
        base += "--model.network.backbone tf_efficientnet_lite2 --model.network.pretrained false".split()
        base += ["--model.network.backbone_kwargs", "{pretrained_cfg_overlay: {mean: [.5, .5, .5], std: [.5, .5, .5]}}"]
        base += ["--model.classification_loss", "BinaryCrossEntropy"]
        first = [*base, *"--trainer.max_epochs 30 --trainer.check_val_every_n_epoch 30".split()]
        second = "--trainer.max_epochs 15 --trainer.check_val_every_n_epoch 15 --data.batch_size 32".split()
        second += ["--model.lr_mult", "{head: 0.2}"]
    for seed in range(1, options.seeds + 1):
        for head in HEADS:
            words = OF_HEADS[options.data].get(head, "").split()
            own = ["--model.network.head", head]
            for key, value in zip(words[::2], words[1::2], strict=True):
                own += [f"--model.network.head.{key}", value]
            own += ["--model.optimizer.lr", RATES.get(head, "5e-4")] if options.data == "coco" else []
            run(f"{options.data}_{head}", seed, *first, *own)
            for loss, flags in LOSSES.items() if head in SECOND else ():
                start = f"runs/{options.data}_{head}/version_{seed - 1}"
                more = ["--model.embedding_ramp", "1", *flags.split()] if flags else []
                name = f"{options.data}_{head}_{loss}"
                run(name, seed, *base, *second, *own, *more, "--model.init_from", start)
    for names in ([*HEADS], *([f"{head}_{loss}" for loss in LOSSES] for head in SECOND)):
        runs = [f"runs/{options.data}_{name}" for name in names]
        subprocess.run([sys.executable, "-m", "mlcl", "compare", *runs], check=True)


if __name__ == "__main__":
    main()
