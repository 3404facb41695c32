"""Annotation files in the form of MS-COCO's ``instances_*.json``: their lists, checked, and the objects that count."""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from mlcl.data.file_names import checked, short
from mlcl.errors import MlclError

Entry = dict[str, Any]
_ID = int | float | str
_KEYS: dict[str, dict[str, Any]] = {  # the keys that are used, of the entries of each list
    "categories": {"id": _ID, "name": str},
    "images": {"id": _ID, "file_name": str},
    "annotations": {"image_id": _ID, "category_id": _ID},
}
_LONGEST = 5000  # characters of a name: NumPy uses as many for every other name, 4 bytes each


class Content(NamedTuple):
    """The lists of an annotation file, whose ids are checked; what else an entry holds is as it was written."""

    file: Path
    categories: list[Entry]  # by id, numbers before text
    images: list[Entry]  # by id, numbers before text
    annotations: list[Entry]  # as in the file, then the labels of whole images
    columns: Mapping[Any, int]  # id -> position in categories
    rows: Mapping[Any, int]  # id -> position in images
    unused: int  # annotations of images that are not listed

    @property
    def names(self) -> tuple[str, ...]:
        """Of the categories."""
        return tuple(entry["name"] for entry in self.categories)


def load(annotations: Path) -> Content:
    """Read and check an annotation file. Not by pycocotools, which silently drops an image whose id is another's.

    Raises:
        MlclError: if it cannot be read, is not COCO JSON, two ids of a list mean the same, a category is unknown, a
            file name cannot be one, or none of the annotations is of a listed image.
    """
    try:
        content = json.loads(annotations.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise MlclError(f"{annotations} cannot be read: {error.strerror}") from None
    except RecursionError:
        raise NotCOCO(annotations, "it is nested without end") from None
    except ValueError as error:  # truncated or wrong JSON, with its line; or not UTF-8
        raise NotCOCO(annotations, str(error)) from None
    categories, images, objects = (_entries(content, key, annotations) for key in _KEYS)
    if "tag_categories" in content:
        tags = _entries(content, "tag_categories", annotations, _KEYS["categories"])
        known = {number(entry["id"]) for entry in categories}
        categories += [entry for entry in tags if number(entry["id"]) not in known]
        objects += _tags(images, annotations)
    categories = sorted(categories, key=lambda entry: _order(number(entry["id"])))
    images = sorted(images, key=lambda entry: _order(entry["id"]))
    columns, rows = _places(categories, "categories", annotations), _places(images, "images", annotations)
    unused = 0
    for place, entry in enumerate(objects):
        if number(entry["category_id"]) not in columns:
            unknown = short(repr(entry["category_id"]))
            raise NotCOCO(annotations, f"annotations[{place}]: category {unknown} is unknown")
        unused += number(entry["image_id"]) not in rows  # many use a part of the images with all of the annotations
    if objects and unused == len(objects):
        raise MlclError(
            f"{annotations}: none of its {len(objects):,} annotations belongs to one of its {len(images):,} images: "
            f"image_id {short(repr(objects[0]['image_id']))} is none of {short(str([i['id'] for i in images[:5]]))}..."
        )
    for entry in images:
        checked(entry["file_name"], f"{annotations}, image {entry['id']}")
    return Content(annotations, categories, images, objects, columns, rows, unused)


def selected(
    content: Content, classes: Sequence[str], min_area: float = 0, crowd: str = "keep"
) -> Iterator[tuple[int, int, Entry]]:
    """The objects that count: position of the image in ``content.images``, of the class in ``classes``, and the entry.

    Args:
        content: of an annotation file.
        classes: names; objects of other categories are left out.
        min_area: pixels of the original picture; smaller objects are left out. See :func:`area_of`.
        crowd: keep or drop entries whose ``iscrowd`` is 1.

    Raises:
        MlclError: with ``min_area``, for an object without an area.
    """
    place = {name: k for k, name in enumerate(classes)}
    columns = {entry["id"]: place.get(entry["name"]) for entry in content.categories}
    columns = {number(id): column for id, column in columns.items()}
    for position, entry in enumerate(content.annotations):
        column, row = columns[number(entry["category_id"])], content.rows.get(number(entry["image_id"]))
        if column is None or row is None or (crowd == "drop" and number(entry.get("iscrowd")) == 1):
            continue
        if min_area <= 0 or area_of(entry, f"{content.file}: annotations[{position}]") >= min_area:
            yield row, column, entry


def area_of(entry: Entry, place: str) -> float:
    """Pixels of an object: its ``area``, else those of its ``bbox`` (x, y, width, height), else of its polygons.

    An area of 0 counts as none given, as some exporters write it for every object.

    Raises:
        MlclError: if it has none of the three; the message begins with ``place``.
    """
    area: Any = entry.get("area")
    box, outlines = entry.get("bbox"), entry.get("segmentation")
    if _is_number(area) and area > 0:
        return float(area)
    if isinstance(box, list) and len(box) == 4 and all(map(_is_number, box)) and min(box[2:]) >= 0:
        return float(box[2] * box[3])
    if isinstance(outlines, list) and outlines and all(map(_is_polygon, outlines)):
        return sum(map(_polygon_area, outlines))
    if _is_number(area) and area == 0:
        return 0.0
    raise MlclError(f"{place} has no area, bbox or polygon, so data.min_area cannot be applied; leave it at 0")


def number(id: Any) -> Any:
    """An id as a number if it is one: exporters write 3, 3.0, "3" and "003", at times all in one file."""
    text = re.fullmatch(r"\s*(-?[0-9]{1,300})(\.0*)?\s*", id) if isinstance(id, str) else None
    return int(text[1]) if text else id


class NotCOCO(MlclError):
    """The file is not in COCO's form."""

    def __init__(self, annotations: Path, reason: str) -> None:
        super().__init__(f"{annotations} is not a COCO annotation file: {reason}")


def _tags(images: list[Entry], annotations: Path) -> list[Entry]:
    """Labels of whole images, which V7's exporter writes into the images' entries, as annotations without a place."""
    tags = []
    for place, image in enumerate(images):
        ids = image.get("tag_ids") or []
        if not isinstance(ids, list) or not all(isinstance(id, _ID) for id in ids):
            raise NotCOCO(annotations, f"images[{place}]: tag_ids is {short(repr(ids))}")
        tags += [{"image_id": image["id"], "category_id": id} for id in ids]
    return tags


def _entries(content: Any, key: str, annotations: Path, keys: dict[str, Any] | None = None) -> list[Entry]:
    """One of the lists in the file; what we use of each entry, by default the keys of that list, is number or text."""
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list):
        raise NotCOCO(annotations, f"it has no list {key!r}")
    for place, entry in enumerate(entries):
        if key == "images" and isinstance(entry, dict) and isinstance(url := entry.get("coco_url"), str):
            entry.setdefault("file_name", "/".join(url.split("/")[-2:]))  # LVIS v1 gives no other name
        for name, kind in (keys or _KEYS[key]).items():
            value = entry.get(name) if isinstance(entry, dict) else None
            if not isinstance(value, kind) or value != value or len(str(value)) > _LONGEST:  # NaN differs from itself
                raise NotCOCO(annotations, f"{key}[{place}]: {name} is {short(repr(value))}")
    return entries


def _order(id: Any) -> tuple[bool, Any]:
    """Numbers before text."""
    return isinstance(id, str), id


def _places(entries: list[Entry], key: str, annotations: Path) -> dict[Any, int]:
    """The position of each id."""
    places: dict[Any, int] = {}
    for place, entry in enumerate(entries):
        first = places.setdefault(number(entry["id"]), place)
        if first != place:
            ids = dict.fromkeys(short(repr(entries[n]["id"])) for n in (first, place))
            raise NotCOCO(annotations, f"two of the {key} have the id {' and '.join(ids)}")
    return places


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e18


def _is_polygon(outline: Any) -> bool:
    """Whether it is a list x1, y1, x2, y2, ... of three or more points."""
    return isinstance(outline, list) and len(outline) >= 6 and len(outline) % 2 == 0 and all(map(_is_number, outline))


def _polygon_area(outline: list[float]) -> float:
    """By the shoelace formula."""
    x, y = outline[::2], outline[1::2]
    following = zip(x, y, x[1:] + x[:1], y[1:] + y[:1], strict=True)
    return abs(sum(x0 * y1 - x1 * y0 for x0, y0, x1, y1 in following)) / 2
