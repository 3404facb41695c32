"""The usual formulations, written from their formulas in the usual way: what ours are compared with."""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

REAL_LABELS = Path(__file__).parents[3] / "shared/data/labels/coco2014_val_labels.npz"
LABELS_PER_IMAGE = 2.94  # of COCO-2014 train


def coco_like(size: int, classes: int, seed: int = 0) -> np.ndarray:
    """Label rows (N, K) in {1, 0}, about three labels per image whatever K is.

    COCO-2014 train: one class in 55 % of the images, the others from 0.16 % to 14 %.
    """
    others = np.geomspace(0.00156, 0.137, classes - 1)
    frequency = np.append(others * (LABELS_PER_IMAGE - 0.55) / others.sum(), 0.55).clip(max=0.9)
    return (np.random.default_rng(seed).random((size, classes)) < frequency).astype(np.int8)


def all_pairs(embeddings: Tensor, targets: Tensor, temperature: float = 0.2) -> Tensor:
    """The label contrastive loss: every (image, view, class) row against every other, masks tell who counts."""
    views = embeddings if embeddings.ndim == 4 else embeddings[:, None]
    count, classes = views.shape[1], views.shape[2]
    rows = F.normalize(views.float(), dim=-1).flatten(0, 2)
    present = (targets == 1)[:, None].expand(-1, count, -1).flatten()
    labels = torch.arange(classes, device=rows.device).repeat(len(targets) * count)
    similarity = rows @ rows.T / temperature
    candidate = (present[:, None] & present).fill_diagonal_(False)
    positive = candidate & (labels[:, None] == labels)
    partners = positive.sum(1)
    denominator = similarity.masked_fill(~candidate, torch.finfo(similarity.dtype).min).logsumexp(1)
    pulled = torch.where(positive, similarity - denominator[:, None], 0).sum(1) / partners.clamp(min=1)
    return -pulled.sum() / (partners > 0).sum().clamp(min=1)


class ClassAttention(nn.Module):
    """f_k = sum_p softmax_p(A_k(p)) W_v F(p): every position is projected, then pooled for each class."""

    def __init__(self, channels: int, classes: int, dim: int) -> None:
        super().__init__()
        self.class_maps, self.value = nn.Conv2d(channels, classes, 1), nn.Linear(channels, dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        attention = self.class_maps(features).flatten(2).softmax(-1)
        embeddings = attention @ self.value(features.flatten(2).transpose(1, 2))
        return (embeddings * self.classifier.weight).sum(-1) + self.classifier.bias, embeddings


class _Layer(nn.Module):
    """Post-norm attention and feed-forward part; no attention among the queries."""

    def __init__(self, dim: int, ffn: int, heads: int) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(dim, heads, dropout=0.1, batch_first=True)
        self.inner, self.outer, self.dropout = nn.Linear(dim, ffn), nn.Linear(ffn, dim), nn.Dropout(0.1)
        self.norms = nn.ModuleList([nn.LayerNorm(dim), nn.LayerNorm(dim)])

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        x = self.norms[0](x + self.dropout(self.attention(query, key, value)[0]))
        return self.norms[1](x + self.dropout(self.outer(self.dropout(F.relu(self.inner(x))))))


class Decoder(nn.Module):
    """One encoder layer and two decoder layers, a learned query per class (arXiv 2107.10834): 2048 and 8192 wide."""

    def __init__(self, channels: int, classes: int, dim: int = 2048, ffn: int = 8192, heads: int = 4) -> None:
        super().__init__()
        self.project = nn.Conv2d(channels, dim, 1)
        self.encoder = _Layer(dim, ffn, heads)
        self.decoder = nn.ModuleList([_Layer(dim, ffn, heads), _Layer(dim, ffn, heads)])
        self.queries = nn.Embedding(classes, dim)
        self.classifier = nn.Linear(dim, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        tokens = self.project(features)
        place = _sine_code(tokens)
        tokens = tokens.flatten(2).transpose(1, 2)
        tokens = self.encoder(tokens, tokens + place, tokens + place, tokens)
        queries = self.queries.weight[None].repeat(len(tokens), 1, 1)
        state = torch.zeros_like(queries)
        for layer in self.decoder:
            state = layer(state, state + queries, tokens + place, tokens)
        return (state * self.classifier.weight).sum(-1) + self.classifier.bias, state


def _sine_code(tokens: Tensor) -> Tensor:
    """Sines and cosines of row and column for a map (B, D, h, w), as (1, h * w, D)."""
    _, dim, height, width = tokens.shape
    frequency = 10000 ** (-torch.arange(0, dim // 2, 2, device=tokens.device) / (dim // 2))

    def code(length: int) -> Tensor:
        angles = 2 * math.pi / length * torch.arange(1, length + 1, device=tokens.device)[:, None] * frequency
        return torch.stack([angles.sin(), angles.cos()], -1).flatten(1)

    rows, columns = code(height)[:, None].expand(-1, width, -1), code(width)[None].expand(height, -1, -1)
    return torch.cat([rows, columns], -1).flatten(0, 1)[None].to(tokens.dtype)


class Research(nn.Module):
    """A backbone in NCHW, a head, binary cross-entropy and the loss over all pairs; images come as normalised floats.

    Args:
        backbone: of timm.
        head: from a feature map to logits and embeddings.
        contrastive: whether the loss over all pairs is added.
    """

    def __init__(self, backbone: nn.Module, head: nn.Module, contrastive: bool = True) -> None:
        super().__init__()
        self.backbone, self.head, self.contrastive = backbone, head, contrastive

    def forward(self, image: Tensor, targets: Tensor) -> Tensor:
        logits, embeddings = self.head(self.backbone.forward_features(image))
        loss = F.binary_cross_entropy_with_logits(logits, targets.to(logits.dtype))
        return loss + all_pairs(embeddings, targets) if self.contrastive else loss
