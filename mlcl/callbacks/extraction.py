"""What the data take from the network: how images are resized, and the feature maps of ``--data.cache features``."""

import hashlib
from typing import Any

import torch
from lightning import Callback
from torch import Tensor

from mlcl.data.features import Extractor
from mlcl.distributed import SharedError
from mlcl.system.console import say

_AT_ONCE = 16  # pictures on a CPU, where more take more memory and no less time


class Extraction(Callback):
    """Gives the datamodule the backbone before it makes its loaders."""

    def setup(self, trainer: Any, pl_module: Any, stage: str) -> None:
        """Resize images as the backbone's weights expect it; refuse features of a backbone that is trained."""
        data: Any = getattr(trainer, "datamodule", None)
        network = pl_module.network
        if data is not None and data.interpolation is None:
            data.interpolation = network.interpolation
        if getattr(data, "cache", None) != "features":
            return
        if not network.frozen:  # its features would be those of another network after the first step
            raise SharedError(
                "--data.cache features needs a backbone that is frozen as a whole: --model.network.freeze_stages all"
            )

        @torch.inference_mode()
        def compute(pixels: Tensor) -> Tensor:
            parts = torch.split(pixels, _AT_ONCE if pl_module.device.type == "cpu" else len(pixels))
            with trainer.precision_plugin.forward_context():
                return torch.cat([network.features(part.to(pl_module.device)).cpu() for part in parts])

        if stage == "fit" and data.augment != "none":
            kept = data.views_cached
            instead = "each epoch sees the same" if kept == 1 else f"each epoch takes one of {kept} views that are kept"
            say(f"data.augment {data.augment} does not draw pictures anew in each epoch: of cached features, {instead}")
        self._keys: set[str] = set()

        def key() -> str:
            self._keys.add(now := key_of(network, trainer.precision))
            return now

        data.extractor = Extractor(compute, network.made_of[0], key)

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Refuse features of another network than the one that is trained now, after the hooks of all callbacks."""
        keys: set[str] = getattr(self, "_keys", set())
        if keys and keys != {key_of(pl_module.network, trainer.precision)}:
            raise SharedError(
                "the backbone was changed after its features were computed (by a callback of yours?): change it in the "
                "callback's setup, or train with --data.cache none"
            )


def key_of(network: Any, precision: str) -> str:
    """Hash of all that changes the feature maps of given pixels: weights, statistics, architecture, precision."""
    digest = hashlib.blake2b(repr((network.made_of, precision, str(network.memory_format))).encode(), digest_size=16)
    tensors = {**network.backbone.state_dict(), "mean": network.mean, "std": network.std}
    for name, tensor in tensors.items():
        digest.update(f"{name} {tensor.dtype} {(*tensor.shape,)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
