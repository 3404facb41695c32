"""Network = timm backbone + head: pixels in, logits, class-specific embeddings and attention out."""

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from mlcl.backbones.backbone import as_map, create_backbone, freeze
from mlcl.errors import MlclError
from mlcl.heads import Head, HeadOutput

Tta = Literal["none", "flip"]  # what is done more at test time


class Network(nn.Module):
    """A backbone from timm without its classifier, and a head; normalises pixels itself.

    Args:
        backbone: any timm model name; ``resnet101.tv_in1k`` is the ImageNet V1 weight set of the papers.
        head: makes logits and embeddings from the feature map; built here, see :class:`Head`.
        num_classes: K.
        pretrained: download timm's weights; ``weights`` takes precedence.
        weights: path of local backbone weights (.safetensors or .pth).
        backbone_kwargs: passed on to ``timm.create_model``, e.g. ``{img_size: 448}`` for a ViT.
        freeze_batch_norm: fix the statistics and the affine part of every BatchNorm (SADCL).
        freeze_stages: number of first stages that are not trained; 1 is the stem, 2 the stem and the first stage; or
            all, for a backbone that stays as it is.
        channels_last: memory format of the backbone; faster on CPU and CUDA.
        freeze_epochs: epochs before the backbone is trained, too; until then it computes as in a test.
        feature_norm: give the head every position's features with mean 0 and variance 1 over the channels.

    Raises:
        MlclError: for an unknown backbone, weights that do not fit it, or a backbone without a feature map.
    """

    backbone: Any  # a timm model
    mean: Tensor
    std: Tensor
    tta: Tta = "none"  # in eval mode, flip takes the mean logits of a picture and its mirror image

    def __init__(
        self,
        backbone: str,
        head: Head,
        num_classes: int,
        pretrained: bool = False,
        weights: str | None = None,
        backbone_kwargs: dict[str, Any] | None = None,
        freeze_batch_norm: bool = False,
        freeze_stages: int | Literal["all"] = 0,
        channels_last: bool = True,
        freeze_epochs: int = 0,
        feature_norm: bool = True,
    ) -> None:
        super().__init__()
        if freeze_epochs < 0:
            raise MlclError(f"model.network.freeze_epochs is {freeze_epochs}, it must be at least 0")
        self.freeze_epochs, self.held = freeze_epochs, False  # held by mlcl.callbacks.FreezeFirst
        self.made_of = backbone, backbone_kwargs or {}
        self.backbone = create_backbone(backbone, pretrained, weights, backbone_kwargs or {})
        config = self.backbone.pretrained_cfg
        self.interpolation = "bilinear" if config["interpolation"] == "bilinear" else "bicubic"
        self.register_buffer("mean", torch.tensor(config["mean"], dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(config["std"], dtype=torch.float32).view(1, -1, 1, 1))
        self._frozen_norms = freeze(self.backbone, freeze_stages, freeze_batch_norm)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.backbone.to(memory_format=self.memory_format)
        width = self.backbone.num_features  # a norm without weights of its own, since linear layers follow in the head
        self.norm = nn.LayerNorm(width, elementwise_affine=False) if feature_norm else nn.Identity()
        self.head = head.build(width, num_classes)
        self.num_classes, self.embedding_dim = num_classes, head.embedding_dim
        self.train()

    @property
    def frozen(self) -> bool:
        """Whether nothing of the backbone is ever trained."""
        return not self.held and not any(parameter.requires_grad for parameter in self.backbone.parameters())

    def forward(self, image: Tensor, embeddings: bool = True) -> HeadOutput:
        """Logits, embeddings and attention, see :class:`HeadOutput`.

        Args:
            image: (B, 3, H, W) RGB, uint8 or float in [0, 1], or what :meth:`features` once made of it.
            embeddings: whether they are needed; else they are empty, (B, K, 0), and there is no attention.
        """
        if self.tta == "none" or self.training:
            return self._plain(image, embeddings)
        if image.shape[1] == self.backbone.num_features:
            raise MlclError("tta flip needs pictures: a mirrored feature map is not that of the mirrored picture")
        mirrored = self._plain(image.flip(-1), embeddings)  # first: hooks on the head keep what they see last
        out = self._plain(image, embeddings)
        return out._replace(logits=(out.logits + mirrored.logits) / 2)

    def _plain(self, image: Tensor, embeddings: bool) -> HeadOutput:
        features = self.norm(self.features(image).movedim(1, -1)).movedim(-1, 1)
        if embeddings:
            return self.head(features)  # type: ignore[no-any-return]
        logits = self.head.classify(features)
        return HeadOutput(logits, logits.new_empty(*logits.shape, 0), None)

    def features(self, image: Tensor) -> Tensor:
        """The backbone's feature map, (B, C, h, w); one that was cached is only converted."""
        if image.shape[1] == self.backbone.num_features:
            return image.to(self.mean.dtype, memory_format=self.memory_format)
        # In place, because allocating several tensors takes longer than decoding the JPEG on a CPU.
        scale = 1 / self.std / (255 if image.dtype == torch.uint8 else 1)
        normalised = image.to(self.mean.dtype, copy=True, memory_format=self.memory_format)
        normalised.mul_(scale).sub_(self.mean / self.std)
        return as_map(self.backbone, self.backbone.forward_features(normalised), image.shape[-2:])

    def train(self, mode: bool = True) -> Self:
        """As ``nn.Module.train``, but a backbone that is held or frozen, and frozen BatchNorms, stay as in a test."""
        super().train(mode)
        self.backbone.train(mode and not self.held and not self.frozen)
        for name in self._frozen_norms:  # by name: Lightning may exchange them for synchronised ones
            self.backbone.get_submodule(name).eval()
        return self
