"""What the attention heads share: checks, multi-head attention, a transformer layer and the sine position code."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mlcl.heads.base import full_precision


def check_multiple(name: str, value: int, of: str, divisor: int) -> None:
    """Raise a ValueError that names both unless ``value`` is a positive multiple of ``divisor``."""
    if value < 1 or divisor < 1 or value % divisor:
        raise ValueError(f"{name} must be a positive multiple of {of}, got {value} and {divisor}")


def check_at_least(minimum: int, **settings: int | None) -> None:
    """Raise a ValueError that names the first setting below the minimum; None passes."""
    for name, value in settings.items():
        if value is not None and value < minimum:
            raise ValueError(f"{name} must be at least {minimum}, got {value}")


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    heads: int,
    scale: float | None = None,
    dropout: float = 0.0,
    with_map: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """softmax(scale * q k^T) v in each head, on projected queries, keys and values.

    Args:
        query: (B, N, dim), or (1, N, dim) for the same queries in all images.
        key: (B, P, dim).
        value: (B, P, dim).
        heads: number of attention heads, each ``dim / heads`` wide.
        scale: factor of the scores; None is 1 / sqrt(dim / heads).
        dropout: probability of dropping a weight; 0 outside training.
        with_map: also return the softmax, which is then computed in full precision.

    Returns:
        The heads side by side, (B, N, dim), and the weights before dropout, averaged over heads, (B, N, P) or None.
    """
    query, key, value = (torch.unflatten(x, -1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    if not with_map:
        query = query.expand(key.shape[0], -1, -1, -1)  # the fast kernels do not broadcast
        mixed = F.scaled_dot_product_attention(query, key, value, dropout_p=dropout, scale=scale)
        return mixed.transpose(1, 2).flatten(2), None
    with full_precision(key):
        wide = torch.promote_types(key.dtype, torch.float32)
        scores = query.to(wide) @ key.to(wide).transpose(-2, -1)
        weights = (scores * (scale or 1 / math.sqrt(key.shape[-1]))).softmax(-1)
    mixed = F.dropout(weights, dropout, training=dropout > 0).to(value.dtype) @ value
    return mixed.transpose(1, 2).flatten(2), weights.mean(1)


class TransformerLayer(nn.Module):
    """Post-norm layer: x <- LN(x + MHA(query, key, value)), then x <- LN(x + W_2 ReLU(W_1 x)).

    Dropout acts on the attention weights, after the attention, inside and after the feed-forward part. Weights are
    Xavier-uniform with q, k and v taken as one matrix, biases 0, as in ``nn.MultiheadAttention``.

    Args:
        dim: width.
        ffn: width inside the feed-forward part.
        heads: number of attention heads.
        dropout: probability.
        with_map: return the attention too, see :func:`attend`.
    """

    def __init__(self, dim: int, ffn: int, heads: int, dropout: float, with_map: bool = False) -> None:
        super().__init__()
        self.heads, self.with_map, self.dropout = heads, with_map, nn.Dropout(dropout)
        self.query, self.key, self.value = nn.Linear(dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)
        self.out, self.inner, self.outer = nn.Linear(dim, dim), nn.Linear(dim, ffn), nn.Linear(ffn, dim)
        self.norm_attention, self.norm_ffn = nn.LayerNorm(dim), nn.LayerNorm(dim)
        for linear in (self.query, self.key, self.value, self.out, self.inner, self.outer):
            joint = linear in (self.query, self.key, self.value)
            nn.init.xavier_uniform_(linear.weight, gain=math.sqrt(0.5) if joint else 1.0)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Tensor, query: Tensor, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor | None]:
        """Next x (B, N, dim) and the attention (B, N, P), if kept; x and query may be (1, N, dim)."""
        projected = self.query(query), self.key(key), self.value(value)
        dropout = self.dropout.p if self.training else 0.0
        mixed, attention = attend(*projected, self.heads, dropout=dropout, with_map=self.with_map)
        x = self.norm_attention(x + self.dropout(self.out(mixed)))
        inside = self.dropout(F.relu(self.inner(x)))
        return self.norm_ffn(x + self.dropout(self.outer(inside))), attention


def sine_code(height: int, width: int, dim: int, like: Tensor) -> Tensor:
    """DETR's fixed code of the position (row r, column c), both from 1, with ``dim`` channels, a multiple of 4.

    The first half of the channels codes the row by the angle t = 2 pi r / height, the second half the column by
    t = 2 pi c / width. Channel 2i of a half is sin(t / 10000^(2i / (dim / 2))), channel 2i + 1 the cosine.

    Returns:
        (height * width, dim), with the device and the type of ``like``.
    """
    half, kind = dim // 2, torch.promote_types(like.dtype, torch.float32)
    exponent = torch.arange(0, half, 2, device=like.device, dtype=kind) / half
    frequency = 10000.0**-exponent

    def code(length: int) -> Tensor:
        angle = 2 * math.pi / length * torch.arange(1, length + 1, device=like.device, dtype=kind)
        angles = angle[:, None] * frequency
        return torch.stack((angles.sin(), angles.cos()), -1).flatten(1)

    rows = code(height)[:, None].expand(-1, width, -1)
    columns = code(width)[None].expand(height, -1, -1)
    return torch.cat((rows, columns), -1).flatten(0, 1).to(like.dtype)
