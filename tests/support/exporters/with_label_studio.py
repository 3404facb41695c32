"""Run by the Python of Label Studio's SDK: a project of choices, one of boxes, and one of both, in each format.

The last picture is one that nobody has annotated; every other one without labels was submitted as such.
"""

import json
import shutil
import sys
from pathlib import Path


def config(project: dict, choices: bool, boxes: bool) -> str:
    """The labelling interface, as its users write it."""
    parts = ['<Image name="image" value="$image"/>']
    if choices:
        options = "".join(f'<Choice value="{name}"/>' for name in project["classes"])
        parts.append(f'<Choices name="labels" toName="image" choice="multiple">{options}</Choices>')
    if boxes:
        options = "".join(f'<Label value="{name}"/>' for name in project["classes"])
        parts.append(f'<RectangleLabels name="box" toName="image">{options}</RectangleLabels>')
    return f"<View>{''.join(parts)}</View>"


def task(number: int, image: dict, project: dict, choices: bool, boxes: bool) -> dict:
    """A task as Label Studio's own JSON export holds it."""
    size = {"original_width": project["width"], "original_height": project["height"]}
    result = []
    if choices and image["labels"]:
        value = {"choices": image["labels"]}
        result.append({"from_name": "labels", "to_name": "image", "type": "choices", "value": value})
    for box in image["boxes"] if boxes else []:
        x, y, width, height = box["box"]
        place = {"x": 100 * x / project["width"], "y": 100 * y / project["height"]}
        place |= {"width": 100 * width / project["width"], "height": 100 * height / project["height"]}
        value = {**place, "rotation": 0, "rectanglelabels": [box["name"]]}
        result.append({"from_name": "box", "to_name": "image", "type": "rectanglelabels", "value": value, **size})
    if number % 2:
        result.reverse()  # whatever the annotator does first comes first
    annotation = {
        "id": 500 + number,
        "result": result,
        "was_cancelled": False,
        "completed_by": {"id": 1, "email": "rater@example.org"},
        "created_at": "2026-01-02T03:04:05Z",
        "updated_at": "2026-01-02T03:04:05Z",
        "lead_time": 1.5,
    }
    annotated = [] if number == len(project["images"]) else [annotation]
    return {"id": number, "data": {"image": f"/data/upload/1/{image['name']}"}, "annotations": annotated}


def main(source: Path, target: Path) -> None:
    from label_studio_sdk.converter import Converter

    project = json.loads((source / "project.json").read_text())
    shutil.copytree(source / "pictures", target / "media" / "upload" / "1")
    for kind in (
        {"choices": True, "boxes": False},
        {"choices": False, "boxes": True},
        {"choices": True, "boxes": True},
    ):
        name = "_".join(what for what, there in kind.items() if there)
        tasks = [task(number, image, project, **kind) for number, image in enumerate(project["images"], 1)]
        (target / name).mkdir(parents=True)
        file = target / name / "tasks.json"
        file.write_text(json.dumps(tasks))
        for format in ("CSV", "JSON_MIN", "COCO", "COCO_WITH_IMAGES", "VOC", "YOLO"):
            here = target / "media" / "upload" if format == "COCO_WITH_IMAGES" else target / "elsewhere"
            converter = Converter(config(project, **kind), str(target / name), upload_dir=str(here))
            converter.convert(str(file), str(target / name / format.lower()), format, is_dir=False)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
