"""Every head's parameters, arithmetic and time on a ResNet-101 feature map at 448 px, next to the backbone's own.

python tests/benchmarks/heads.py [--smoke]
"""

import argparse
from collections.abc import Callable, Sequence

import rounds
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mlcl.heads import HEADS, GlobalPool, Head, QueryDecoder
from mlcl.network import Network


def parameters(module: nn.Module) -> float:
    """Trainable parameters, in millions."""
    return sum(parameter.numel() for parameter in module.parameters() if parameter.requires_grad) / 1e6


def gflop(forward: Callable[[], object]) -> float:
    """GFLOP of a forward pass, a multiplication and an addition being two; matrix products alone count."""
    with FlopCounterMode(display=False) as counter:
        forward()
    return counter.get_total_flops() / 1e9


def head_step(head: Head, features: Tensor) -> Tensor:
    """What a training step asks of a head: logits for the classifier's loss, embeddings for the contrastive one."""
    out = head(features)
    return out.logits.sum() + out.embeddings.sum()


def main(argv: Sequence[str] | None = None) -> None:
    """Count once, time in turn; a table, and runs/bench-heads.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it works")
    smoke = parser.parse_args(argv).smoke
    name, batch, classes, side, repeats = ("test_resnet", 1, 3, 64, 1) if smoke else ("resnet101", 2, 80, 448, 5)
    published = {"dim": 64, "ffn": 128} if smoke else {"dim": 2048, "ffn": 8192}
    torch.manual_seed(0)
    network = Network(name, GlobalPool(), classes).train()
    image = torch.rand(batch, 3, side, side)
    with torch.no_grad():
        features = network.features(image).contiguous()
    channels = features.shape[1]
    heads: dict[str, Head] = {name: kind() for name, kind in HEADS.items()}
    heads["QueryDecoder, published"] = QueryDecoder(**published)
    for head in heads.values():
        head.build(channels, classes).train()
    features.requires_grad_()  # a backbone is trained along

    backbone = "ResNet-101"
    modules: dict[str, nn.Module] = {backbone: network.backbone, **heads}
    forwards: dict[str, Callable[[], Tensor]] = {backbone: lambda: network.features(image).sum()}
    forwards |= {name: lambda head=head: head_step(head, features) for name, head in heads.items()}

    def step(name: str) -> None:
        modules[name].zero_grad()
        features.grad = None
        forwards[name]().backward()

    seconds = rounds.measure({name: lambda name=name: step(name) for name in forwards}, repeats)
    report = rounds.summary(seconds, backbone)
    for name, row in report.items():
        row["parameters_M"] = parameters(modules[name])
        row["gflop_per_image_forward"] = gflop(forwards[name]) / batch
        row["embedding_dim"] = heads[name].embedding_dim if name in heads else channels
    print(f"map {(*features.shape,)}, K={classes}, train mode, {torch.get_num_threads()} thread(s)")
    print(
        f"GFLOP: forward, per image, 2 per multiply-add; time: forward + backward of {batch} images, "
        f"min / median / max of\n{repeats} repeats in turn; share: of the backbone's time in this run\n"
    )
    print(f"{'':24} {'D':>5} {'params M':>9} {'GFLOP':>8} {'time s':>23} {'share':>8}")
    for name, row in report.items():
        low, middle, high = row["seconds_min_median_max"]
        print(
            f"{name:24} {row['embedding_dim']:5d} {row['parameters_M']:9.2f} {row['gflop_per_image_forward']:8.4f}"
            f" {low:7.3f} /{middle:6.3f} /{high:6.3f} {row['times_as_long']:8.1%}"
        )
    rounds.save("heads", report, smoke)


if __name__ == "__main__":
    main()
