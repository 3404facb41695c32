"""What other runtimes and quantisers make of our exported files: mAP, labels that change, size and time of a picture.

Per checkpoint (trained on COCO, any head): ``mlcl export`` to ONNX and torch.export, then each runtime on all test
images; 8-bit versions are calibrated on training images. Times are of one picture on one thread, in turn.

pip install openvino nncf torchao 'mlcl[export]'; python tests/benchmarks/exports.py --root COCO RUN [RUN ...]
"""

import argparse
import copy
import io
import logging
import os
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import onnxruntime
import rounds
import torch
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process

from mlcl.analysis.measures import average_precision
from mlcl.data.images import read_at
from mlcl.inference import load
from mlcl.inference.export import Exported, export
from mlcl.inference.rebuild import Rebuilt
from mlcl.runs import folders

Run = Callable[[np.ndarray], np.ndarray]
Made = tuple[Run, int]  # and bytes
CALIBRATION = 64  # images
LAYERS = ["Conv", "Gemm", "MatMul"]  # what has weights
AT_ONCE = 19  # images of a batch; 171 are nine of them


class Reader(CalibrationDataReader):
    """Training images for onnxruntime, one at a time."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.rows: Iterator[np.ndarray] = iter(pixels)

    def get_next(self) -> dict[str, np.ndarray] | None:
        row = next(self.rows, None)
        return None if row is None else {"pixels": row[None]}


def session(path: Path) -> Made:
    """An ONNX file in onnxruntime."""
    settings = onnxruntime.SessionOptions()
    settings.intra_op_num_threads, settings.log_severity_level = 1, 4
    made = onnxruntime.InferenceSession(str(path), settings, providers=["CPUExecutionProvider"])
    return lambda pixels: made.run(None, {"pixels": pixels})[0], path.stat().st_size


def openvino(path: Path, calibration: np.ndarray | None = None, half: bool = False) -> Made:
    """An ONNX file in OpenVINO: as it is, with its weights stored in 16 bits, or with 8 bits of NNCF."""
    import openvino as ov

    kind = "int8" if calibration is not None else "half" if half else "whole"
    core, stored = ov.Core(), path.with_name(f"{kind}.xml")  # each its own: OpenVINO keeps the weights' file mapped
    model = core.read_model(path)
    if calibration is not None:
        import nncf

        logging.getLogger("nncf").setLevel(logging.ERROR)
        model = nncf.quantize(model, nncf.Dataset([row[None] for row in calibration]), subset_size=len(calibration))
    ov.save_model(model, stored, compress_to_fp16=half)
    compiled = core.compile_model(stored, "CPU", {"INFERENCE_NUM_THREADS": 1, "PERFORMANCE_HINT": "LATENCY"})
    size = sum(stored.with_suffix(ending).stat().st_size for ending in (".xml", ".bin"))
    return lambda pixels: compiled([pixels])[0], size


def in_torch(network: Callable[[torch.Tensor], torch.Tensor], size: int) -> Made:
    """Anything of torch."""

    def run(pixels: np.ndarray) -> np.ndarray:
        with torch.inference_mode():
            return network(torch.from_numpy(pixels)).numpy()

    return run, size


def of_weights(network: torch.nn.Module) -> int:
    file = io.BytesIO()
    torch.save(network.state_dict(), file)
    return file.tell()


def torchao(network: torch.nn.Module, name: str) -> Made:
    """The network with one of torchao's configurations; it changes nn.Linear alone."""
    from torchao import quantization

    changed = copy.deepcopy(network)
    quantization.quantize_(changed, getattr(quantization, name)())
    return in_torch(changed, of_weights(changed))


def makers(network: torch.nn.Module, onnx_file: Path, program: Path, calibration: np.ndarray) -> dict[str, Callable]:
    """Every way to run it, by name."""
    folder = onnx_file.parent
    exported = torch.export.load(program)

    def compiled() -> Made:
        return in_torch(torch.compile(exported.module()), program.stat().st_size)

    def ahead() -> Made:
        package = folder / "aot.pt2"
        torch._inductor.aoti_compile_and_package(exported, package_path=str(package))
        return in_torch(torch._inductor.aoti_load_package(str(package)), package.stat().st_size)

    def dynamic(kind: QuantType) -> Made:
        quantize_dynamic(prepared(), folder / "dynamic.onnx", weight_type=kind)
        return session(folder / "dynamic.onnx")

    def prepared() -> Path:
        quant_pre_process(onnx_file, folder / "prepared.onnx", skip_symbolic_shape=True)
        return folder / "prepared.onnx"

    def static(operators: list[str] | None = LAYERS, **options: object) -> Made:
        options |= {"op_types_to_quantize": operators} if operators else {}
        quantize_static(prepared(), folder / "static.onnx", Reader(calibration), QuantFormat.QDQ, **options)
        return session(folder / "static.onnx")

    return {
        "torch, eager": lambda: in_torch(network, of_weights(network)),
        "torch.compile of the .pt2": compiled,
        "AOTInductor of the .pt2": ahead,
        "torchao int8 weights": lambda: torchao(network, "Int8WeightOnlyConfig"),
        "torchao int8 dynamic": lambda: torchao(network, "Int8DynamicActivationInt8WeightConfig"),
        "onnxruntime": lambda: session(onnx_file),
        "onnxruntime dynamic, QInt8": lambda: dynamic(QuantType.QInt8),
        "onnxruntime dynamic, QUInt8": lambda: dynamic(QuantType.QUInt8),
        "onnxruntime static, defaults": lambda: static(None),
        "onnxruntime static, layers": static,
        "onnxruntime static, layers, per channel": lambda: static(per_channel=True),
        "onnxruntime static, layers, per channel, 7 bits": lambda: static(per_channel=True, reduce_range=True),
        "OpenVINO": lambda: openvino(onnx_file),
        "OpenVINO, fp16 file": lambda: openvino(onnx_file, half=True),
        "OpenVINO int8 (NNCF)": lambda: openvino(onnx_file, calibration),
    }


