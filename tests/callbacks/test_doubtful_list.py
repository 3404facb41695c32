"""``label_issues.csv`` for file names that are not UTF-8, and for tested images that were trained on."""

from pathlib import Path

import torch
from support.saved_runs import write_run

from mlcl.callbacks import label_issues
from mlcl.data import MultiLabelDataModule
from mlcl.data.dataset import Samples
from mlcl.metrics import MultiLabelMetrics
from mlcl.runs import results


class Given(MultiLabelDataModule):
    """Images that nobody reads; the first ten tested ones are training images too."""

    classes = ("=cat", "dog, big")

    def __init__(self, targets):
        super().__init__(root="photos")
        paths = [Path("photos", f"{n}\udcfc.jpg") for n in range(40)]
        self.given = {"train": Samples(paths[:10], targets[:10]), "test": Samples(paths, targets)}

    def read_split(self, split):
        return self.given.get(split)


def test_names_come_back_as_they_are_on_disk_and_trained_images_are_not_judged(tmp_path):
    generator = torch.Generator().manual_seed(0)
    targets = torch.randint(0, 2, (40, 2), generator=generator, dtype=torch.int8)
    logits = torch.randn(40, 2, generator=generator) + 4 * targets - 2
    wrong = [(3, 0), (20, 0), (30, 1)]
    for row, k in wrong:
        targets[row, k] = 1 - targets[row, k]
    data, metrics = Given(targets.numpy()), MultiLabelMetrics(2)
    data.read_splits()
    metrics.update(logits, targets, torch.arange(40))
    metrics.compute()
    names, classes = data.splits["test"].names(data.root), list(data.classes)
    write_run(tmp_path, logits, targets, names=names, classes=classes)
    count = label_issues.write(tmp_path, metrics.evaluation, "test", classes, names, data)
    content = (tmp_path / "label_issues.csv").read_bytes()
    assert b"20\xfc.jpg,'=cat," in content and b'30\xfc.jpg,"dog, big",' in content
    listed = results.read(tmp_path).label_issues
    assert len(listed) == count and [(row, k) for row, k, _ in listed][:2] in ([*wrong[1:]], [*wrong[:0:-1]])
    assert min(row for row, *_ in listed) >= 10
