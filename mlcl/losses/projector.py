"""The projector between class-specific embeddings and a contrastive loss, used in training only."""

import torch.nn.functional as F
from torch import Tensor, nn


class Projector(nn.Module):
    """Linear (D to D), ReLU, Linear (D to P), scaled to length 1.

    The form of both papers: 1024-1024-128 in MulCon (arXiv 2107.11626), 2048-2048-1024 in SADCL (arXiv 2307.09715).

    Args:
        dim: D, width of the head's embeddings.
        out: P, width of what is compared; 0 has no layers and only brings embeddings to length 1.

    Raises:
        ValueError: for a negative width, or one without ``dim``.
    """

    def __init__(self, dim: int | None, out: int) -> None:
        super().__init__()
        if out < 0 or (out and dim is None):
            raise ValueError(f"projection must be 0, or positive and come with dim: got {out} and dim {dim}")
        dim = dim or 0
        self.layers = nn.ModuleList([nn.Linear(dim, dim), nn.Linear(dim, out)] if out else [])

    def forward(self, rows: Tensor) -> Tensor:
        """(..., D) to unit vectors (..., P), in the precision of ``rows`` even if the parameters' is lower."""
        for number, layer in enumerate(self.layers):
            rows = F.relu(rows) if number else rows
            weight, bias = (layer.get_parameter(name).to(rows.dtype) for name in ("weight", "bias"))
            rows = F.linear(rows, weight, bias)
        return F.normalize(rows, dim=-1)
