"""Training, validation and test images: which of a dataset's splits serves as which."""

from collections.abc import Sequence
from typing import Literal

from mlcl.data.dataset import Samples
from mlcl.data.doubts import contradiction
from mlcl.data.file_names import short
from mlcl.data.labels import PRESENT, describe
from mlcl.errors import MlclError

Split = Literal["train", "val", "test"]
SPLITS: tuple[Split, ...] = ("train", "val", "test")


def checked(samples: Samples | None, split: Split, drop_empty: bool) -> Samples | None:
    """The images of a split of the dataset's files, on demand without those that have no present label.

    Raises:
        MlclError: if an image is listed twice with different labels.
    """
    if samples is None:
        return None
    if twice := contradiction(samples):
        raise MlclError(f"{split}: {short(str(twice))} is listed twice, with different labels")
    kept = samples.take((samples.targets == PRESENT).any(1)) if drop_empty else samples
    return kept._replace(source=split)


def divide(
    read: dict[Split, Samples | None], val_fraction: float, split_seed: int, test_only: bool = False
) -> tuple[dict[Split, Samples], str]:
    """The splits in use, and where the validation images come from, in words.

    Args:
        read: the dataset's own splits; None where it has none.
        val_fraction: share of the training images to hold out.
        split_seed: of their choice.
        test_only: the training images, and those held out of them, are elsewhere.
    """
    train, val, test = (read[split] for split in SPLITS)
    val_source = "its own split"
    if val_fraction and not test_only:
        if val is not None:
            raise MlclError(
                "data.val_fraction is set, but this dataset has a validation split of its own, which "
                "--data.val_fraction 0 uses"
            )
        if train is None:
            raise MlclError("data.val_fraction is set, but this dataset has no training split")
        (train, val), val_source = train.hold_out(val_fraction, split_seed), "held out from train"
        test, val_source = (test, val_source) if test is not None else (val, "held out from train; also the test")
    elif val is None and not test_only:
        val, val_source = test, "the test images: selection sees them; --data.val_fraction 0.1 holds some out"
    elif test is None:
        test = val
    named: dict[Split, Samples | None] = {"train": train, "val": val, "test": test}
    return {split: samples for split, samples in named.items() if samples is not None}, val_source


def described(splits: dict[Split, Samples], classes: Sequence[str], val_source: str, hidden: str) -> list[str]:
    """A line about each split, with where the validation images come from and what was hidden of the training."""
    notes = {"val": f" ({val_source})", "train": f" ({hidden})" if hidden else ""}
    return [f"{split:5} {describe(own.targets, classes)}{notes.get(split, '')}" for split, own in splits.items()]


def why_empty(split: Split, splits: dict[Split, Samples]) -> str:
    """What to do about a split without images; nothing if it has some."""
    if split in splits and len(splits[split].paths):
        return ""
    if split != "train":
        return "hold some out with --data.val_fraction 0.1, or give them a split"
    return "check its splits and data.val_fraction" if splits else "call setup() first"
