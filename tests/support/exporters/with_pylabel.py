"""Run by PyLabel's own Python: boxes that came as a COCO file, in each format that it writes."""

import json
import shutil
import sys
from pathlib import Path


def main(source: Path, target: Path) -> None:
    from pylabel import importer

    project = json.loads((source / "project.json").read_text())
    place = {name: k for k, name in enumerate(project["classes"])}
    size = {"width": project["width"], "height": project["height"]}
    annotations = [
        {"image_id": n, "category_id": place[box["name"]], "bbox": box["box"], "area": 1, "iscrowd": 0}
        for n, image in enumerate(project["images"])
        for box in image["boxes"]
    ]
    content = {
        "images": [{"id": n, "file_name": image["name"], **size} for n, image in enumerate(project["images"])],
        "annotations": [{"id": n, **entry} for n, entry in enumerate(annotations)],
        "categories": [{"id": k, "name": name, "supercategory": ""} for name, k in place.items()],
    }
    (target / "given").mkdir(parents=True)
    given = target / "given" / "given.json"
    given.write_text(json.dumps(content))
    shutil.copytree(source / "pictures", target / "given" / "pictures")
    data = importer.ImportCoco(str(given), path_to_images="pictures")
    for name in ("coco", "voc"):
        (target / name).mkdir()
    data.export.ExportToCoco(str(target / "coco" / "labels.json"))
    data.export.ExportToVoc(str(target / "voc"))
    data.export.ExportToYoloV5(str(target / "yolo" / "labels"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
