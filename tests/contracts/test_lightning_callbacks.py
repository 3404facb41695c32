"""Every public callback of Lightning works in a training or is refused with one line, as docs/callbacks.md says."""

import inspect
import re
from pathlib import Path

import pytest
import yaml
from lightning.pytorch import callbacks as lightnings
from support.running import REPOSITORY

from mlcl.callbacks import users
from mlcl.errors import MlclError

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


def train(mlcl, demo, *names):
    """A short training with these callbacks."""
    Path("own_size.py").write_text("def size(batch):\n    return len(batch['target'])\n")
    if "DeviceStatsMonitor" in names:
        pytest.importorskip("psutil")
    given = [{"class_path": name, "init_args": NEEDED.get(name, {})} for name in names]
    Path("callbacks.yaml").write_text(yaml.safe_dump({"trainer": {"callbacks": given}}))
    return mlcl("fit", *demo, *SHORT, "--config", "callbacks.yaml", "--name", "demo")


# Each average and each bar is the only one of a training.
ALONE = ("WeightAveraging", "EMAWeightAveraging", "RichProgressBar", "TQDMProgressBar")
WORKING = [name for name in CALLBACKS if TABLE[name][0] == "works" and name not in ALONE]


@pytest.mark.filterwarnings("ignore:.*flops_per_batch")
@pytest.mark.parametrize(
    "names",
    [pytest.param(ALONE[::2], marks=pytest.mark.slow), ALONE[1::2], WORKING],
    ids=["one", "other", "all others"],
)
def test_those_that_work_do_so_together(mlcl, demo, names):
    outcome = train(mlcl, demo, *names)
    assert outcome.status == 0, outcome.err
    assert Path("runs/demo/version_0/checkpoints/last.ckpt").is_file()
    stored = yaml.safe_load(Path("runs/demo/version_0/config.yaml").read_text())["trainer"]["callbacks"]
    assert [callback["class_path"].rpartition(".")[2] for callback in stored] == [*names]


@pytest.mark.parametrize("name", [name for name in CALLBACKS if TABLE[name][0] == "refused"])
def test_it_is_refused_as_the_table_says(name, tmp_path):
    callback = getattr(lightnings, name)(**NEEDED.get(name, {}))
    with pytest.raises(MlclError, match=f"^{re.escape(f'{name} is refused: {TABLE[name][1]}')}$"):
        users.admit([callback], tmp_path, bar=True, averaged=False)


@pytest.mark.filterwarnings("ignore:.*flops_per_batch")
@pytest.mark.parametrize(
    "name", [n if n == "Checkpoint" else pytest.param(n, marks=pytest.mark.slow) for n in CALLBACKS]
)
def test_it_works_or_is_refused_with_one_line(mlcl, demo, name):
    outcome = train(mlcl, demo, name)
    word, text = TABLE[name]
    if word == "works":
        assert outcome.status == 0, outcome.err
        assert Path("runs/demo/version_0/checkpoints/last.ckpt").is_file()
    else:
        assert (outcome.status, outcome.err) == (1, f"mlcl: {name} is refused: {text}\n")
        assert not Path("runs/demo").exists() or not list(Path("runs/demo").iterdir())
