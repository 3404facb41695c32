"""A small annotation project, always the same: what the exporters of annotation tools are given, and what it means."""

import json
from pathlib import Path
from typing import Any

from support.trees import picture

CLASSES = ("cat", "dog", "hot dog", "owl", "yak")  # nobody has seen an owl
WIDTH, HEIGHT = 64, 48
# In turn: one label, none, two, several boxes of one, three, an unsure object alone, an unsure one beside a sure one.
_OBJECTS = [["cat"], [], ["cat", "dog"], ["dog", "dog", "dog"], ["cat", "dog", "yak"], ["hot dog?"], ["yak?", "yak"]]
COUNT = 40


def project() -> list[dict[str, Any]]:
    """40 pictures: ``name``, ``labels`` of the whole picture, and ``boxes``, each with its class and ``difficult``.

    Each label has a box, pixels x, y, width, height. Every seventh picture and the last are without any.
    """
    images: list[dict[str, Any]] = []
    for number in range(COUNT):
        objects = _OBJECTS[number % len(_OBJECTS)] if number < COUNT - 1 else []
        boxes = [
            {"name": name.rstrip("?"), "difficult": "?" in name, "box": [2 + 12 * k, 3 + 4 * k, 10 + k, 9]}
            for k, name in enumerate(objects)
        ]
        labels = sorted({box["name"] for box in boxes})
        images.append({"name": f"p{number:02}.jpg", "labels": labels, "boxes": boxes})
    return images


def write_project(folder: Path) -> Path:
    """``project.json`` and ``pictures/`` for the script of a tool."""
    (folder / "pictures").mkdir(parents=True)
    images = project()
    for number, image in enumerate(images):
        picture(WIDTH, HEIGHT, number).save(folder / "pictures" / image["name"])
    content = {"classes": CLASSES, "width": WIDTH, "height": HEIGHT, "images": images}
    file = folder / "project.json"
    file.write_text(json.dumps(content))
    return file


def truth(difficult: int = 1) -> dict[str, dict[str, int]]:
    """Name -> the code of each class that is not absent; ``difficult`` is that of one with only difficult objects."""
    found = {}
    for image in project():
        sure = {box["name"] for box in image["boxes"] if not box["difficult"]}
        codes = {name: difficult for name in image["labels"]} | dict.fromkeys(sure, 1)
        found[image["name"]] = {name: code for name, code in codes.items() if code}
    return found
