"""The loop over batches in every precision."""

import pytest
import torch

from mlcl.heads import GlobalPool
from mlcl.inference import forward
from mlcl.network import Network


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "bf16-true", "64-true"])
def test_precisions(precision):
    torch.manual_seed(0)
    network = Network("test_resnet", GlobalPool(), 3).eval()
    batch = {"image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8), "index": torch.tensor([4, 5])}
    with torch.no_grad():
        expected = network(batch["image"]).logits
    ((same, found),) = forward.logits(forward.start("cpu", precision=precision), network, [batch])
    assert same is batch and found.shape == (2, 3)
    torch.testing.assert_close(found.float(), expected, atol=0.05, rtol=0.05)
    assert torch.equal(found.float(), expected) == (precision == "32-true")


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
def test_one_device_without_lightning_says_what_fabric_says(precision, monkeypatch):
    torch.manual_seed(0)
    network = Network("test_resnet", GlobalPool(), 3).eval()
    batch = {"image": torch.randint(0, 256, (2, 3, 32, 32), dtype=torch.uint8)}
    ((_, alone),) = forward.logits(forward.start("cpu", "1", precision), network, [batch])
    monkeypatch.setattr(forward, "_alone", lambda *_: None)
    process = forward.start("cpu", "1", precision)
    ((_, fabric),) = forward.logits(process, network, [batch])
    assert torch.equal(alone, fabric) and (process.share.rank, process.share.count) == (0, 1)
