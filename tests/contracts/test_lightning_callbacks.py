"""Every public callback of Lightning works in a training or is refused with one line, as docs/callbacks.md says."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import callbacks as lightnings
from support.running import REPOSITORY

TABLE = dict(
    (name, (word, text))
    for name, word, text in re.findall(
        r"^\| `(\w+)` \| (works|refused) \|(?: (.+?))? \|$", (REPOSITORY / "docs" / "callbacks.md").read_text(), re.M
    )
)
CALLBACKS = sorted(
    name for name, kind in vars(lightnings).items() if inspect.isclass(kind) and issubclass(kind, lightnings.Callback)
)
NEEDED = {  # arguments without a default
    "EarlyStopping": {"monitor": "val/mAP", "mode": "max"},
    "GradientAccumulationScheduler": {"scheduling": {0: 1, 4: 2}},
    "ModelPruning": {"pruning_fn": "l1_unstructured"},
    "OnExceptionCheckpoint": {"dirpath": "kept"},
    "StochasticWeightAveraging": {"swa_lrs": 0.01},
    "ThroughputMonitor": {"batch_size_fn": "own_size.size"},
}
SHORT = [
    *("--data.image_size", "32", "--trainer.limit_train_batches", "2", "--trainer.limit_val_batches", "1"),
    *("--trainer.max_epochs", "1", "--test_after_fit", "false", "--ema_decay", "null"),
    *("--trainer.num_sanity_val_steps", "0"),
]


def test_the_table_has_every_callback():
    assert sorted(TABLE) == CALLBACKS and len(CALLBACKS) >= 26


@pytest.mark.filterwarnings("ignore:.*flops_per_batch")
@pytest.mark.parametrize("name", CALLBACKS)
def test_it_works_or_is_refused_with_one_line(mlcl, demo, name):
    Path("own_size.py").write_text("def size(batch):\n    return len(batch['target'])\n")
    if name == "DeviceStatsMonitor":
        pytest.importorskip("psutil")
    given = {"class_path": name, "init_args": NEEDED.get(name, {})}
    Path("callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": [given]}}))
    outcome = mlcl("fit", *demo, *SHORT, "--config", "callbacks.yaml", "--name", "demo")
    word, text = TABLE[name]
    if word == "works":
        assert outcome.status == 0, outcome.err
        assert Path("runs/demo/version_0/checkpoints/last.ckpt").is_file()
    else:
        assert (outcome.status, outcome.err) == (1, f"mlcl: {name} is refused: {text}\n")
        assert not Path("runs/demo").exists() or not list(Path("runs/demo").iterdir())
