"""Network = timm backbone + head: pixels in, logits, class-specific embeddings and attention out."""

from difflib import get_close_matches
from pathlib import Path
from typing import Any, Self

import timm
import torch
from timm.layers import freeze_batch_norm_2d
from timm.models import group_parameters
from torch import Tensor, nn

from mlcl.errors import MlclError
from mlcl.heads import Head, HeadOutput


class Network(nn.Module):
    """A backbone from timm, used as a feature map, and a head.

    The normalisation lives in here (mean and std belong to the weights), so that loaders move uint8 pixels and an
    exported network takes them.

    Args:
        backbone: any timm model name; ``resnet101.tv_in1k`` is the ImageNet V1 weight set of the papers.
        head: makes logits and embeddings from the feature map; built here, see :class:`Head`.
        num_classes: K.
        pretrained: download timm's weights; ``weights`` takes precedence.
        weights: path of local backbone weights (.safetensors or .pth).
        backbone_kwargs: passed on to ``timm.create_model``, e.g. ``{img_size: 448}`` for a ViT.
        freeze_batch_norm: fix the statistics and the affine part of every BatchNorm (SADCL).
        freeze_stages: number of first stages that are not trained; 1 is the stem, 2 the stem and the first stage.
        channels_last: memory format of the backbone; faster on CPU and CUDA.

    Raises:
        MlclError: for an unknown backbone, weights that do not fit it, or a backbone without a feature map.
    """

    def __init__(
        self,
        backbone: str,
        head: Head,
        num_classes: int,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        freeze_batch_norm: bool = False,
        freeze_stages: int = 0,
        channels_last: bool = True,
    ) -> None:
        super().__init__()
        self.backbone = _create_backbone(backbone, pretrained, weights, backbone_kwargs or {})
        config = self.backbone.pretrained_cfg
        self.interpolation: str = config["interpolation"]
        self.register_buffer("mean", torch.tensor(config["mean"]).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"]).view(1, -1, 1, 1))
        if freeze_batch_norm:
            self.backbone = freeze_batch_norm_2d(self.backbone)
        self._frozen_norms = _freeze_stages(self.backbone, freeze_stages)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)
        self.head = head.build(self.backbone.num_features, num_classes)
        self.num_classes, self.embedding_dim = num_classes, head.embedding_dim

    def forward(self, image: Tensor) -> HeadOutput:
        """Logits (B, K), embeddings (B, K, D) and, where the head has one, attention (B, K, h, w).

        Args:
            image: (B, 3, H, W) RGB, uint8 or float in [0, 1].
        """
        return self.head(self.features(image))

    def features(self, image: Tensor) -> Tensor:
        """The backbone's feature map, (B, C, h, w)."""
        image = image.to(self.mean.dtype).div(255) if image.dtype == torch.uint8 else image.to(self.mean.dtype)
        normalised = ((image - self.mean) / self.std).contiguous(memory_format=self.memory_format)
        return self._as_map(self.backbone.forward_features(normalised), image.shape[-2:])

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but the BatchNorms of frozen stages keep their statistics."""
        super().train(mode)
        for norm in self._frozen_norms:
            norm.eval()
        return self

    def _as_map(self, features: Tensor, size: torch.Size) -> Tensor:
        """CNNs give (B, C, h, w), Swin-like models (B, h, w, C), ViT-like ones (B, prefix + h * w, C)."""
        channels = self.backbone.num_features
        if features.ndim == 4 and features.shape[1] == channels:
            return features
        if features.ndim == 4 and features.shape[3] == channels:
            return features.permute(0, 3, 1, 2)
        if features.ndim == 3 and features.shape[2] == channels:
            tokens = features[:, getattr(self.backbone, "num_prefix_tokens", 0) :]
            rows = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
            if rows and tokens.shape[1] % rows == 0:
                return tokens.transpose(1, 2).unflatten(2, (rows, -1))
        raise MlclError(f"backbone gives {(*features.shape,)} for {(*size,)} pixels: no feature map; try another one")


def _create_backbone(name: str, pretrained: bool, weights: str | None, options: dict[str, Any]) -> nn.Module:
    if weights is not None and not Path(weights).is_file():
        raise MlclError(f"{weights}: no such weights file (model.network.weights)")
    if not timm.is_model(name):
        close = get_close_matches(name.split(".")[0], timm.list_models(), n=4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise MlclError(f"timm has no model {name!r} (model.network.backbone){hint} timm.list_models() lists them all")
    if weights is not None:
        options = {**options, "pretrained_cfg_overlay": {"file": weights, **options.get("pretrained_cfg_overlay", {})}}
    try:
        return timm.create_model(
            name, pretrained=pretrained or weights is not None, num_classes=0, global_pool="", **options
        )
    except Exception as error:  # timm raises whatever its models and the download raise
        source = f"with the weights {weights}" if weights else "with its pretrained weights" if pretrained else ""
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        offline = "; without a network give model.network.weights a local file" if pretrained and not weights else ""
        raise MlclError(f"backbone {name} cannot be made {source}: {reason}{offline}".replace("  ", " ")) from error


def _freeze_stages(backbone: nn.Module, stages: int) -> list[nn.Module]:
    """Stop training the first stages; returns their BatchNorms, which must stay in evaluation mode."""
    if stages == 0:
        return []
    groups = group_parameters(backbone, backbone.group_matcher(coarse=True), return_values=False)
    ids = sorted(groups)
    if not 0 < stages <= len(ids):
        raise MlclError(f"model.network.freeze_stages is {stages}, this backbone has {len(ids)} stages")
    frozen = {name for group in ids[:stages] for name in groups[group]}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    norms = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    return [m for n, m in backbone.named_modules() if isinstance(m, norms) and f"{n}.weight" in frozen]
