"""Run by the Python of V7's darwin-py: a project of tags, one of boxes, and one of both, in each format."""

import json
import sys
from pathlib import Path


def annotations(image: dict, kind: tuple) -> list[dict]:
    """As in a Darwin JSON 2.0 file."""
    found: list[dict] = []
    for name in image["labels"] if "tags" in kind else []:
        found.append({"name": name, "tag": {}})
    for box in image["boxes"] if "boxes" in kind else []:
        x, y, width, height = box["box"]
        found.append({"name": box["name"], "bounding_box": {"x": x, "y": y, "w": width, "h": height}})
    return [{"id": f"{image['name']}-{n}", "slot_names": ["0"], **entry} for n, entry in enumerate(found)]


def main(source: Path, target: Path) -> None:
    from darwin.exporter import export_annotations, get_exporter

    project = json.loads((source / "project.json").read_text())
    for kind in (("tags",), ("boxes",), ("tags", "boxes")):
        folder = target / "_".join(kind)
        (folder / "releases").mkdir(parents=True)
        files = []
        for image in project["images"]:
            slot = {"type": "image", "slot_name": "0", "width": project["width"], "height": project["height"]}
            slot["source_files"] = [{"file_name": image["name"], "url": ""}]
            item = {"name": image["name"], "path": "/", "slots": [slot]}
            content = {"version": "2.0", "item": item, "annotations": annotations(image, kind)}
            files.append((folder / "releases" / image["name"]).with_suffix(".json"))
            files[-1].write_text(json.dumps(content))
        for format in ("coco", "pascalvoc", "yolo", "cvat"):
            (folder / format).mkdir()
            export_annotations(get_exporter(format), files, folder / format)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
