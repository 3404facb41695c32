"""Every loss and head in a size for a test."""

import functools
import inspect

import torch
from torch import Tensor

from mlcl.heads import HEADS
from mlcl.losses import CLASSIFICATION_LOSSES, EMBEDDING_LOSSES
from mlcl.module import MultiLabelModule
from mlcl.network import Network

B, V, K, S = 4, 2, 5, 32
SMALL = {"dim": 8, "ffn": 8, "heads": 2, "num_classes": K, "class_counts": [3.0] * K, "num_samples": 9}
ADAM = functools.partial(torch.optim.AdamW, lr=1e-3, fused=True)
# Each with its defaults, and the forms that do something else in a step.
EMBEDDINGS = {
    **{name: (name, {}) for name in EMBEDDING_LOSSES},
    "label, all": ("LabelContrastiveLoss", {"projection": 4, "bank": 3, "confidence": 0.0, "hard_negatives": 3}),
    "label, compat": ("LabelContrastiveLoss", {"compat": True}),
    "dual, means": ("DualContrastiveLoss", {"projection": 4, "prototypes": "mean", "confidence": 0.0}),
    "prototypes, means": ("PrototypeContrastiveLoss", {"prototypes": "mean", "absent": "push"}),
    "discriminative, cosine": ("DiscriminativeLoss", {"form": "cosine", "scope": "image"}),
    "image level, projector": ("MulSupConLoss", {"weights": "image", "projection": 4}),
}
COMPARING = [name for name, (kind, _) in EMBEDDINGS.items() if EMBEDDING_LOSSES[kind].compares_rows]


def make(kind: type, dim: int | None = None, **settings):
    """With small sizes, as far as its constructor takes them."""
    taken = inspect.signature(kind).parameters
    sizes = SMALL if dim is None else {**SMALL, "dim": dim}
    return kind(**{**{name: size for name, size in sizes.items() if name in taken}, **settings})


def module(head: str = "SemanticAttention", classification: str = "BinaryCrossEntropy", embedding: str | None = None):
    torch.manual_seed(0)
    network = Network("test_resnet", make(HEADS[head]), K)
    kind, settings = EMBEDDINGS[embedding] if embedding else (None, {})
    loss = make(EMBEDDING_LOSSES[kind], network.embedding_dim, **settings) if kind else None
    return MultiLabelModule(network, make(CLASSIFICATION_LOSSES[classification]), loss, optimizer=ADAM)


def batch(device: str = "cpu") -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    image = torch.randint(0, 256, (B, V, 3, S, S), dtype=torch.uint8, generator=generator)
    target = torch.randint(-1, 2, (B, K), generator=generator).to(torch.int8)
    return {"image": image.to(device), "target": target.to(device), "index": torch.arange(B).to(device)}
