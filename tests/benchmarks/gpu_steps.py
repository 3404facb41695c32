"""The training steps that ``gpu.py`` times: ours with every head, and the published recipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import plain
import torch
from torch import Tensor
from torch.optim import AdamW

from mlcl.callbacks.fast_step import compile_step
from mlcl.heads import GlobalPool, Head, LabelAttention, QueryDecoder
from mlcl.losses import LabelContrastiveLoss
from mlcl.module import MultiLabelModule
from mlcl.network import Network
from mlcl.optim import make_optimizer

RESEARCH = "published recipe"
LR = 1e-5
Step = Callable[[], object]


@dataclass(frozen=True)
class Sizes:
    """How large the steps are, and how often they are timed."""

    backbone: str = "resnet101"
    side: int = 448
    images: int = 64
    classes: int = 80
    narrow: int = 512  # the lean decoder's width
    wide: int = 2048  # the published one's
    ffn: int = 8192
    steps: int = 10
    repeats: int = 5


@dataclass(frozen=True)
class Case:
    """One kind of step."""

    head: str
    contrastive: bool = False
    compiled: bool = False

    @property
    def name(self) -> str:
        """For the table."""
        return self.head + ", contrastive" * self.contrastive + ", compiled" * self.compiled


PUBLISHED = Case(RESEARCH, contrastive=True)
LEAN, WIDE = "QueryDecoder, lean", "QueryDecoder, published"
HEADS: dict[str, Callable[[Sizes], Head]] = {
    "GlobalPool": lambda sizes: GlobalPool(),
    LEAN: lambda sizes: QueryDecoder(dim=sizes.narrow),
    WIDE: lambda sizes: QueryDecoder(dim=sizes.wide, ffn=sizes.ffn),
    "LabelAttention": lambda sizes: LabelAttention(dim=2 * sizes.narrow),
}


def cases(smoke: bool) -> Iterator[Case]:
    """The published recipe, then every head with and without the contrastive loss, compiled and not."""
    yield PUBLISHED
    for head in HEADS:
        if smoke:
            yield Case(head, contrastive=head != "GlobalPool")
        else:
            yield from (
                Case(head, contrastive, compiled) for contrastive in (False, True) for compiled in (False, True)
            )


def batch(sizes: Sizes, device: torch.device) -> dict[str, Tensor]:
    """uint8 images and targets on the host, where a loader leaves them."""
    targets = torch.from_numpy(plain.coco_like(sizes.images, sizes.classes)).long()
    images = torch.randint(0, 256, (sizes.images, 3, sizes.side, sizes.side), dtype=torch.uint8)
    made = {"image": images, "target": targets}
    return {key: tensor.pin_memory() for key, tensor in made.items()} if device.type == "cuda" else made


def make(case: Case, sizes: Sizes, device: torch.device) -> tuple[Step, Step | None, Step]:
    """The step, its contrastive loss alone (or None), and what compiles it."""
    torch.manual_seed(0)
    if case.head == RESEARCH:
        return published(sizes, device), None, lambda: None
    module = our_module(case.head, case.contrastive, sizes).to(device)
    host = batch(sizes, device)
    step = our_step(module, module.losses, host, device)
    loss = module.embedding_loss
    if loss is None:
        return step, None, lambda: compile_step(module.network, None)
    shape = sizes.images, sizes.classes, module.network.embedding_dim
    embeddings = torch.randn(shape, device=device, requires_grad=True)
    inputs, targets = [embeddings, *loss.parameters()], host["target"].to(device)
    return (
        step,
        lambda: torch.autograd.grad(loss(embeddings, targets), inputs),
        lambda: compile_step(module.network, loss),
    )


def our_module(head: str, contrastive: bool, sizes: Sizes, processes: int = 1) -> MultiLabelModule:
    """A module as a config makes it, told beforehand how many rows a step of all processes has."""
    network = Network(sizes.backbone, HEADS[head](sizes), sizes.classes)
    loss = LabelContrastiveLoss(projection=128, dim=network.embedding_dim) if contrastive else None
    module = MultiLabelModule(network, embedding_loss=loss).train()
    module.equal_batches = True
    if loss is not None:
        rows = processes * int(plain.coco_like(sizes.images, sizes.classes).sum())
        loss.capacity = -(-rows // 64) * 64
    return module


def our_step(
    module: MultiLabelModule, losses: Callable[[dict], dict], host: dict[str, Tensor], device: torch.device
) -> Step:
    """bf16, channels last, fused AdamW; uint8 images go to the device and are normalised there."""
    optimizer = make_optimizer(module, partial(AdamW, lr=LR, fused=True), {})

    def step() -> None:
        moved = {key: tensor.to(device, non_blocking=True) for key, tensor in host.items()}
        with torch.autocast(device.type, torch.bfloat16):
            loss = losses(moved)["loss"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def published(sizes: Sizes, device: torch.device) -> Step:
    """fp16 with a gradient scaler, NCHW, images normalised on the host, wide decoder, loss over all pairs."""
    network = Network(sizes.backbone, GlobalPool(), sizes.classes, channels_last=False)
    head = plain.Decoder(network.backbone.num_features, sizes.classes, sizes.wide, sizes.ffn)
    model = plain.Research(network.backbone, head).to(device).train()
    optimizer, scaler = AdamW(model.parameters(), lr=LR), torch.amp.GradScaler(device.type)
    host = batch(sizes, device)
    image = (host["image"].float() / 255 - network.mean) / network.std
    image = image.pin_memory() if device.type == "cuda" else image

    def step() -> None:
        with torch.autocast(device.type, torch.float16):
            loss = model(image.to(device, non_blocking=True), host["target"].to(device, non_blocking=True))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()

    return step
