"""Run by Datumaro's own Python: a project of labels, one of boxes, and one of both, in each format with either."""

import json
import sys
from pathlib import Path

FORMATS = (
    "coco",
    "voc",
    "cvat",
    "open_images",
    "imagenet",
    "imagenet_txt",
    "label_me",
    "datumaro",
    "yolo",
)


def main(source: Path, target: Path) -> None:
    from datumaro.components.annotation import Bbox, Label
    from datumaro.components.dataset import Dataset
    from datumaro.components.dataset_base import DatasetItem
    from datumaro.components.media import Image

    project = json.loads((source / "project.json").read_text())
    place = {name: k for k, name in enumerate(project["classes"])}
    for kind in (("labels",), ("boxes",), ("labels", "boxes")):
        items = []
        for number, image in enumerate(project["images"]):
            found = [Label(place[name]) for name in image["labels"]] if "labels" in kind else []
            for box in image["boxes"] if "boxes" in kind else []:
                more = {"difficult": box["difficult"], "occluded": False, "truncated": False}
                found.append(Bbox(*box["box"], label=place[box["name"]], attributes=more))
            file = source / "pictures" / image["name"]
            media = Image.from_file(path=str(file))
            items.append(
                DatasetItem(id=file.stem, subset="train", media=media, annotations=found, attributes={"id": number})
            )
        dataset = Dataset.from_iterable(items, categories=project["classes"])
        for format in FORMATS:
            folder = target / "_".join(kind) / format
            dataset.export(str(folder), format, save_media=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
