"""The chunks of a pack: litdata writes each one, and what our own reader needs to know of it is written beside it."""

import io
import json
import multiprocessing
import os
import tempfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from torch.utils.data import Dataset

from mlcl.data.dataset import Samples
from mlcl.data.images import ImageError, content_at, read_image
from mlcl.data.pack import INDEX
from mlcl.data.store import Store
from mlcl.errors import MlclError

_FIELDS = 4  # of a sample: image, index, name, target; each is 4 bytes of a size, then its content
_LARGEST = 4_000_000_000  # bytes of a chunk's pictures, beside names and labels: litdata's offsets have 32 bits


class Folder(NamedTuple):
    """The images of a folder of the pack."""

    samples: Samples
    names: NDArray[np.bytes_]  # (N,)
    sizes: NDArray[np.int64]  # (N,) bytes of each file


class Part(NamedTuple):
    """A chunk to be written: some of a folder's images."""

    folder: str
    number: int
    rows: NDArray[np.int64]

    @property
    def chunk(self) -> str:
        """Its name, as litdata writes it."""
        return f"{self.folder}/chunk-0-{self.number}.bin"

    @property
    def notes(self) -> str:
        """Written after the chunk: what the table and the index need to know of it."""
        return f"{self.folder}/chunk-0-{self.number}.json"


class Reduction(NamedTuple):
    """What pictures are packed in place of the files."""

    side: int  # pixels of the shorter side
    quality: int  # of the JPEGs
    skip: bool  # what cannot be read is kept as it is
    reading: dict[str, Any]  # arguments of read_image

    def __call__(self, content: bytes | bytearray, path: Path) -> bytes | bytearray:
        """A smaller JPEG, upright; the same content if the picture is not larger. ImageError if it cannot be read."""
        try:
            pixels = read_image(path, content=bytearray(content), **self.reading)
        except ImageError as error:
            if self.skip:
                return content  # for whoever reads it to tell
            raise ImageError(
                f"{error}; mlcl check finds all of these, --data.on_bad_image skip packs them as they are"
            ) from error
        height, width = pixels.shape[-2:]
        if (scale := self.side / min(height, width)) >= 1:
            return content
        size = max(self.side, round(width * scale)), max(self.side, round(height * scale))
        small = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC)
        buffer = io.BytesIO()
        small.save(buffer, "JPEG", quality=self.quality)
        return buffer.getvalue()


class ChunkWriter(Dataset[str]):
    """Writes a chunk, and returns its name.

    Args:
        store: where to.
        temporary: how the paths of the folders begin in which chunks are made.
        parts: the chunks.
        folders: their images, by the name of the folder.
        reduction: by default files are packed as they are.
    """

    def __init__(
        self,
        store: Store,
        temporary: Path,
        parts: Sequence[Part],
        folders: Mapping[str, Folder],
        reduction: Reduction | None = None,
    ) -> None:
        self.store, self.temporary, self.parts, self.folders = store, temporary, parts, folders
        self.reduction = reduction

    def __len__(self) -> int:
        """Number of chunks."""
        return len(self.parts)

    def __getitem__(self, place: int) -> str:
        """Write the chunk at this place; MlclError for what cannot be read or written."""
        part = self.parts[place]
        with scratch(self.temporary) as folder:
            file, facts = self._made(part, folder)
            for name, content in ((part.chunk, file), (part.notes, json.dumps(facts).encode())):
                parent = multiprocessing.parent_process()
                if parent is not None and not parent.is_alive():
                    raise SystemExit(1)  # killed; the next one may be at work, and done before this
                self.store.write(name, content)
        return part.chunk

    def _made(self, part: Part, folder: Path) -> tuple[Path, dict[str, Any]]:
        """A chunk's file, and the facts."""
        from litdata.streaming import Cache

        samples, names, _ = self.folders[part.folder]
        cache = Cache(str(folder), chunk_bytes=1 << 62, writer_chunk_index=part.number)  # all that it gets in one chunk
        found: dict[str, list[int]] = {"size": [], "crc": []}
        image = b""
        for number, row in enumerate(part.rows.tolist()):
            content = content_at(samples.paths, row)
            image = bytes(self.reduction(content, samples.paths[row]) if self.reduction else content)
            name = names[row].decode(errors="backslashreplace")
            cache[number] = {"image": image, "index": row, "name": name, "target": samples.targets[row]}
            found["size"].append(len(image))
            found["crc"].append(zlib.crc32(image))
        if sum(found["size"]) > _LARGEST:
            raise MlclError(f"{part.chunk} would have {sum(found['size']):,} bytes; give a smaller --chunk_mb")
        [written] = cache.done() or []
        [index] = folder.glob(f"*{INDEX}")
        facts = json.loads(index.read_text())
        # litdata names chunks by the worker that writes them.
        facts["chunks"][0]["filename"] = Path(part.chunk).name
        with open(written, "rb") as file:
            offsets = np.frombuffer(file.read(4 * (len(part.rows) + 1)), "<u4")[1:] + 4 * _FIELDS
            file.seek(int(offsets[-1]))
            if file.read(len(image)) != image:
                raise MlclError("this litdata writes chunks in another format than mlcl reads; install an older one")
            size = os.fstat(file.fileno()).st_size
        return Path(written), {"size": size, "images": {"offset": offsets.tolist(), **found}, "litdata": facts}


@contextmanager
def scratch(beginning: Path) -> Iterator[Path]:
    """A folder, removed afterwards, whose path begins so; what the disk refuses becomes an MlclError."""
    try:
        with tempfile.TemporaryDirectory(prefix=beginning.name, dir=beginning.parent) as folder:
            yield Path(folder)
    except OSError as error:
        raise MlclError(f"{beginning.parent}: {error.strerror or error}") from error
