"""The yardstick of a real training: a ridge probe on the frozen backbone's pooled features of the same images.

    python tests/real/probe.py --root DIR --weights FILE [--size 224] [--dataset VOC2012] [--flip]

Every image is squashed to size x size as in evaluation, nothing is augmented. The features are standardised by the
training images; the penalty is chosen by leave-one-out mean average precision on the training images. The test
images are scored once.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.transforms.v2 import InterpolationMode

import mlcl.data
from mlcl.data import ImageDataset, MultiLabelDataModule
from mlcl.data.augment import Augmentation
from mlcl.data.splits import Split
from mlcl.heads import GlobalPool
from mlcl.metrics import average_precision
from mlcl.network import Network

LAMBDAS = tuple(10 ** (k / 4) for k in range(-4, 25))  # 0.1 to 1e6; the features have unit variance


@dataclass(frozen=True)
class Probe:
    """What the probe reached."""

    mean_ap: float  # of the classes below, in [0, 1]
    classes: dict[str, float]  # average precision of every class with enough positives in both splits
    penalty: float


def ridge_map(
    root: str | Path,
    weights: str | Path,
    size: int = 224,
    dataset: str = "VOC2012",
    flip: bool = False,
    backbone: str = "mobilenetv1_100",
    least: int = 5,
) -> Probe:
    """Mean average precision on the test split of a ridge regression trained on the train split.

    Args:
        root: folder of the dataset.
        weights: of the backbone.
        size: side of the images in pixels.
        dataset: class of ``mlcl.data``.
        flip: average each image's features with those of its mirror image.
        backbone: timm name.
        least: positives a class needs in the train and in the test split to be counted.
    """
    network = Network(
        backbone, GlobalPool(), num_classes=1, weights=str(weights), backbone_kwargs={"pad_type": "same"}
    ).eval()
    data = getattr(mlcl.data, dataset)(root=str(root), image_size=size)
    data.interpolation = data.interpolation or network.interpolation
    data.setup("test")
    (train, train_targets), (test, test_targets) = (_features(network, data, s, flip) for s in ("train", "test"))
    mean, deviation = train.mean(0), train.std(0)
    train, test = ((features - mean) / deviation.clamp(min=1e-6) for features in (train, test))
    counted = common_classes(train_targets, test_targets, least)
    left_out, scores = ridge_scores(train, train_targets, test)  # (L, N, K), (L, M, K)
    on_train = [average_precision(s, train_targets)[counted].mean() for s in left_out]
    chosen = int(torch.stack(on_train).argmax())
    class_ap = average_precision(scores[chosen], test_targets)
    named = {name: float(ap) for name, ap, use in zip(data.classes, class_ap, counted, strict=True) if use}
    return Probe(float(class_ap[counted].mean()), named, LAMBDAS[chosen])


def common_classes(train: Tensor, test: Tensor, least: int = 5) -> Tensor:
    """(K,) bool: classes with at least so many positives among both (N, K) targets."""
    return ((train == 1).sum(0) >= least) & ((test == 1).sum(0) >= least)


def ridge_scores(train: Tensor, targets: Tensor, test: Tensor) -> tuple[Tensor, Tensor]:
    """One-vs-rest ridge regression with a free intercept, for every penalty of LAMBDAS.

    Args:
        train: (N, C) float64.
        targets: (N, K) in {1, 0, -1}; a class is fitted without its unknown images.
        test: (M, C) float64.

    Returns:
        Leave-one-out scores of the training images (L, N, K), -inf where unknown, and of the test ones (L, M, K).
    """
    left_out = torch.full((len(LAMBDAS), *targets.shape), -torch.inf, dtype=torch.float64)
    scores = torch.zeros((len(LAMBDAS), len(test), targets.shape[1]), dtype=torch.float64)
    penalties = torch.tensor(LAMBDAS, dtype=torch.float64)[:, None]
    solved: dict[bytes, tuple[Tensor, Tensor, Tensor]] = {}  # most classes share the same known images
    for k in range(targets.shape[1]):
        known = targets[:, k] >= 0
        x, y = train[known], torch.where(targets[known, k] == 1, 1.0, -1.0).double()
        centre = x.mean(0)
        key = known.numpy().tobytes()
        if key not in solved:
            solved[key] = torch.linalg.svd(x - centre, full_matrices=False)
        u, s, v = solved[key]
        shrink = s**2 / (s**2 + penalties)  # (L, R)
        fitted = y.mean() + (shrink * (u.T @ (y - y.mean()))) @ u.T  # (L, n)
        leverage = 1 / len(y) + shrink @ (u**2).T
        left_out[:, known, k] = y - (y - fitted) / (1 - leverage).clamp(min=1e-12)
        coefficients = (s / (s**2 + penalties) * (u.T @ (y - y.mean()))) @ v  # (L, C)
        scores[:, :, k] = y.mean() + coefficients @ (test - centre).T
    return left_out, scores


@torch.inference_mode()
def _features(network: Network, data: MultiLabelDataModule, split: Split, flip: bool) -> tuple[Tensor, Tensor]:
    """Pooled features (N, C), float64, and targets (N, K) of a split, each image as in evaluation."""
    transform = Augmentation(data.image_size, InterpolationMode(data.interpolation or "bilinear"))
    features, targets = [], []
    for batch in DataLoader(ImageDataset(data.splits[split], transform), batch_size=32):
        pooled = network.features(batch["image"]).double().mean((2, 3))
        if flip:
            pooled = (pooled + network.features(batch["image"].flip(-1)).double().mean((2, 3))) / 2
        features.append(pooled)
        targets.append(batch["target"])
    return torch.cat(features), torch.cat(targets)


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Ridge probe on frozen pooled features.")
    parser.add_argument("--root", required=True, help="folder of the dataset")
    parser.add_argument("--weights", required=True, help="backbone weights, .safetensors")
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--dataset", default="VOC2012")
    parser.add_argument("--backbone", default="mobilenetv1_100")
    parser.add_argument("--flip", action="store_true", help="average with the mirror image's features")
    given = parser.parse_args()
    probe = ridge_map(given.root, given.weights, given.size, given.dataset, given.flip, given.backbone)
    print(f"mAP {100 * probe.mean_ap:.2f} over {len(probe.classes)} classes, ridge penalty {probe.penalty:.3g}")
    print("  ".join(f"{name} {100 * ap:.1f}" for name, ap in probe.classes.items()))


if __name__ == "__main__":
    main()
