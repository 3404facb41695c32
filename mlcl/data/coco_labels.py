"""The labels in a COCO annotation file, kept in a cache: parsing COCO's own takes 10 s and 2 GB in every process."""

import difflib
import hashlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mlcl.data.coco_file import Content, load, number, selected
from mlcl.data.file_names import short
from mlcl.data.labels import Targets, encode
from mlcl.data.options import one_of
from mlcl.data.row_file import cache_folder
from mlcl.errors import MlclError
from mlcl.system.files import write_whole

_CACHE_FORMAT = 5  # to be raised when a table of the same file and options is another


class Table(NamedTuple):
    """What an annotation file says of its N images and all its K categories, both in the order of their ids."""

    classes: NDArray[np.str_]  # (K,) names
    supercategories: NDArray[np.str_]  # (K,) names, or nothing
    counts: NDArray[np.int64]  # (K,) annotations of each category, of any size, whether their image is listed or not
    file_names: NDArray[np.str_]  # (N,)
    targets: Targets  # (N, K)
    unused: NDArray[np.int64]  # () annotations of images that are not listed

    def columns(self, classes: Sequence[str]) -> Targets:
        """(N, len(classes)) of the targets, by name.

        Raises:
            KeyError: if there is no category of a name.
        """
        place = {name: column for column, name in enumerate(self.classes.tolist())}
        if list(classes) == list(place):
            return self.targets
        return np.ascontiguousarray(self.targets[:, [place[name] for name in classes]])


def objects(content: Content, min_area: float, crowd: str) -> tuple[list[str], Targets]:
    """N names and (N, K) targets: a category is present in an image where one of its objects counts, else absent."""
    present: list[set[int]] = [set() for _ in content.images]
    for row, column, _ in selected(content, content.names, min_area, crowd):
        present[row].add(column)
    return [entry["file_name"] for entry in content.images], encode(present, len(content.categories))


def read_table(
    annotations: Path,
    min_area: float = 0,
    crowd: str = "keep",
    labels_of: Callable[[Content, float, str], tuple[list[str], Targets]] = objects,
) -> Table:
    """The labels of a file, from the cache if it was read before with these options; 0.1 s for COCO's own.

    Args:
        annotations: in COCO's form.
        min_area: see :func:`mlcl.data.coco_file.selected`.
        crowd: see :func:`mlcl.data.coco_file.selected`.
        labels_of: makes the images' names and targets from the file's content and the two options.

    Raises:
        MlclError: for what is wrong with the file; nothing is cached then.
    """
    try:
        state = annotations.stat()
    except OSError as error:
        raise MlclError(f"{annotations} cannot be read: {error.strerror}") from None
    key = f"{_CACHE_FORMAT}:{annotations.resolve()}:{state.st_size}:{state.st_mtime_ns}"
    key += f":{float(min_area)}:{crowd}:{labels_of.__module__}.{labels_of.__qualname__}"
    name = f"{annotations.stem}-{hashlib.blake2b(key.encode(), digest_size=8).hexdigest()}.npz"
    cache = cache_folder() / "labels" / name
    with suppress(Exception):  # missing or damaged
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return Table(**{key: stored[key] for key in Table._fields})
    content = load(annotations)
    names, targets = labels_of(content, min_area, crowd)
    seen = Counter(number(entry["category_id"]) for entry in content.annotations)
    table = Table(
        classes=np.array(content.names, dtype=str),
        supercategories=np.array([str(entry.get("supercategory") or "") for entry in content.categories], dtype=str),
        counts=np.array([seen[number(entry["id"])] for entry in content.categories], dtype=np.int64),
        file_names=np.array(names, dtype=str),
        targets=targets,
        unused=np.array(content.unused),
    )
    arrays: dict[str, Any] = table._asdict()
    with suppress(MlclError):  # without a cache it is only slower
        write_whole(cache, lambda partial: np.savez_compressed(partial, **arrays))
    return table


def check_objects(min_area: float, crowd: str) -> None:
    """Raise MlclError unless the options of objects are valid."""
    if not 0 <= min_area < float("inf"):
        raise MlclError(f"data.min_area is {min_area}, it must be a number of pixels, at least 0")
    one_of("crowd", crowd, "keep", "drop")


def chosen(classes: Sequence[str] | None, known: Iterable[str], where: str) -> tuple[str, ...]:
    """The classes of the option ``data.classes``, by default all that are known.

    Raises:
        MlclError: for a name that is not known, with the one that is closest to it, or that is given twice.
    """
    known = tuple(known)
    names = known if classes is None else tuple(classes)
    if not names:
        raise MlclError(f"{where}: no class (data.classes)")
    for name, times in Counter(names).items():
        if times > 1:
            raise MlclError(f"data.classes names {short(name)!r} more than once")
    of_lower = {name.lower(): name for name in known}
    for name in names:
        if name not in known:
            closest = difflib.get_close_matches(name.lower(), of_lower, n=1)
            hint = f"did you mean {short(of_lower[closest[0]])!r}?" if closest else f"known: {short(', '.join(known))}"
            raise MlclError(f"data.classes: {short(name)!r} is no class of {where}; {hint}")
    return names


def note_unused(table: Table, file: Path, split: str) -> dict[str, str]:
    """A note on annotations of images that are not listed, by split."""
    count = int(table.unused)
    text = f"{split}: {count:,} annotations are of images that {file.name} does not list"
    return {split: text} if count else {}
