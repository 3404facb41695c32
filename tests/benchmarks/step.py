"""One training step on the CPU: layout, precision and optimizer, against the usual research code in the same run.

Also the share of a step that the making of splices (``data.splicemix``) adds.

python tests/benchmarks/step.py [--full] [--smoke]
"""

import argparse
import contextlib
import copy
import itertools
import statistics
from collections.abc import Callable, Sequence
from functools import partial

import plain
import rounds
import torch
from torch import Tensor
from torch.optim import AdamW
from torch.profiler import ProfilerActivity, profile

from mlcl.data.splice import draw, splice
from mlcl.heads import SemanticAttention
from mlcl.losses import LabelContrastiveLoss
from mlcl.module import MultiLabelModule
from mlcl.network import Network
from mlcl.optim import make_optimizer

K, DIM, LR, TOP = 80, 512, 1e-5, 8
SPLICED, SPLICES = 32, 0.25  # images of a step of which splices are made, and their share
RESEARCH = "usual research code"
DEFAULT = "mlcl, channels last, fused (default)"
# name: memory format, autocast to bfloat16, fused optimizer
VARIANTS = {
    "mlcl, NCHW, not fused": (torch.contiguous_format, False, False),
    "mlcl, channels last, not fused": (torch.channels_last, False, False),
    DEFAULT: (torch.channels_last, False, True),
    "mlcl, NCHW, fused, bf16": (torch.contiguous_format, True, True),
    "mlcl, channels last, fused, bf16": (torch.channels_last, True, True),
}

# What a benchmark is of: backbone, side in pixels, images, repeats.
SIZES = {"small": ("test_resnet", 96, 32, 7), "ResNet-101": ("resnet101", 448, 2, 3)}
FULL = {"small": ("test_resnet", 96, 32, 21), "ResNet-101": ("resnet101", 448, 4, 7)}
SMOKE = {"small": ("test_resnet", 32, 2, 1)}


def research_step(network: Network, batch: dict[str, Tensor]) -> Callable[[], Tensor]:
    """NCHW, fp32, images normalised as floats on the CPU, the loss over all pairs, plain AdamW."""
    head = plain.ClassAttention(network.backbone.num_features, K, DIM)
    head.load_state_dict(network.head.state_dict())
    model = plain.Research(copy.deepcopy(network.backbone).to(memory_format=torch.contiguous_format), head).train()
    optimizer = AdamW(model.parameters(), lr=LR)
    mean, std = network.mean.clone(), network.std.clone()

    def step() -> Tensor:
        image = (batch["image"].float() / 255 - mean) / std
        loss = model(image, batch["target"])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def our_step(
    network: Network, batch: dict[str, Tensor], layout: torch.memory_format, bf16: bool, fused: bool
) -> Callable[[], Tensor]:
    """The module's own losses and optimizer, as the trainer calls them."""
    network = copy.deepcopy(network).to(memory_format=layout)
    network.memory_format = layout
    module = MultiLabelModule(network, embedding_loss=LabelContrastiveLoss()).train()
    optimizer = make_optimizer(module, partial(AdamW, lr=LR, fused=fused), {})

    def step() -> Tensor:
        with torch.autocast("cpu", torch.bfloat16) if bf16 else contextlib.nullcontext():
            loss = module.losses(batch)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return step


def splicing(side: int) -> Callable[[], object]:
    """Plan and make the splices of a step of ``SPLICED`` images, of another epoch in each call."""
    batch = {
        "image": torch.randint(0, 256, (SPLICED, side, side, 3), dtype=torch.uint8).movedim(
            -1, 1
        ),  # as they are collated
        "target": torch.from_numpy(plain.coco_like(SPLICED, K)).to(torch.int8),
        "index": torch.arange(SPLICED),
    }
    epochs = itertools.count()

    def step() -> object:
        plans = draw(batch["index"], SPLICES, 0, next(epochs))
        return splice(batch, plans) if plans else batch

    return step


def top_operators(step: Callable[[], object]) -> list[tuple[str, float]]:
    """Where the time of a step goes: operators by their own time, as shares of all."""
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        step()
    rows = sorted(profiler.key_averages(), key=lambda row: -row.self_cpu_time_total)
    whole = sum(row.self_cpu_time_total for row in rows)
    return [(row.key, row.self_cpu_time_total / whole) for row in rows[:TOP]]


def compare(backbone: str, side: int, images: int, repeats: int) -> dict:
    """Every variant in turn; the first losses must be those of the research code."""
    torch.manual_seed(0)
    network = Network(backbone, SemanticAttention(DIM, average=0.0), K, feature_norm=False)  # what the code compares
    batch = {
        "image": torch.randint(0, 256, (images, 3, side, side), dtype=torch.uint8),
        "target": torch.from_numpy(plain.coco_like(images, K)).long(),
    }
    steps = {RESEARCH: research_step(network, batch)}
    steps |= {name: our_step(network, batch, *settings) for name, settings in VARIANTS.items()}
    first: dict[str, float] = {}  # losses, before anything is trained
    calls = {name: lambda name=name: first.setdefault(name, float(steps[name]())) for name in steps}
    seconds = rounds.measure({**calls, "splices": splicing(side)}, repeats)
    splices = seconds.pop("splices")
    for name, loss in first.items():
        bf16 = name in VARIANTS and VARIANTS[name][1]
        assert abs(loss - first[RESEARCH]) <= (5e-2 if bf16 else 1e-4) * first[RESEARCH], first
    print(rounds.table(seconds, RESEARCH, unit="1/s", per=images))
    share = statistics.median(splices) / SPLICED / (statistics.median(seconds[DEFAULT]) / images)
    print(f"\nsplices of {SPLICES:.0%} of {SPLICED} images: {share:.2%} of the default's step, per image")
    operators = top_operators(steps[DEFAULT])
    print(f"\nwhere the time of the default goes (own time of an operator, {len(operators)} largest):")
    for name, share in operators:
        print(f"  {share:6.1%}  {name}")
    steps_summary = rounds.summary(seconds, RESEARCH)
    return {"images": images, "steps": steps_summary, "operators_of_default": operators, "splices_share": share}


def main(argv: Sequence[str] | None = None) -> None:
    """Both sizes; a table each, and runs/bench-step.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--full", action="store_true", help="more images and repeats")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    report = {}
    sizes = SMOKE if options.smoke else FULL if options.full else SIZES
    for name, (backbone, side, images, repeats) in sizes.items():
        print(f"\n{name}, {side} px, {images} images, K={K}, SemanticAttention({DIM}), BCE and contrastive loss;")
        print(f"images per second, {repeats} repeats in turn, {torch.get_num_threads()} thread(s)")
        report[name] = compare(backbone, side, images, repeats)
    rounds.save("step", report, options.smoke)


if __name__ == "__main__":
    main()
