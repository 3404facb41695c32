"""Training steps on a CUDA device against the published recipe: images per second, memory, share of the peak, DDP.

python tests/benchmarks/gpu.py [--batch 64] [--device cpu --smoke]
"""

import argparse
import math
import sys
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import gpu_ddp
import gpu_steps
import rounds
import torch
from gpu_steps import RESEARCH, Sizes
from torch.utils.flop_counter import FlopCounterMode

# Dense bf16 (and fp16) matrix products in TFLOP/s, from the vendor's data sheets; the first name found counts.
PEAKS = {
    "B200": 2250, "H200": 989, "GH200": 989, "H100 PCIe": 756, "H100 NVL": 835, "H100": 989, "A100": 312, "L40S": 362,
    "L40": 181, "L4": 121, "A10G": 70, "A10": 125, "A40": 150, "RTX A6000": 155, "RTX 5090": 210, "RTX 4090": 165,
    "RTX 3090": 71,
}  # fmt: skip
SMOKE = Sizes("test_resnet", side=64, images=2, classes=5, narrow=16, wide=32, ffn=64, steps=1, repeats=1)


@dataclass
class Timed:
    """What was seen of one kind of step."""

    images_per_second: float
    times_as_fast: float
    seconds_min_median_max: list[float]  # of one step
    gflop_per_image: float
    peak_share: float | None  # of the device's matrix products: model FLOPs utilisation
    peak_memory_MB: float | None
    syncs_per_step: int | None
    loss_share: float | None  # contrastive loss and projector alone, forward and backward


def synchronise(device: torch.device) -> None:
    """Wait for the device."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def window(step: Callable[[], object], sizes: Sizes, device: torch.device) -> Callable[[], None]:
    """Several steps, then one wait."""

    def call() -> None:
        for _ in range(sizes.steps):
            step()
        synchronise(device)

    return call


def allocated(device: torch.device) -> int:
    """Bytes on the device now."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def highest(step: Callable[[], object], before: int, device: torch.device) -> float | None:
    """What a step allocates at most, model and optimizer included, in MB above ``before``."""
    if device.type != "cuda":
        return None
    synchronise(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    synchronise(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6


def waits(step: Callable[[], object], device: torch.device) -> int | None:
    """How often the host waits for the device in one step."""
    if device.type != "cuda":
        return None
    synchronise(device)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchroniz" in str(warning.message) for warning in caught)


def seconds_of(call: Callable[[], object], device: torch.device, times: int) -> float:
    """Mean time of a call on the device, from events around several of them; after one to warm up."""
    call()
    synchronise(device)
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            call()
        return (time.perf_counter() - start) / times
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(times):
        call()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1e3 / times


def peak_flops(device: torch.device) -> float | None:
    """What the device can do at most per second in bf16; None for one that is not in the table."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((teraflops * 1e12 for known, teraflops in PEAKS.items() if known in name), None)


def timed(case: gpu_steps.Case, reference: Callable[[], object], sizes: Sizes, device: torch.device) -> Timed:
    """One case in turn with the reference, which stays on the device meanwhile."""
    before = allocated(device)
    step, loss_alone, compile_it = gpu_steps.make(case, sizes, device)
    with FlopCounterMode(display=False) as counter:  # before anything is compiled
        step()
    flops = counter.get_total_flops()
    if case.compiled:
        compile_it()
        step()
    memory = highest(step, before, device)
    steps = {RESEARCH: window(reference, sizes, device), "case": window(step, sizes, device)}
    row = rounds.summary(rounds.measure(steps, sizes.repeats), RESEARCH)["case"]
    each = [seconds / sizes.steps for seconds in row["seconds_min_median_max"]]
    most = peak_flops(device)
    return Timed(
        images_per_second=sizes.images / each[1],
        times_as_fast=1 / row["times_as_long"],
        seconds_min_median_max=each,
        gflop_per_image=flops / sizes.images / 1e9,
        peak_share=flops / each[1] / most if most else None,
        peak_memory_MB=memory,
        syncs_per_step=waits(step, device),
        loss_share=seconds_of(loss_alone, device, sizes.steps) / each[1] if loss_alone else None,
    )


def line(name: str, row: Timed) -> str:
    """One case of the table; a dash for what cannot be said here."""

    def cell(value: float | None, layout: str) -> str:
        return f"{'-':>7}" if value is None else f"{value:>7{layout}}"

    return (
        f"{name:44} {row.images_per_second:9.1f} {row.times_as_fast:7.2f} {row.gflop_per_image:8.1f} "
        f"{cell(row.peak_share, '.1%')} {cell(row.peak_memory_MB, '.0f')} {cell(row.syncs_per_step, 'd')} "
        f"{cell(row.loss_share, '.1%')}"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """DDP first, then every case next to the published recipe; a table, and runs/bench-gpu.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--batch", type=int, default=64, help="images per step and device (default: 64)")
    parser.add_argument("--steps", type=int, default=10, help="steps in a window (default: 10)")
    parser.add_argument("--repeats", type=int, default=5, help="windows of every case (default: 5)")
    parser.add_argument("--smoke", action="store_true", help="tiny sizes: only to see that it works")
    options = parser.parse_args(argv)
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --smoke shows that the benchmark works", file=sys.stderr)
        return 1
    sizes = SMOKE if options.smoke else Sizes(images=options.batch, steps=options.steps, repeats=options.repeats)
    device = torch.device(options.device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
    print(f"{name}, {sizes.backbone}, {sizes.side} px, {sizes.images} images per step and device, K={sizes.classes}")
    ddp = gpu_ddp.scaling(sizes, device)  # first: a process that has gone backward cannot be forked
    print("\nDDP, lean QueryDecoder with contrastive loss:")
    for row in ddp:
        print(f"  {row['devices']} x: {row['images_per_second']:9.1f} images/s, efficiency {row['efficiency']:.1%}")

    rows: dict[str, Timed] = {}
    reference, _, _ = gpu_steps.make(gpu_steps.PUBLISHED, sizes, device)
    print(f"\nforward, backward, optimizer; {sizes.repeats} windows of {sizes.steps} steps in turn with the reference")
    print("MFU: matrix products' FLOPs of a step over those of the device in that time; loss: contrastive, alone")
    if device.type == "cuda" and peak_flops(device) is None:
        print("unknown device: MFU not said")
    print(f"{'':44} {'images/s':>9} {'faster':>7} {'GFLOP/im':>8} {'MFU':>7} {'MB':>7} {'waits':>7} {'loss':>7}")
    for case in gpu_steps.cases(options.smoke):
        try:
            rows[case.name] = timed(case, reference, sizes, device)
        except torch.OutOfMemoryError:
            print(f"{case.name:44} does not fit")
            continue
        finally:
            torch.compiler.reset()  # or the next head counts as another recompilation of the same code
            if device.type == "cuda":
                torch.cuda.empty_cache()
        assert math.isfinite(rows[case.name].images_per_second)
        print(line(case.name, rows[case.name]), flush=True)
    report = {"device": name, "sizes": vars(sizes), "cases": {n: vars(row) for n, row in rows.items()}, "ddp": ddp}
    rounds.save("gpu", report, options.smoke)
    return 0


if __name__ == "__main__":
    sys.exit(main())
