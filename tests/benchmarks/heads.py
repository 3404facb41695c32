"""Every head's parameters, arithmetic and time on a ResNet-101 feature map at 448 px, next to the backbone's own.

python tests/benchmarks/heads.py
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlcl.heads import HEADS, GlobalPool, Head, QueryDecoder
from mlcl.network import Network

B, K, SIDE, REPEATS, BACKBONE_REPEATS = 2, 80, 448, 5, 3
BACKBONE = "ResNet-101"


def parameters(module: nn.Module) -> float:
    """Trainable parameters, in millions."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad) / 1e6


def gflop(forward: Callable[[], object]) -> float:
    """GFLOP per image of a forward pass, a multiplication and an addition being two; matrix products alone count."""
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / B / 1e9


def head_step(head: Head, features: Tensor) -> Tensor:
    """What a training step asks of a head: logits for the classifier's loss, embeddings for the contrastive one."""
    out = head(features)
    return out.logits.sum() + out.embeddings.sum()


def main() -> None:
    """Count once, time in turn; a table, and runs/bench-heads.json."""
    torch.manual_seed(0)
    network = Network("resnet101", GlobalPool(), K).train()
    image = torch.rand(B, 3, SIDE, SIDE)
    with torch.no_grad():
        features = network.features(image).contiguous()
    channels = features.shape[1]
    heads: dict[str, Head] = {name: kind() for name, kind in HEADS.items()}
    heads["QueryDecoder, published"] = QueryDecoder(dim=2048, ffn=8192)
    for head in heads.values():
        head.build(channels, K).train()
    features.requires_grad_()  # a backbone is trained along

    modules: dict[str, nn.Module] = {BACKBONE: network.backbone, **heads}
    steps: dict[str, Callable[[], Tensor]] = {BACKBONE: lambda: network.features(image).sum()}
    for name, head in heads.items():
        steps[name] = lambda head=head: head_step(head, features)
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for repeat in range(-1, REPEATS):  # -1 warms up
        for name, step in steps.items():
            if name == BACKBONE and repeat >= BACKBONE_REPEATS:
                continue
            modules[name].zero_grad()
            features.grad = None
            start = time.perf_counter()
            step().backward()
            if repeat >= 0:
                seconds[name].append(time.perf_counter() - start)

    whole = statistics.median(seconds[BACKBONE])
    report = {
        name: {
            "parameters_M": parameters(modules[name]),
            "gflop_per_image_forward": gflop(step),
            "seconds_min_median_max": [min(times), statistics.median(times), max(times)],
            "share_of_backbone": statistics.median(times) / whole,
            "embedding_dim": heads[name].embedding_dim if name in heads else channels,
        }
        for (name, step), times in zip(steps.items(), seconds.values(), strict=True)
    }
    print(f"map {(*features.shape,)}, K={K}, train mode, {torch.get_num_threads()} thread(s)")
    print(
        f"GFLOP: forward, per image, 2 per multiply-add; time: forward + backward of {B} images, min / median / max of"
    )
    print(f"{REPEATS} repeats in turn (backbone {BACKBONE_REPEATS}); share: of the backbone's time in this run\n")
    print(f"{'':24} {'D':>5} {'params M':>9} {'GFLOP':>8} {'time s':>23} {'share':>8}")
    for name, row in report.items():
        low, middle, high = row["seconds_min_median_max"]
        print(
            f"{name:24} {row['embedding_dim']:5d} {row['parameters_M']:9.2f} {row['gflop_per_image_forward']:8.4f}"
            f" {low:7.3f} /{middle:6.3f} /{high:6.3f} {row['share_of_backbone']:8.1%}"
        )
    Path("runs").mkdir(exist_ok=True)
    Path("runs/bench-heads.json").write_text(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
