"""Run by globox's own Python: the project as boxes, in each format that it saves."""

import json
import sys
from pathlib import Path


def main(source: Path, target: Path) -> None:
    from globox import Annotation, AnnotationSet, BoundingBox

    project = json.loads((source / "project.json").read_text())
    size = project["width"], project["height"]
    every = AnnotationSet(
        Annotation(
            image_id=image["name"],
            image_size=size,
            boxes=[
                BoundingBox(
                    label=box["name"],
                    xmin=box["box"][0],
                    ymin=box["box"][1],
                    xmax=box["box"][0] + box["box"][2],
                    ymax=box["box"][1] + box["box"][3],
                )
                for box in image["boxes"]
            ],
        )
        for image in project["images"]
    )
    for name in ("coco", "voc", "labelme", "openimage", "imagenet", "cvat", "via_json"):
        (target / name).mkdir(parents=True, exist_ok=True)
    every.save_coco(target / "coco" / "labels.json", auto_ids=True)
    every.save_pascal_voc(target / "voc")
    every.save_labelme(target / "labelme")
    every.save_openimage(target / "openimage" / "annotations.csv")
    every.save_imagenet(target / "imagenet")
    every.save_cvat(target / "cvat" / "annotations.xml")
    every.save_via_json(target / "via_json" / "via.json", image_folder=source / "pictures")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