def main(run: Path, root: str, repeats: int, count: int | None, only: str) -> dict:
    """A table of one checkpoint, and its numbers."""
    checkpoint = folders.best_checkpoint(run)
    model = load(checkpoint, "cpu")
    network = Exported(model).eval()
    splits = Rebuilt(checkpoint, ()).datamodule(root).splits
    test, train = splits.get("test") or splits["val"], splits["train"]
    pixels, calibration = (
        torch.stack([model.resize(read_at(samples.paths, index)) for index in range(len(samples.paths))[:most]])
        .contiguous()  # AOTInductor takes any other order of the bytes for this one
        .numpy()
        for samples, most in ((test, count), (train, CALIBRATION))
    )
    targets, thresholds = torch.as_tensor(test.targets[: len(pixels)]), model.thresholds.numpy()
    rows: dict[str, dict] = {}
    ready: dict[str, Run] = {}
    with tempfile.TemporaryDirectory() as folder:
        onnx_file, program = Path(folder, "model.onnx"), Path(folder, "model.pt2")
        export(checkpoint, onnx_file, "onnx", root=root)
        export(checkpoint, program, "torch_export", root=root)
        for name, make in makers(network, onnx_file, program, calibration).items():
            if not re.search(only, name) and name != "torch, eager":
                continue
            start = time.perf_counter()
            try:
                step, size = make()
                scores = np.concatenate([step(part) for part in np.split(pixels, range(AT_ONCE, len(pixels), AT_ONCE))])
            except Exception as error:  # of a dozen kinds, and part of the answer
                rows[name] = {"error": f"{type(error).__name__}: {' '.join(str(error).split())[:160]}"}
                print(f"  {name}: {rows[name]['error']}", flush=True)
                continue
            first = scores if not ready else first  # noqa: F821
            ready[name] = step
            finite = np.isfinite(scores).all()
            ap = average_precision(torch.from_numpy(scores), targets).nanmean().item() * 100 if finite else np.nan
            flips = int(((scores >= thresholds) != (first >= thresholds)).sum())
            rows[name] = {"mAP": ap, "labels": int((scores >= thresholds).sum()), "flips": flips}
            rows[name] |= {"largest": float(np.abs(scores - first).max()), "MB": size / 1e6}
            print(f"  {name}: {rows[name]} ({time.perf_counter() - start:.0f} s)", flush=True)
        one = pixels[:1]
        seconds = rounds.measure({name: lambda step=step: step(one) for name, step in ready.items()}, repeats)
    for name, row in rounds.summary(seconds, "torch, eager").items():
        low, middle, high = row["seconds_min_median_max"]
        rows[name] |= {"ms": [1e3 * low, 1e3 * middle, 1e3 * high], "times_as_long": row["times_as_long"]}
    print(f"\n{run}: {len(pixels)} images, {targets.shape[1]} classes; {repeats} repeats in turn of one picture")
    print("| | mAP | labels, changed | largest difference | MB | time (min to max) |\n|---|---|---|---|---|---|")
    for name, row in rows.items():
        if "error" in row:
            print(f"| {name} | {row['error']} |")
            continue
        whole = rows["torch, eager"]["ms"][1]
        low, middle, high = (value / whole for value in row["ms"])
        print(
            f"| {name} | {row['mAP']:.2f} | {row['labels']}, {row['flips']} | {row['largest']:.1e} | {row['MB']:.1f} | "
            f"{middle:.2f} ({low:.2f} to {high:.2f}) |"
        )
    return rows


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--root", required=True, help="of COCO")
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--count", type=int, help="test images, by default all")
    parser.add_argument("--only", default="", help="rows whose name matches this regular expression")
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    os.environ.setdefault("TORCHAO_FORCE_SKIP_LOADING_SO_FILES", "1")
    torch.set_num_threads(1)
    rounds.save(
        "exports", {str(run): main(run, given.root, given.repeats, given.count, given.only) for run in given.runs}
    )
