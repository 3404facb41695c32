"""The pictures of README and docs, from two trainings of the demo: ``make pictures``.

Nothing but generated scenes is shown. The trainings take some minutes and stay in runs/, where a second call finds them.
"""

import argparse
import io
import shutil
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch
from PIL import Image

import mlcl
from mlcl import viz
from mlcl.__main__ import main as command
from mlcl.analysis.embeddings import ClassEmbeddings, distances, neighbour_precision, project
from mlcl.data import MultiLabelDataModule
from mlcl.data.images import read_image
from mlcl.heads import SemanticAttention
from mlcl.inference.embeddings import collect
from mlcl.inference.rebuild import Rebuilt
from mlcl.network import Network

HERE = Path(__file__).parent
BCE, CONTRASTIVE = "pictures_bce", "pictures_pscl"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
COLOURS = {"data": "#e8eef6", "part": "#fbe9d7", "result": "#e2f1e8", "end": "#f3e6e4"}


def main() -> int:
    """Train where there is no run yet, and draw all four."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where the two runs are, or will be")
    parser.add_argument("--output", type=Path, default=HERE / "pictures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    fine = ["--model.network.backbone_kwargs", "{output_stride: 8}"]  # attention maps of 12 x 12 positions, not 3 x 3
    bce = trained(options.runs, BCE, *fine)
    contrastive = trained(options.runs, CONTRASTIVE, "--config", "configs/methods/pscl.yaml", *fine)

    model, data = mlcl.load(bce, device="cpu"), Rebuilt(bce / "checkpoints" / "best.ckpt").datamodule()
    save(flow(model.network, data), options.output / "flow.png")
    save(attention(model, data), options.output / "attention.png")
    save(embeddings(bce, contrastive, data), options.output / "embeddings.png")
    report(bce, options.output / "report.png")
    return 0


def trained(runs: Path, name: str, *settings: str) -> Path:
    """The run of this name; trained first where there is none."""
    folder = runs / name / "version_0"
    if not (folder / "metrics.json").is_file():
        status = command(["fit", "--config", "configs/demo.yaml", *settings, "--name", name])
        if status:
            sys.exit(status)
    return folder


def save(figure: Figure, path: Path) -> None:
    """As a PNG of 256 colours, which takes a third of the bytes of a full one."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    Image.open(file).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


@torch.no_grad()
def flow(network: Network, data: MultiLabelDataModule) -> Figure:
    """A batch's way through the network, with the shapes that this network really gives it."""
    image = torch.zeros(data.batch_size, 3, data.image_size, data.image_size, dtype=torch.uint8)
    features, out = network.features(image), network(image)
    assert out.attention is not None
    shape = {
        name: str(tuple(tensor.shape)) for name, tensor in {"image": image, "map": features, **out._asdict()}.items()
    }
    target = str((data.batch_size, data.num_classes))

    figure = Figure(figsize=(12.4, 4.3))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 12.4), ylim=(0, 4.3))
    axes.set_axis_off()
    boxes = {
        "image": (1.05, 2.55, "data", "image", f"{shape['image']}\nuint8"),
        "target": (1.05, 0.85, "data", "target", f"{target}\n1 present, 0 absent,\n−1 unknown"),
        "backbone": (3.15, 2.55, "part", "backbone", "any timm model"),
        "map": (5.15, 2.55, "data", "feature map", shape["map"]),
        "head": (7.1, 2.55, "part", "head", "e.g. SemanticAttention"),
        "attention": (9.15, 3.75, "result", "attention", shape["attention"]),
        "logits": (9.15, 2.55, "result", "logits", shape["logits"]),
        "embeddings": (9.15, 1.35, "result", "embeddings", shape["embeddings"]),
        "report": (11.35, 3.75, "end", "report", "where each class looked"),
        "metrics": (11.35, 2.92, "end", "metrics", "mAP, CF1, OF1, …"),
        "classification": (11.35, 2.12, "end", "classification loss", "BCE, ASL, …"),
        "embedding": (11.35, 1.25, "end", "embedding loss", "contrastive, …"),
    }
    for x, y, kind, title, text in boxes.values():
        width = 1.9 if kind != "part" else 1.7
        height = 0.62 if kind == "end" else 0.78 + 0.2 * text.count("\n")
        patch = FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.1")
        patch.set(facecolor=COLOURS[kind], edgecolor="#555555", linewidth=0.9)
        axes.add_patch(patch)
        lines = 1 + text.count("\n")
        axes.text(x, y + 0.1 * lines, title, ha="center", va="center", fontsize=10.5, fontweight="bold")
        axes.text(x, y - 0.12, text, ha="center", va="center", fontsize=9, linespacing=1.15)
    arrows = [("image", "backbone"), ("backbone", "map"), ("map", "head")]
    arrows += [("head", name) for name in ("attention", "logits", "embeddings")]
    arrows += [
        ("attention", "report"),
        ("logits", "metrics"),
        ("logits", "classification"),
        ("embeddings", "embedding"),
    ]
    for start, end in arrows:
        (x, y, kind, *_), (to_x, to_y, to_kind, *_) = boxes[start], boxes[end]
        ends = (x + (0.85 if kind == "part" else 0.95), y), (to_x - (0.85 if to_kind == "part" else 0.95), to_y)
        axes.add_patch(FancyArrowPatch(*ends, arrowstyle="-|>", mutation_scale=11, color="#333333", linewidth=1.1))
    # The target goes under the network to everything that compares with it.
    axes.plot([2.0, 10.2, 10.2], [0.5, 0.5, 0.5], color="#7a8aa0", linewidth=1.1, linestyle="--")
    axes.text(6.1, 0.6, "target: to both losses and the metrics", ha="center", va="bottom", fontsize=9, color="#556")
    axes.text(11.35, 0.5, "loss = classification\n+ weight × embedding", ha="center", va="center", fontsize=9.5)
    return figure


