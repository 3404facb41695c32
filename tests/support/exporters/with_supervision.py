"""Run by supervision's own Python: boxes in each format of its detection dataset, single labels in its folders."""

import json
import sys
from pathlib import Path


def main(source: Path, target: Path) -> None:
    import numpy as np
    import supervision as sv

    project = json.loads((source / "project.json").read_text())
    place = {name: k for k, name in enumerate(project["classes"])}
    names, found = [], {}
    for image in project["images"]:
        path = str(source / "pictures" / image["name"])
        corners = [(x, y, x + width, y + height) for x, y, width, height in (box["box"] for box in image["boxes"])]
        names.append(path)
        found[path] = sv.Detections.empty()
        if corners:
            ids = np.array([place[box["name"]] for box in image["boxes"]])
            found[path] = sv.Detections(xyxy=np.array(corners, dtype=float), class_id=ids)
    data = sv.DetectionDataset(classes=project["classes"], images=names, annotations=found)
    coco, voc, yolo = (target / name for name in ("coco", "voc", "yolo"))
    data.as_coco(images_directory_path=str(coco / "images"), annotations_path=str(coco / "labels.json"))
    data.as_pascal_voc(images_directory_path=str(voc / "images"), annotations_directory_path=str(voc / "Annotations"))
    data.as_yolo(str(yolo / "images"), str(yolo / "labels"), str(yolo / "data.yaml"))
    labels = {  # a picture without a label makes it fail
        name: sv.Classifications(class_id=np.array([place[label] for label in image["labels"]]))
        for name, image in zip(names, project["images"], strict=True)
        if image["labels"]
    }
    folders = sv.ClassificationDataset(project["classes"], list(labels), labels)
    folders.as_folder_structure(str(target / "folders"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
