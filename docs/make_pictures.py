"""The pictures of README and docs, from two trainings of the demo: ``make pictures``.

They show generated scenes only. The trainings take some minutes; they stay in runs/ and are not repeated.
"""

import argparse
import io
import json
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
from mlcl.analysis.embeddings import distances, project
from mlcl.data import MultiLabelDataModule
from mlcl.data.images import read_image
from mlcl.heads import SemanticAttention
from mlcl.inference.embeddings import collect
from mlcl.inference.rebuild import Rebuilt
from mlcl.network import Network

HERE = Path(__file__).parent
BCE, CONTRASTIVE = "pictures_bce", "pictures_pscl"
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SECTIONS = ("One class", "Labels to look at")  # of the report: the one that is shown, and the next
WIDTHS = {"data": 2.0, "part": 1.6, "result": 2.0, "end": 2.0}
ARROW = {"arrowstyle": "-|>", "mutation_scale": 11, "linewidth": 1.1, "shrinkA": 0, "shrinkB": 0}
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
    save(attention(model, data), options.output / "attention.jpg")
    save(embeddings(bce, contrastive, data), options.output / "embeddings.png")
    report(bce, options.output / "report.jpg")
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
    """A figure's file, small enough for a repository."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150)
    write(Image.open(file), path)


def write(image: Image.Image, path: Path) -> None:
    """Pictures as JPEG; drawings as a PNG of 256 colours, which takes a third of the bytes of a full one."""
    if path.suffix == ".jpg":
        image.convert("RGB").save(path, quality=75, optimize=True)
    else:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB")


@torch.no_grad()
def flow(network: Network, data: MultiLabelDataModule) -> Figure:
    """The way of a batch, with the shapes that this network really gives it."""
    image = torch.zeros(data.batch_size, 3, data.image_size, data.image_size, dtype=torch.uint8)
    features, out = network.features(image), network(image)
    tensors = {"image": image, "feature map": features, **out._asdict()}
    shape = {name: str(tuple(tensor.shape)) for name, tensor in tensors.items()}
    target = str((data.batch_size, data.num_classes))
    boxes = {  # centre, kind, title, text
        "image": (1.05, 2.75, "data", "image (B, 3, H, W)", f"{shape['image']} uint8"),
        "target": (1.05, 1.0, "data", "target (B, K)", f"{target}\n1 present, 0 absent,\n-1 unknown"),
        "backbone": (3.25, 2.75, "part", "backbone", "any timm model"),
        "feature map": (5.35, 2.75, "data", "map (B, C, h, w)", shape["feature map"]),
        "head": (7.45, 2.75, "part", "head", "SemanticAttention"),
        "attention": (9.65, 3.95, "result", "attention (B, K, h, w)", shape["attention"]),
        "logits": (9.65, 2.75, "result", "logits (B, K)", shape["logits"]),
        "embeddings": (9.65, 1.45, "result", "embeddings (B, K, D)", shape["embeddings"]),
        "report": (12.05, 3.95, "end", "report", "where each class looked"),
        "metrics": (12.05, 3.12, "end", "metrics", "mAP, CF1, OF1, …"),
        "classification": (12.05, 2.32, "end", "classification loss", "BCE, ASL, …"),
        "embedding": (12.05, 1.45, "end", "embedding loss", "contrastive, …"),
    }
    figure = Figure(figsize=(13.5, 4.5))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set(xlim=(0, 13.5), ylim=(0, 4.5))
    axes.set_axis_off()
    for x, y, kind, title, text in boxes.values():
        width, lines = WIDTHS[kind], 1 + text.count("\n")
        height = 0.5 + 0.2 * lines
        box = FancyBboxPatch((x - width / 2, y - height / 2), width, height, boxstyle="round,pad=0,rounding_size=0.1")
        box.set(facecolor=COLOURS[kind], edgecolor="#555555", linewidth=0.9)
        axes.add_patch(box)
        axes.text(x, y + 0.02 + 0.1 * lines, title, ha="center", va="center", fontsize=10, fontweight="bold")
        axes.text(x, y - 0.14, text, ha="center", va="center", fontsize=9, linespacing=1.2)
    arrows = [("image", "backbone"), ("backbone", "feature map"), ("feature map", "head")]
    arrows += [("head", name) for name in ("attention", "logits", "embeddings")]
    arrows += [
        ("attention", "report"),
        ("logits", "metrics"),
        ("logits", "classification"),
        ("embeddings", "embedding"),
    ]
    for start, end in arrows:
        (x, y, kind, *_), (to_x, to_y, to_kind, *_) = boxes[start], boxes[end]
        ends = (x + WIDTHS[kind] / 2, y), (to_x - WIDTHS[to_kind] / 2, to_y)
        axes.add_patch(FancyArrowPatch(*ends, color="#333333", **ARROW))
    grey = "#6b7a90"  # the target: below all else, and from the right into what compares with it
    axes.plot([1.05 + WIDTHS["data"] / 2, 13.3, 13.3], [0.6, 0.6, boxes["metrics"][1]], color=grey, linestyle="--")
    for name in ("metrics", "classification", "embedding"):
        x, y = boxes[name][:2]
        axes.add_patch(FancyArrowPatch((13.3, y), (x + WIDTHS["end"] / 2, y), color=grey, **ARROW))
    axes.text(7, 0.3, "loss = classification + weight * embedding", ha="center", va="center", fontsize=10)
    return figure


def attention(model: mlcl.inference.Model, data: MultiLabelDataModule) -> Figure:
    """The first four test images with exactly three labels, and where the network looked for each of the three."""
    split = data.splits["test"]
    rows = np.flatnonzero((split.targets == 1).sum(1) == 3)[:4]
    images, texts = [], []
    out = model([split.paths[row] for row in rows])
    for n, row in enumerate(rows):
        pixels = read_image(split.paths[row])
        present = np.flatnonzero(split.targets[row] == 1)
        # The root widens the bright part beyond the few highest positions; two veils are dark enough at this size.
        maps = [out.attention[n, k] ** 0.5 for k in present]
        images += [pixels, *(viz.veiled(viz.veiled(pixels, weights), weights) for weights in maps)]
        texts += ["", *(f"{data.classes[k]} {out.scores[n, k]:.2f}" for k in present)]
    return viz.pictures(images, texts, columns=8, side=1.5)


def embeddings(bce: Path, contrastive: Path, data: MultiLabelDataModule) -> Figure:
    """Projections of the test images' present entries: before training, after BCE, after BCE + a contrastive loss."""
    settings = Rebuilt(bce / "checkpoints" / "best.ckpt").config["model"]["network"]["init_args"]
    torch.manual_seed(0)
    kwargs = settings["backbone_kwargs"]
    before = Network(settings["backbone"], SemanticAttention(dim=128), data.num_classes, backbone_kwargs=kwargs)
    networks = {"untrained": before}
    for name, run in {"BCE": bce, "BCE + prototype contrastive": contrastive}.items():
        metrics = json.loads((run / "metrics.json").read_text())["metrics"]
        networks[f"{name}: mAP {100 * metrics['mAP']:.1f}"] = mlcl.load(run, device="cpu")
    panels = {}
    for name, network in networks.items():
        found = collect(network, data, absent=True)
        table, present = distances(found), found.take(found.present)
        # What a projection does not show: distances in the full space.
        same, absent = np.nanmean(table.intra), np.nanmean(table.absent)
        title = f"{name}\ndistance to present {same:.2f}, to absent {absent:.2f}"
        if (projected := project(present.vectors)) is not None:
            panels[title] = projected[0], present.owners
    return viz.projections(panels, data.classes)


def report(run: Path, path: Path) -> None:
    """Two parts of the run's report, as a browser shows them: the metrics, and the class that is opened first."""
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
        tab = chromium.new_page(viewport={"width": 1100, "height": 800}, color_scheme="light")
        tab.goto(page.as_uri())
        whole = Image.open(io.BytesIO(tab.screenshot(full_page=True)))
        headings = {name: tab.get_by_role("heading", name=name, exact=True) for name in ("Definitions", *SECTIONS)}
        top = {name: round(heading.bounding_box()["y"]) - 20 for name, heading in headings.items()}
        chromium.close()
    first, last = SECTIONS
    parts = [whole.crop((0, 0, whole.width, top["Definitions"])), whole.crop((0, top[first], whole.width, top[last]))]
    joined = Image.new("RGB", (whole.width, sum(part.height for part in parts)))
    joined.paste(parts[0], (0, 0))
    joined.paste(parts[1], (0, parts[0].height))
    write(joined, path)


if __name__ == "__main__":
    sys.exit(main())
