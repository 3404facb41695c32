"""Selection of the present entries of a batch, as a number of rows that may be fixed beforehand."""

import torch
from torch import Tensor


def present_rows(embeddings: Tensor, targets: Tensor, capacity: int | None = None) -> tuple[Tensor, ...]:
    """The embeddings of present entries, in the order of images, classes and views, then padding up to R rows.

    Args:
        embeddings: (B, V, K, D).
        targets: (B, K) in {1, 0, -1}.
        capacity: R, at least the number of present entries times V. None counts them, which makes the host wait for
            the device and gives every step other shapes.

    Returns:
        Embeddings (R, D), 0 in the padding; image and label, (R,) int64; whether a row is no padding, (R,) bool.

    Raises:
        IndexError: if more are present than the capacity holds (on CUDA a device-side assert).
    """
    views, classes = embeddings.shape[1:3]
    present = (targets == 1)[:, :, None].expand(-1, -1, views).flatten()
    if capacity is None:
        capacity = max(1, int(present.sum()))  # not 0: what follows then needs no case without rows
    # The n-th present entry goes to place n, every other one to place 0, which is cut off.
    place = present.cumsum(0) * present
    entry = torch.arange(len(present), device=present.device)
    chosen = entry.new_zeros(capacity + 1).scatter_(0, place, entry)[1:]
    valid = torch.arange(capacity, device=present.device) < present.sum()
    image, label, view = chosen // (classes * views), chosen // views % classes, chosen % views
    # Padding is 0 rather than some entry, whose overflow would reach the gradient as 0 times infinity.
    rows = torch.where(valid[:, None], embeddings[image, view, label], 0)
    return rows, image, label, valid
