"""Embedding losses on frozen features, with the same search for each and many seeds: the tables of docs/results.md.

    python tests/real/contrast.py all --voc2012 DIR --coco DIR --weights tf_efficientnet_lite0=FILE NAME=FILE

Its parts, in this order, are ``search``, ``train`` (with --first-seed and --seeds, to divide it among processes) and
``compare``; runs that are there are kept. --head and --only make the tables of other heads, by the
commands below those tables.

``search`` tries six settings of every method on three folds of the training images, with the first backbone, and writes
runs/contrast/settings-DATA-HEAD.json. ``train`` trains each method with its best setting on all training images of both
data sets with every backbone, tests it once, and leaves a run of each seed there. ``compare`` calls mlcl compare.

The feature maps (256 pixels, averaged to 4 x 4 positions) are computed once, for every picture and its mirror image.
Embeddings are compared as they are, without a projector, one view per image, all within a batch of 16.
"""

import argparse
import itertools
import json
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from presence import PresenceContrastiveLoss
from torch import Tensor
from torch.optim import AdamW

from mlcl.__main__ import main as mlcl
from mlcl.analysis import localisation
from mlcl.data import COCO2014, VOC2012
from mlcl.heads import HEADS, GlobalPool, Head
from mlcl.losses import CLASSIFICATION_LOSSES, EMBEDDING_LOSSES, EmbeddingLoss
from mlcl.metrics import MultiLabelMetrics, average_precision
from mlcl.network import Network
from mlcl.optim import OneCycle, make_optimizer
from mlcl.runs.result_files import per_class, summary_of, write_scores

ROOT, SIDE, BATCH, CELLS, FOLDS, DIM = Path("runs/contrast"), 256, 16, 4, 3, 128
EPOCHS = {"one": 15, "first": 10, "second": 5}  # of one stage, or of two
RATES = (5e-4, 1e-3, 2e-3, 4e-3, 8e-3, 1.6e-2)
WEIGHTS = (0.01, 0.1, 1.0)
HEAD_SETTINGS = {
    "QueryDecoder": {"dim": DIM, "ffn": 4 * DIM},
    "LabelAttention": {"dim": DIM, "token_blocks": 0},
    "CSRA": {"lam": 0.4},
    "GlobalPool": {},
}
SADCL = {"projection": 0, "label_weight": 1, "prototype_weight": 0.5}
CONTRASTS: dict[str, Any] = {  # name: class, the setting searched beside the weight, its values, the fixed ones
    "discriminative": ("DiscriminativeLoss", "margin", (0.5, 1.0), {}),
    "MulCon": ("LabelContrastiveLoss", "temperature", (0.2, 0.5), {}),
    "SADCL": ("DualContrastiveLoss", "temperature", (0.2, 0.5), SADCL),
    "PSCL": ("PrototypeContrastiveLoss", "temperature", (0.07, 0.2), {}),
    "presence": ("PresenceContrastiveLoss", "temperature", (0.2, 0.5), {}),
}
ONE_STAGE = ("BCE", "ASL", *CONTRASTS)
TWO_STAGES = ("control", *(f"{name}, second stage" for name in CONTRASTS))


