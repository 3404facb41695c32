"""What TensorBoard is given, read back with its own reader."""

from pathlib import Path

import numpy as np
import pytest
from support.running import REPOSITORY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mlcl.callbacks.logged_results import show_in_tensorboard
from mlcl.metrics import NAMES
from mlcl.report.views import Picture, Table, Views

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own, of its readers


def events(folder):
    read = EventAccumulator(str(folder), size_guidance={"images": 0, "tensors": 0, "scalars": 0})
    read.Reload()
    return read


def text(read, tag):
    return "\n".join(event.tensor_proto.string_val[0].decode() for event in read.Tensors(f"{tag}/text_summary"))


@pytest.mark.slow
def test_a_run_with_the_overlay(mlcl, demo):
    overlay = str(REPOSITORY / "configs" / "loggers" / "tensorboard.yaml")
    flags = ("--trainer.max_epochs", "1", "--trainer.log_every_n_steps", "2", "--log_images", "6")
    result = mlcl("fit", *demo, "--config", overlay, *flags)
    assert result.status == 0, result.err
    assert list(Path().glob("runs/demo/version_0/metrics.csv"))  # a logger makes no other run, and csv stays
    read = events("runs/tensorboard/demo/version_0")
    assert {"val/mAP", "train/loss", "lr-AdamW/other", "gradient/head", *(f"test/{name}" for name in NAMES)} <= {
        *read.Tags()["scalars"]
    }
    assert {"test/false_positives", "test/reliability", "test/embeddings"} <= {*read.Tags()["images"]}
    assert len(read.Images("test/false_positives")) == 3
    table = text(read, "test/per_class")
    assert "| class | AP (percent) |" in table
    assert "| moon |" in table
    assert list(Path("runs/tensorboard/demo/version_0").glob("**/projector_config.pbtxt"))


def test_nothing_in_a_table_is_html_or_the_end_of_a_cell(tmp_path):
    from torch.utils.tensorboard import SummaryWriter

    name = "<script>a|b</script>\n# c"
    shown = Views(
        "test",
        tables={"per_class": Table(["class", "AP"], [[name, 0.51234567], ["plain", None]])},
        curves=Table(["class", "recall", "precision"], []),
        pictures={"false_positives": [Picture(np.zeros((4, 4, 3), np.uint8), name)]},
    )
    with SummaryWriter(str(tmp_path)) as writer:
        show_in_tensorboard(writer, shown)
    read = events(tmp_path)
    assert text(read, "test/per_class").splitlines()[2:] == [
        "| &lt;script&gt;a&#124;b&lt;/script&gt; # c | 0.5123 |", "| plain |  |",
    ]  # fmt: skip
    assert "<" not in text(read, "test/false_positives")


def test_without_the_package_one_line_says_how_to_get_it(mlcl, demo, monkeypatch):
    import lightning.fabric.loggers.tensorboard as module

    for name in ("_TENSORBOARD_AVAILABLE", "_TENSORBOARDX_AVAILABLE"):
        monkeypatch.setattr(module, name, False)
    result = mlcl("fit", *demo, "--trainer.logger", "TensorBoardLogger", "--trainer.logger.save_dir", "x")
    assert result.status != 0
    assert "tensorboard" in result.err.strip().splitlines()[-1]
    assert "Traceback" not in result.err
