"""Images without labels, for predictions."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.utils.data import Dataset

from mlcl.data.image_files import content_of
from mlcl.data.images import ImageError, read_image, resize


@dataclass
class FolderDataset(Dataset[dict[str, Any]]):
    """Pictures without labels."""

    paths: Sequence[str]  # files, or images that lie elsewhere
    image_size: int  # S, the side of what the network sees
    interpolation: str  # of the resizing to it
    reading: dict[str, Any] = field(default_factory=dict)  # arguments of read_image

    def __len__(self) -> int:
        """Number of images."""
        return len(self.paths)

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, S, S) uint8, ``index``, ``error``: empty, or why it could not be read (then it is black)."""
        try:
            picture = read_image(self.paths[index], content=content_of(self.paths, index), **self.reading)
            return {"image": resize(picture, self.image_size, self.interpolation), "index": index, "error": ""}
        except ImageError as error:
            reason = error.of_prediction(self.paths[index])
            black = torch.zeros(3, self.image_size, self.image_size, dtype=torch.uint8)
            return {"image": black, "index": index, "error": reason}
