"""Class-specific embeddings of a whole split, collected by a trained network."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Subset
from torchvision.transforms.v2 import InterpolationMode

from mlcl.analysis.embeddings import ClassEmbeddings, entries, join
from mlcl.data import ImageDataset, MultiLabelDataModule
from mlcl.data.augment import Augmentation
from mlcl.data.splits import Split
from mlcl.errors import MlclError
from mlcl.inference.model import Model
from mlcl.network import Network


@torch.no_grad()
def collect(
    model: Model | Network,
    data: MultiLabelDataModule,
    split: Split = "test",
    rows: Sequence[int] | None = None,
    absent: bool = False,
) -> ClassEmbeddings:
    """Class-specific embeddings of a split's images, without augmentation.

    Args:
        model: from :func:`mlcl.load`, which resizes as it was trained, or a network, for which the datamodule does.
        data: with the same classes; its splits are read if they are not yet.
        split: train, val or test.
        rows: positions of the images in the split; by default all.
        absent: keep the entries of absent classes, too, as neighbours and ``distances.absent`` need; this takes 4 K D
            bytes per image, 6.6 GB for COCO's test images at K = 80, D = 512.

    Raises:
        MlclError: for other classes, a split that is not there, or a picture that cannot be read.
    """
    network: Any = getattr(model, "network", model)
    own = getattr(model, "classes", None)
    if network.num_classes != data.num_classes or (own is not None and tuple(own) != tuple(data.classes)):
        raise MlclError(f"the model has other classes than {type(data).__name__} at {data.root}")
    mode = InterpolationMode(data.interpolation or network.interpolation)
    size = data.image_size
    if isinstance(model, Model):
        size, mode = model.image_size, InterpolationMode(model.interpolation)
    if not data.splits:
        data.read_splits()
    plain = data.dataset(split, augmented=False)
    # Nothing is known of a skipped one: it has no entry.
    dataset = ImageDataset(plain.samples, Augmentation(size, mode), bad=plain.bad, reading=plain.reading)
    chosen = Subset(dataset, range(len(dataset)) if rows is None else [int(row) for row in rows])
    if not len(chosen):
        raise MlclError("no image was chosen")
    training, found = network.training, []
    network.eval()
    for batch in DataLoader(chosen, batch_size=data.batch_size, num_workers=data.workers):
        out = network(batch["image"].to(network.mean.device))
        found.append(entries(out.embeddings, batch["target"], batch["index"].tolist(), absent))
    network.train(training)
    return join(found)
