"""The moving average: what is validated, saved and tested, from the first step and after a delayed start."""

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import EMAWeightAveraging
from torch import nn
from torch.utils.data import DataLoader

from mlcl.callbacks import EMA


class Tiny(LightningModule):
    """A weight, running statistics and a counter."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.norm = nn.Linear(2, 1), nn.BatchNorm1d(1)
        self.register_buffer("counter", torch.zeros((), dtype=torch.int64))
        self.validated: list[dict[str, torch.Tensor]] = []

    def training_step(self, batch, _):
        self.counter += 1
        return self.norm(self.layer(batch)).square().mean() + self.layer.weight.sum()

    def validation_step(self, batch, _):
        self.validated.append({k: v.clone() for k, v in self.state_dict().items()})

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


class Raw(Callback):
    """The raw weights after every step."""

    def __init__(self) -> None:
        self.states: list[dict[str, torch.Tensor]] = []

    def on_train_batch_end(self, trainer, module, *_):
        self.states.append({k: v.clone() for k, v in module.state_dict().items()})

    def on_train_epoch_end(self, trainer, module):
        trainer.save_checkpoint(f"{trainer.default_root_dir}/{trainer.current_epoch}.ckpt", weights_only=False)


def fit(ema, tmp_path, epochs=2, start=None):
    torch.manual_seed(0)
    module, raw = Tiny(), Raw()
    data = DataLoader(torch.randn(12, 2), batch_size=4)
    trainer = Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, callbacks=[raw, ema], num_sanity_val_steps=0, default_root_dir=tmp_path,
    )  # fmt: skip
    trainer.fit(module, data, DataLoader(torch.randn(4, 2), batch_size=4), ckpt_path=start, weights_only=True)
    trainer.save_checkpoint(tmp_path / "end.ckpt")
    return module, raw.states, torch.load(tmp_path / "end.ckpt", weights_only=True)


pytestmark = pytest.mark.filterwarnings("ignore:.*does not have many workers", "ignore:.*log_every_n_steps")


def test_validated_and_saved_weights_are_the_average(tmp_path):
    module, raw, stored = fit(EMA(decay=0.35), tmp_path)
    expected = dict(raw[0])
    for state, keep in zip(raw[1:], (2 / 11, 3 / 12, 4 / 13, 0.35, 0.35), strict=True):  # 5 / 14 would be more
        expected = {k: keep * expected[k] + (1 - keep) * v if v.is_floating_point() else v for k, v in state.items()}
    for name, value in expected.items():
        torch.testing.assert_close(module.validated[-1][name], value)
        torch.testing.assert_close(stored["state_dict"][name], value)
        torch.testing.assert_close(module.state_dict()[name], value)  # left in the model after training
    assert stored["state_dict"]["counter"] == 6 and stored["state_dict"]["norm.num_batches_tracked"] == 6


def test_a_delayed_start_does_not_validate_untouched_weights(tmp_path):
    module, raw, stored = fit(EMA(decay=0.8, start_step=100), tmp_path)
    for name, value in raw[-1].items():
        torch.testing.assert_close(module.validated[-1][name], value)
        torch.testing.assert_close(stored["state_dict"][name], value)
        torch.testing.assert_close(module.state_dict()[name], value)


def test_the_warm_up_goes_on_where_it_stopped(tmp_path):
    """Two epochs and one more equal three, bit for bit."""
    fit(EMA(decay=0.9), tmp_path / "whole", epochs=3)
    fit(EMA(decay=0.9), tmp_path / "half")
    fit(EMA(decay=0.9), tmp_path / "half", epochs=3, start=tmp_path / "half" / "1.ckpt")
    whole, rest = (torch.load(tmp_path / name / "2.ckpt", weights_only=True) for name in ("whole", "half"))
    assert whole["averaging_state"]["n_averaged"] == rest["averaging_state"]["n_averaged"] == 9
    for part in ("state_dict", "current_model_state"):
        assert all(torch.equal(value, rest[part][name]) for name, value in whole[part].items())


@pytest.mark.parametrize(("epochs", "says"), [(1, True), (2, False)])
def test_an_average_that_is_still_near_its_start_says_so(tmp_path, capfd, epochs, says):
    """After 3 updates the first weights are 2/11 * 3/12 of it, 4.5 %; after 6 they are 0.2 %."""
    fit(EMA(decay=0.9997), tmp_path, epochs)
    lines = [line for line in capfd.readouterr().err.splitlines() if line.startswith("warning: the moving average")]
    assert len(lines) == says and all("3 updates, so 4.5%" in line for line in lines)


@pytest.mark.upstream
def test_trap_lightning_validates_untouched_weights_after_a_delayed_start(tmp_path):
    """Lightning 2.6.6; when this fails, the guards of our callback can go."""
    module, raw, _ = fit(EMAWeightAveraging(decay=0.8, update_starting_at_step=100), tmp_path)
    assert not torch.equal(module.validated[-1]["layer.weight"], raw[-1]["layer.weight"])


@pytest.mark.upstream
def test_trap_lightning_truncates_integer_buffers(tmp_path):
    """Lightning 2.6.6; when this fails, our averaging function can go."""
    _, _, stored = fit(EMAWeightAveraging(decay=0.8), tmp_path)
    assert stored["state_dict"]["counter"] != 6