def attention(model: mlcl.inference.Model, data: MultiLabelDataModule) -> Figure:
    """The first test images with exactly three labels, and where each of the three classes looked."""
    split = data.splits["test"]
    rows = np.flatnonzero((split.targets == 1).sum(1) == 3)[:3]
    images, texts = [], []
    out = model([split.paths[row] for row in rows])
    for n, row in enumerate(rows):
        pixels = read_image(split.paths[row])
        present = np.flatnonzero(split.targets[row] == 1)
        images += [pixels, *(viz.veiled(pixels, out.attention[n, k]) for k in present)]
        texts += ["image", *(f"{data.classes[k]}: {out.scores[n, k]:.2f}" for k in present)]
    return viz.pictures(images, texts, columns=4, side=1.9)


def embeddings(bce: Path, contrastive: Path, data: MultiLabelDataModule) -> Figure:
    """Projections of the test images' present entries: before training, after BCE, after BCE + a contrastive loss."""
    settings = Rebuilt(bce / "checkpoints" / "best.ckpt").config["model"]["network"]["init_args"]
    torch.manual_seed(0)
    kwargs = settings["backbone_kwargs"]
    before = Network(settings["backbone"], SemanticAttention(dim=128), data.num_classes, backbone_kwargs=kwargs)
    networks = {"untrained": before}
    networks |= {
        "BCE": mlcl.load(bce, device="cpu"),
        "BCE + prototype contrastive": mlcl.load(contrastive, device="cpu"),
    }
    panels = {}
    for name, network in networks.items():
        found = collect(network, data, absent=True)
        print(f"{name}: {numbers(found)}")
        present = found.take(found.present)
        projected = project(present.vectors)
        assert projected is not None
        panels[f"{name}\n{numbers(found)}"] = projected[0], present.owners
    return viz.projections(panels, data.classes)


def numbers(found: ClassEmbeddings) -> str:
    """What the projection cannot show, in the full space."""
    table = distances(found)
    intra, absent = np.nanmean(table.intra), np.nanmean(table.absent)
    return f"cosine distance present–present {intra:.2f}, present–absent {absent:.2f}; neighbours {np.nanmean(neighbour_precision(found)):.2f}"


def report(run: Path, path: Path) -> None:
    """The top of the run's report, as a browser shows it."""
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"{path} is left as it is: there is no browser on the path ({', '.join(BROWSERS)})")
        return
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        page = Path(folder, "report.html").resolve()
        if command(["report", str(run), "--output", str(page)]):
            sys.exit(1)
        chromium = playwright.chromium.launch(executable_path=browser, args=["--no-sandbox"])
        tab = chromium.new_page(viewport={"width": 1100, "height": 1500}, color_scheme="light")
        tab.goto(page.as_uri())
        shot = Image.open(io.BytesIO(tab.screenshot()))
        chromium.close()
    shot.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    sys.exit(main())
