"""Run by labelme2coco's own Python: the files of a LabelMe project, with boxes and flags, as COCO."""

import json
import shutil
import sys
from pathlib import Path


def main(source: Path, target: Path) -> None:
    import labelme2coco

    project = json.loads((source / "project.json").read_text())
    size = {"imageWidth": project["width"], "imageHeight": project["height"]}
    folder = target / "labelme"
    shutil.copytree(source / "pictures", folder)
    for image in project["images"][:-1]:  # nobody has opened the last one
        shapes = [
            {"label": box["name"], "points": [[x, y], [x + width, y + height]], "shape_type": "rectangle", "flags": {}}
            for box, (x, y, width, height) in ((box, box["box"]) for box in image["boxes"])
        ]
        flags = {name: name in image["labels"] for name in project["classes"]}
        content = {"version": "5.5.0", "flags": flags, "shapes": shapes, "imagePath": image["name"], **size}
        (folder / image["name"]).with_suffix(".json").write_text(json.dumps({**content, "imageData": None}))
    labelme2coco.convert(str(folder), str(target / "coco"))


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
