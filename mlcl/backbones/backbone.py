"""timm's backbones: created, loaded, frozen in parts, their output as a feature map."""

import copy
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mlcl.backbones.light_timm import timm
from mlcl.errors import MlclError

Backbone = Any  # timm leaves its models untyped


def create_backbone(name: str, pretrained: bool, weights: str | None, options: dict[str, Any]) -> Backbone:
    """A timm model without its classifier; arguments and errors as of :class:`mlcl.network.Network`."""
    if weights is not None and not Path(weights).is_file():
        raise MlclError(f"{weights}: no such weights file (model.network.weights)")
    if not timm.is_model(name):
        close = get_close_matches(name.split(".")[0], timm.list_models(), n=4)
        hint = f"; did you mean {', '.join(close)}?" if close else ""
        raise MlclError(f"timm has no model {name!r} (model.network.backbone){hint}; see timm.list_models()")
    if weights is not None:
        options = {**options, "pretrained_cfg_overlay": {"file": weights, **options.get("pretrained_cfg_overlay", {})}}
    known = timm.get_pretrained_cfg(name)
    url = options.get("pretrained_cfg_overlay", {}).get("url") or (known.url if known else None) or ""
    # Names end in -<start of the SHA256>.pth; torch.hub would take shorter digits for a hash, too, as in -300e.pth.
    timm.models.set_pretrained_check_hash(bool(re.search(r"-[a-f0-9]{8,}\.[^/]*$", str(url))))
    missing: list[str] = []
    try:
        with _timm_log(missing):
            model = timm.create_model(
                name, pretrained=pretrained or weights is not None, num_classes=0, global_pool="", **options
            )
    except Exception as error:  # timm raises whatever its models and the download raise
        source = f" with the weights {weights}" if weights else " with its pretrained weights" if pretrained else ""
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        offline = "; without a network give model.network.weights a local file" if pretrained and not weights else ""
        raise MlclError(f"backbone {name} cannot be made{source}: {reason}{offline}") from error
    if missing:
        raise MlclError(f"{weights or 'the download'} does not hold the weights of {name}: {missing[0][:160]}")
    _freeze_unused(model)
    return model


def freeze(backbone: Backbone, stages: int | str, batch_norms: bool) -> list[str]:
    """Stop training the first stages, 1 being the stem, or "all", and, with ``batch_norms``, every BatchNorm.

    Returns the names of the BatchNorms that must stay in evaluation mode, which on a CPU is up to six times as fast as
    torchvision's ``FrozenBatchNorm2d``. Raises an MlclError if there are fewer stages.
    """
    frozen: set[str] = set()
    if stages == "all":
        frozen = {name for name, _ in backbone.named_parameters()}
    elif stages:
        groups = timm.models.group_parameters(backbone, backbone.group_matcher(coarse=True), return_values=False)
        ids = sorted(groups)
        if not 0 < int(stages) <= len(ids):
            raise MlclError(f"model.network.freeze_stages is {stages}, this backbone has {len(ids)} stages")
        frozen = {name for group in ids[: int(stages)] for name in groups[group]}
    kinds = (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)
    norms = [name for name, module in backbone.named_modules() if isinstance(module, kinds)]
    norms = [name for name in norms if batch_norms or f"{name}.weight" in frozen]
    frozen |= {f"{name}.{part}" for name in norms for part in ("weight", "bias")}
    for name, parameter in backbone.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and name not in frozen)
    return norms


def as_map(backbone: Backbone, features: Tensor, size: torch.Size) -> Tensor:
    """The output of ``forward_features`` as (B, C, h, w), for pictures of ``size`` (height, width) in pixels.

    CNNs give that, Swin-like models (B, h, w, C), ViT-like ones (B, prefix + h * w, C); others are an MlclError.
    """
    channels = backbone.num_features
    if features.ndim == 4 and features.shape[1] == channels:
        return features
    if features.ndim == 4 and features.shape[3] == channels:
        return features.permute(0, 3, 1, 2)
    if features.ndim == 3 and features.shape[2] == channels:
        tokens = features[:, getattr(backbone, "num_prefix_tokens", 0) :]
        rows = round((tokens.shape[1] * size[0] / size[1]) ** 0.5)
        if rows and tokens.shape[1] % rows == 0:
            return tokens.transpose(1, 2).reshape(len(tokens), channels, rows, -1)
    raise MlclError(f"backbone gives {(*features.shape,)} for {(*size,)} pixels: no feature map; try another one")


@contextmanager
def _timm_log(missing: list[str]) -> Iterator[None]:
    """Silence timm, and collect its messages of level INFO on tensors that a weights file lacks: they stay random."""

    def collect(entry: logging.LogRecord) -> bool:
        missing.extend(line for line in [entry.getMessage()] if line.startswith("Missing keys"))
        return False

    logger = logging.getLogger("timm.models._builder")
    level = logger.level
    logger.setLevel(logging.INFO)
    logger.addFilter(collect)
    try:
        yield
    finally:
        logger.removeFilter(collect)
        logger.setLevel(level)


def _freeze_unused(backbone: Backbone) -> None:
    """Stop training what belongs to timm's own classifier (a ConvNeXt's last norm): DDP refuses unused parameters."""
    if not torch.is_grad_enabled():  # nobody trains it, and the probe imports torch's compiler: a second
        return
    fixed = getattr(getattr(backbone, "patch_embed", None), "img_size", None)
    size = fixed or backbone.pretrained_cfg["input_size"][1:]
    probe = copy.deepcopy(backbone).to("meta").eval()  # where nothing is computed
    # The graph of a forward pass ends in the used ones; a backward pass would find them, too, and take twice as long.
    waiting = [probe.forward_features(torch.zeros(1, 3, *size, device="meta")).grad_fn]
    seen = set(waiting)
    while waiting:
        further = {node for node, _ in waiting.pop().next_functions if node is not None} - seen
        seen |= further
        waiting += further
    used = {id(node.variable) for node in seen if hasattr(node, "variable")}
    for parameter, twin in zip(backbone.parameters(), probe.parameters(), strict=True):
        parameter.requires_grad_(id(twin) in used)