def settings_of(method: str, chosen: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The six settings that are tried; a contrast keeps the learning rate of what it is added to."""
    if method in ("BCE", "ASL"):
        yield from ({"rate": rate} for rate in RATES)
    elif method == "control":  # from the first stage's rate down
        yield from ({"rate": chosen["BCE"]["rate"] * part} for part in (2, 1, 0.5, 0.25, 0.1, 0.05))
    else:
        _, name, values, _ = CONTRASTS[method.removesuffix(", second stage")]
        base = chosen["control" if method in TWO_STAGES else "BCE"]
        yield from ({**base, "weight": w, name: value} for w, value in itertools.product(WEIGHTS, values))


def contrast(method: str, setting: dict[str, Any], classes: int, dim: int) -> EmbeddingLoss | None:
    """The embedding loss of a method, or none."""
    name = method.removesuffix(", second stage")
    if name not in CONTRASTS:
        return None
    kind, searched, _, fixed = CONTRASTS[name]
    sizes = {"num_classes": classes, "dim": dim} if name in ("SADCL", "PSCL") else {}
    kinds = {**EMBEDDING_LOSSES, "PresenceContrastiveLoss": PresenceContrastiveLoss}
    return kinds[kind](**fixed, **sizes, **{searched: setting[searched]})  # type: ignore[no-any-return]


def fit(
    maps: Tensor, targets: Tensor, method: str, setting: dict[str, Any], seed: int, epochs: int, head: Head
) -> Head:
    """Train a built head on maps (2, N, C, h, w) and targets (N, K); returns it in eval mode."""
    torch.manual_seed(seed)
    loss = contrast(method, setting, targets.shape[1], head.embedding_dim)
    classification = CLASSIFICATION_LOSSES["AsymmetricLoss" if method == "ASL" else "BinaryCrossEntropy"]()
    if loss is not None and loss.starts_from_means and method in TWO_STAGES:
        loss.start_from(*class_means(head, maps[0], targets))
    parts = torch.nn.ModuleList([head, *([loss] if loss else [])])
    optimizer = make_optimizer(parts, lambda groups: AdamW(groups, lr=setting["rate"], weight_decay=1e-2), {})
    steps = len(targets) // BATCH
    schedule = OneCycle(warmup_share=0.1).build(optimizer, epochs * steps, steps)
    head.train()
    for _ in range(epochs):
        order = torch.randperm(len(targets))[: steps * BATCH].view(steps, BATCH)
        for rows, view in zip(order, torch.randint(2, order.shape), strict=True):
            features, target = maps[view, rows], targets[rows]
            if loss is None:
                total = classification(head.classify(features), target)
            else:
                out = head(features)
                total = classification(out.logits, target) + setting["weight"] * loss(out.embeddings, target)
            optimizer.zero_grad()
            total.backward()
            optimizer.step()
            schedule.step()
            if loss is not None:
                loss.update(out.embeddings.detach()[:, None], target, out.logits.detach().sigmoid()[:, None])
    return head.eval()


@torch.no_grad()
def class_means(head: Head, maps: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """Mean embedding of each class over the images with it, (K, D), and which classes have one."""
    present = (targets == 1).float()
    count = present.sum(0)
    return torch.einsum("nk,nkd->kd", present, head(maps).embeddings) / count.clamp(min=1)[:, None], count > 0


@torch.no_grad()
def tested(head: Head, maps: Tensor) -> tuple[Tensor, Tensor]:
    """Logits (N, K) and where the head sees each class, (N, K, h, w), of plain pictures."""
    outputs = [(part, head(part)) for part in maps.split(64)]
    seen = torch.cat([head.saliency(part, out) for part, out in outputs])
    return torch.cat([out.logits for _, out in outputs]), seen


def new_head(kind: str, maps: Tensor, classes: int, seed: int) -> Head:
    """A head of its own seed, for these maps."""
    torch.manual_seed(seed)
    return HEADS[kind](**HEAD_SETTINGS.get(kind, {"dim": DIM})).build(maps.shape[2], classes)  # type: ignore[no-any-return]


def train(
    maps: Tensor, targets: Tensor, method: str, chosen: dict[str, Any], seed: int, kind: str, kept: dict[Any, Any]
) -> Head:
    """One stage, or the second after a first one, which the methods of a seed share."""
    head = new_head(kind, maps, targets.shape[1], seed)
    if method not in TWO_STAGES:
        return fit(maps, targets, method, chosen[method], seed, EPOCHS["one"], head)
    if "first" not in kept:
        kept["first"] = fit(maps, targets, "BCE", chosen["BCE"], seed, EPOCHS["first"], head).state_dict()
        kept["first"] = {name: value.clone() for name, value in kept["first"].items()}
    head.load_state_dict(kept["first"])
    return fit(maps, targets, method, chosen[method], seed + 1, EPOCHS["second"], head)


def search(maps: Tensor, targets: Tensor, methods: list[str], kind: str) -> dict[str, Any]:
    """The best setting of every method by the mAP of held-out folds, over classes with two positives or more."""
    chosen: dict[str, Any] = {}
    parts = torch.randperm(len(targets), generator=torch.Generator().manual_seed(0)).tensor_split(FOLDS)
    counted, kept = (targets == 1).sum(0) >= 2, [{} for _ in parts]
    for method in methods:
        reached = []
        for setting in settings_of(method, chosen):
            scores = torch.empty(targets.shape)
            for fold, held_out in enumerate(parts):
                rest = torch.ones(len(targets), dtype=torch.bool).index_fill(0, held_out, False)
                own = {**chosen, method: setting}
                head = train(maps[:, rest], targets[rest], method, own, fold, kind, kept[fold])
                scores[held_out] = tested(head, maps[0, held_out])[0]
            reached.append((100 * float(average_precision(scores, targets)[counted].mean()), setting))
            print(f"  {method:28} {reached[-1][0]:6.2f}  {setting}", flush=True)
        chosen[method] = max(reached, key=lambda one: one[0])[1]
    return chosen


def maps_of(name: str, root: str, backbone: str, weights: str) -> tuple[Any, dict[str, tuple[Tensor, Tensor]]]:
    """The data set, and maps (2, N, C, 4, 4) and targets (N, K) of its splits; kept in a file."""
    kind = {"voc2012": VOC2012, "coco": COCO2014}[name]
    data = kind(root=root, image_size=SIDE, num_workers=0)
    data.setup("fit")
    data.setup("test")
    path = ROOT / "maps" / f"{name}-{backbone}.pt"
    if not path.exists():
        network, found = Network(backbone, GlobalPool(), 1, weights=weights, freeze_stages="all").eval(), {}
        for split in ("train", "test"):
            pictures, views = data.dataset(split, augmented=False), []
            with torch.inference_mode():
                for rows in torch.arange(len(pictures)).split(BATCH):
                    pixels = torch.stack([pictures[(0, int(row))]["image"] for row in rows])
                    both = torch.stack([network.features(view) for view in (pixels, pixels.flip(-1))])
                    normed = network.norm(both.movedim(2, -1)).movedim(-1, 2)  # the network's own, before averaging
                    views.append(F.adaptive_avg_pool2d(normed.flatten(0, 1), CELLS).unflatten(0, both.shape[:2]))
            found[split] = torch.cat(views, 1), torch.from_numpy(pictures.samples.targets).long()
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(found, path)
    return data, torch.load(path)


def leave(folder: Path, data: Any, head: Head, maps: Tensor, targets: Tensor) -> None:
    """What mlcl compare reads of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    logits, seen = tested(head, maps)
    metrics = MultiLabelMetrics(targets.shape[1])
    metrics.update(logits, targets, torch.arange(len(targets)))
    metrics.compute()
    evaluation: Any = metrics.evaluation
    names, spread = data.splits["test"].names(data.root), torch.full((targets.shape[1],), torch.nan)
    write_scores(folder / "scores.npz", evaluation, list(data.classes), names)
    (folder / "per_class.csv").write_text(per_class(evaluation, list(data.classes), spread))
    if isinstance(data, COCO2014):  # whose annotations are all real
        index, classes = (targets == 1).nonzero(as_tuple=True)
        covered = data.coverage("test", (CELLS, CELLS))
        found = localisation.measure(index.numpy(), classes.numpy(), seen[index, classes].numpy(), covered)
        np.savez(folder / "localisation.npz", **{one.name: getattr(found, one.name) for one in fields(found)})
    summary = {"split": "test", "checkpoint": None, **summary_of(evaluation, list(data.classes))}
    (folder / "metrics.json").write_text(json.dumps(summary, indent=2))


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("all", "search", "train", "compare"))
    parser.add_argument("--voc2012", help="root of VOC2012")
    parser.add_argument("--coco", help="root of COCO 2014")
    parser.add_argument("--weights", nargs="+", default=[], metavar="BACKBONE=FILE", help="the first is searched with")
    parser.add_argument("--head", default="SemanticAttention", help="the head of all")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=0, help="to divide the seeds among processes")
    parser.add_argument("--only", nargs="+", default=[*ONE_STAGE, *TWO_STAGES], help="methods; BCE and control first")
    given = parser.parse_args()
    torch.set_num_threads(1)
    roots = {name: getattr(given, name) for name in ("voc2012", "coco") if getattr(given, name)}
    backbones = dict(pair.split("=", 1) for pair in given.weights)
    for name, (backbone, weights) in itertools.product(roots, backbones.items()):
        data, splits = maps_of(name, roots[name], backbone, weights)
        file = ROOT / f"settings-{name}-{given.head}.json"
        if given.what in ("all", "search") and backbone == next(iter(backbones)):
            print(name, flush=True)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(json.dumps(search(*splits["train"], given.only, given.head), indent=2))
        for seed in range(given.first_seed, given.first_seed + given.seeds) if given.what in ("all", "train") else ():
            kept: dict[Any, Any] = {}
            for method in given.only:
                folder = ROOT / f"{name}-{backbone}-{given.head}" / method.replace(", ", " ") / f"version_{seed}"
                if not (folder / "metrics.json").exists():
                    chosen = json.loads(file.read_text())
                    leave(
                        folder, data, train(*splits["train"], method, chosen, seed, given.head, kept), *as_test(splits)
                    )
    for pair in sorted(ROOT.glob(f"*-{given.head}")) if given.what in ("all", "compare") else ():
        folders = [str(pair / method.replace(", ", " ")) for method in given.only]
        present = [folder for folder in folders if Path(folder).is_dir()]
        if mlcl(["compare", *present, "--output", str(ROOT / "compare" / pair.name)]):
            raise SystemExit(f"{pair} was not compared")


def as_test(splits: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """The plain test pictures and their targets."""
    return splits["test"][0][0], splits["test"][1]


if __name__ == "__main__":
    main()
