"""Which of Lightning's classes a checkpoint may name, and with what settings."""

import inspect
from pathlib import Path

import pytest
from lightning.pytorch import callbacks as lightnings

from mlcl.data import MultiLabelDataModule
from mlcl.errors import MlclError
from mlcl.runs import trust

LIGHTNING = "lightning.pytorch"
RMTREE = f"{LIGHTNING}.callbacks.model_checkpoint.shutil.rmtree"


@pytest.fixture
def checked(tmp_path, monkeypatch):
    """As the record of a run in this folder would have it."""
    monkeypatch.chdir(tmp_path)
    run = Path("runs/demo/version_0")
    (run / "checkpoints").mkdir(parents=True)
    (run / "config.yaml").touch()

    def check(key, name, settings, *trusted, **others):
        given = {"class_path": f"{LIGHTNING}.{name}", "init_args": settings, **others}
        for value in (given, [given]):
            trust.check_classes({"trainer": {key: value}}, run / "checkpoints" / "last.ckpt", trusted)

    return check


@pytest.mark.parametrize(
    ("key", "name", "settings"),
    [
        ("callbacks", "callbacks.EarlyStopping", {"monitor": "val/mAP", "mode": "max", "stopping_threshold": None}),
        ("callbacks", "callbacks.ModelCheckpoint", {"dirpath": None, "filename": "{epoch}-{val/mAP:.3f}"}),
        ("callbacks", "callbacks.ModelCheckpoint", {"dirpath": "runs/demo/version_0/top", "filename": "demo.top"}),
        ("callbacks", "callbacks.Timer", {"duration": "00:12:00:00"}),
        ("callbacks", "callbacks.LambdaCallback", {"on_fit_start": None}),
        ("callbacks", "callbacks.RichProgressBar", {"theme": {
            "class_path": f"{LIGHTNING}.callbacks.progress.rich_progress.RichProgressBarTheme",
            "init_args": {"description": "", "metrics_format": ".3f"}}}),
        ("strategy", "strategies.DDPStrategy", {"timeout": "0:05:00", "process_group_backend": "gloo"}),
        ("profiler", "profilers.SimpleProfiler", {"dirpath": None, "filename": "times"}),
        ("plugins", "plugins.precision.MixedPrecision", {"precision": "bf16-mixed", "device": "cpu"}),
        ("logger", "loggers.CSVLogger", {"save_dir": "logs", "name": "lightning_logs", "version": None, "prefix": ""}),
    ],
)  # fmt: skip
def test_a_continued_run_may_have_what_it_had(checked, key, name, settings):
    checked(key, name, settings)


def test_every_callback_is_trusted_with_its_defaults(checked):
    for name in lightnings.__all__:
        checked("callbacks", f"callbacks.{name}", {})


@pytest.mark.parametrize(
    ("key", "name", "settings"),
    [
        ("callbacks", "callbacks.ModelCheckpoint", {"dirpath": "/elsewhere"}),
        ("callbacks", "callbacks.ModelCheckpoint", {"dirpath": "runs/demo/version_1/checkpoints"}),
        ("callbacks", "callbacks.ModelCheckpoint", {"dirpath": "~"}),
        ("callbacks", "callbacks.ModelCheckpoint", {"dirpath": "s3://evil/bucket"}),
        ("callbacks", "callbacks.ModelCheckpoint", {"filename": "../../../../x"}),
        ("callbacks", "callbacks.ModelCheckpoint", {"filename": "/x"}),
        ("callbacks", "callbacks.OnExceptionCheckpoint", {"dirpath": "."}),
        ("callbacks", "callbacks.SpikeDetection", {"exclude_batches_path": "x.json"}),
        ("callbacks", "callbacks.LambdaCallback", {"on_fit_start": "os.abort"}),
        ("callbacks", "callbacks.LambdaCallback", {"on_fit_start": "torch.os.abort"}),
        ("callbacks", "callbacks.LambdaCallback", {"on_fit_start": RMTREE}),
        ("callbacks", "callbacks.ThroughputMonitor", {"batch_size_fn": "evil.size"}),
        ("callbacks", RMTREE.removeprefix(f"{LIGHTNING}."), {}),
        ("callbacks", "callbacks.model_checkpoint.Path", {}),
        ("strategy", "strategies.DDPStrategy", {"ddp_comm_hook": "torch.os.abort"}),
        ("strategy", "strategies.DeepSpeedStrategy", {"config": {"wandb": {"enabled": True, "team": "evil"}}}),
        ("profiler", "profilers.SimpleProfiler", {"dirpath": "/elsewhere", "filename": "times"}),
        ("profiler", "profilers.PyTorchProfiler", {"on_trace_ready": "evil.send"}),
        ("logger", "loggers.CSVLogger", {"save_dir": "/elsewhere"}),
        ("logger", "loggers.CSVLogger", {"save_dir": "runs/demo", "name": "", "version": "version_1"}),
        ("logger", "loggers.MLFlowLogger", {"tracking_uri": "http://evil"}),
        ("callbacks", "loggers.WandbLogger", {}),
        ("callbacks", "utilities.seed.seed_everything", {}),
    ],
)  # fmt: skip
def test_a_checkpoint_reaches_nothing_else(checked, key, name, settings):
    with pytest.raises(MlclError, match=r"last\.ckpt names the class .*; if you trust it, add --import"):
        checked(key, name, settings)


def test_no_class_hides_in_other_settings(checked):
    with pytest.raises(MlclError, match="names the class evil"):
        checked("callbacks", "callbacks.ModelSummary", {"max_depth": {"class_path": "evil.Depth"}})
    with pytest.raises(MlclError, match="'/elsewhere', which is not in the run's folder"):
        checked("profiler", "profilers.PyTorchProfiler", {}, dict_kwargs={"on_trace": ["/elsewhere"]})


def test_who_trusts_lightning_says_so(checked):
    checked("callbacks", "callbacks.ModelCheckpoint", {"dirpath": "/elsewhere"}, f"{LIGHTNING}.callbacks")
    with pytest.raises(MlclError, match="add --import evil"):
        checked("callbacks", "callbacks.LambdaCallback", {"on_fit_start": "evil.f"}, f"{LIGHTNING}.callbacks")


def test_a_checkpoint_outside_of_a_run_has_no_places():
    config = {"class_path": f"{LIGHTNING}.callbacks.ModelCheckpoint", "init_args": {"dirpath": "here"}}
    with pytest.raises(MlclError, match="dirpath 'here', which is not in the run's folder"):
        trust.check_classes({"trainer": {"callbacks": [config]}}, "moved.ckpt")


def test_the_names_that_datasets_take_are_no_classes():
    """A file such as train.json looks like a module and its class."""
    kinds, text = [MultiLabelDataModule], {}
    for kind in kinds:
        kinds += [other for other in kind.__subclasses__() if other.__module__.startswith("mlcl.")]
        given = inspect.signature(kind).parameters.values()
        text |= {name.name: kind for name in given if str(name.annotation) in ("<class 'str'>", "str | None")}
    assert {"train", "csv", "root"} < text.keys()
    for name, kind in text.items():
        config = {"class_path": f"mlcl.data.{kind.__name__}", "init_args": {name: "train.json"}}
        if name not in ("augment", "label_separator"):  # what these hold never looks like one
            trust.check_classes({"data": config}, "moved.ckpt")
