"""A training step that broke, once more: which module did it, and a file for whoever wants to look."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcl.data.sampler import EpochSampler
from mlcl.distributed import gather_objects


class Step(NamedTuple):
    """What is remembered of a training step until it is known to have been sound; nothing here waits for the device."""

    number: int  # of the optimizer step, from 0, as in metrics.csv
    epoch: int
    images: Tensor | None  # (B,) positions in the dataset
    random: dict[str, Tensor]
    names: tuple[str, ...]  # of the values
    values: Tensor  # (number of names,) float32: loss terms, then the largest absolute gradient


class Found(NamedTuple):
    """What a step does when it runs again."""

    module: str | None  # the first one whose output is not finite
    reaches: float | None  # the largest absolute value of what entered it
    gradient: str | None  # the last parameter whose gradient is not finite: the backward pass met it first
    outputs: dict[str, float]  # largest absolute output of every module, in the order in which they ran


def random_state(device: torch.device) -> dict[str, Tensor]:
    """The states of the generators that a step draws from."""
    states = {"cpu": torch.get_rng_state()}
    return states | ({device.type: torch.cuda.get_rng_state(device)} if device.type == "cuda" else {})


def batch_of(step: Step, trainer: Any, module: Any) -> dict[str, Tensor] | None:
    """The step's batch, made again: a sample is a function of (seed, epoch, index). None where that cannot be done."""
    loader = trainer.train_dataloader
    if step.images is None:
        return None
    try:
        seeded, dataset = isinstance(loader.sampler, EpochSampler), loader.dataset
        keys = [(step.epoch, index) if seeded else index for index in step.images.tolist()]
        many = getattr(dataset, "__getitems__", None)
        batch = loader.collate_fn(many(keys) if many else [dataset[key] for key in keys])
        batch = module._on_before_batch_transfer(trainer.precision_plugin.convert_input(batch), dataloader_idx=0)
        moved: dict[str, Tensor] = trainer.strategy.batch_to_device(batch, dataloader_idx=0)
    except Exception:  # a dataset of the user's may refuse in any way; the step is named all the same
        return None
    return moved


def run_again(step: Step, batch: dict[str, Tensor], trainer: Any, module: Any) -> Found:
    """The losses of a batch, and their gradient where they are finite, under hooks that look at every output.

    Every rank calls this for the same step: losses gather the ranks' embeddings. The module is left in training mode,
    also where it is called from a validation: statistics that the step has broken do not enter.
    """
    module.train()
    outputs: dict[str, float] = {}
    first: list[tuple[str, float]] = []

    def look(name: str, inputs: Any, output: Any) -> None:
        outputs[name] = _largest(output)
        if not first and not _finite(outputs[name]):
            first.append((name, _largest(inputs)))

    parameters = {name: p for name, p in module.named_parameters() if p.requires_grad}
    gradient = None
    with _hooks(module, look), _random(step.random), _eager(), trainer.precision_plugin.forward_context():
        with torch.enable_grad():
            loss = module.losses(batch)["loss"]
        if all(gather_objects(bool(loss.isfinite()))):  # by all or none: a synchronised BatchNorm waits for the others
            # grad and not backward: hooks of DDP hang on the parameters
            found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
            broken = [
                name for name, g in zip(parameters, found, strict=True) if g is not None and not g.isfinite().all()
            ]
            gradient = broken[-1] if broken else None
    module_name, reaches = first[0] if first else (None, None)
    return Found(module_name, reaches, gradient, outputs)


def files_of(step: Step, trainer: Any) -> list[str]:
    """The batch's pictures, below the dataset's root; empty where the dataset does not say."""
    samples = getattr(getattr(trainer.train_dataloader, "dataset", None), "samples", None)
    root = getattr(getattr(trainer, "datamodule", None), "root", None)
    if samples is None or step.images is None:
        return []
    paths = [samples.paths[index] for index in step.images.tolist()]
    return [str(p.relative_to(root)) if root and Path(p).is_relative_to(root) else str(p) for p in paths]


def save(
    path: Path, step: Step, batch: Mapping[str, Any] | None, found: Found | None, files: Sequence[str], **more: Any
) -> None:
    """Write what ``torch.load(path, weights_only=True)`` reads: tensors, text and numbers."""
    tensors = {name: value.cpu() for name, value in (batch or {}).items() if isinstance(value, Tensor)}
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {
        "step": step.number,
        "epoch": step.epoch,
        "index": None if step.images is None else step.images.cpu(),
        "files": list(files),
        "values": dict(zip(step.names, step.values.tolist(), strict=True)),
        "found": None if found is None else found._asdict(),
        "batch": tensors,
        "random": step.random,
    }
    torch.save({**content, **more}, path)


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for part in tree:
            yield from _tensors(part)
    elif isinstance(tree, Mapping):
        yield from _tensors(tuple(tree.values()))


def _largest(tree: Any) -> float:
    """The largest absolute value of floating tensors; nan or inf if one holds such."""
    tops = [t.detach().abs().max().double() for t in _tensors(tree) if t.is_floating_point() and t.numel()]
    return float(torch.stack([top.cpu() for top in tops]).max()) if tops else 0.0


def _finite(value: float) -> bool:
    return abs(value) < float("inf")  # false for nan, too


@contextmanager
def _hooks(module: nn.Module, look: Any) -> Iterator[None]:
    handles = [
        part.register_forward_hook(lambda _, inputs, output, name=name: look(name, inputs, output))
        for name, part in module.named_modules()
        if name
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _random(states: dict[str, Tensor]) -> Iterator[None]:
    with torch.random.fork_rng(devices=range(torch.cuda.device_count()) if "cuda" in states else []):
        torch.set_rng_state(states["cpu"])
        if "cuda" in states:
            torch.cuda.set_rng_state(states["cuda"])
        yield


def _eager() -> AbstractContextManager[Any]:
    """A compiled network runs no hooks of its parts."""
    stance = getattr(torch.compiler, "set_stance", None)
    return stance("force_eager") if stance else nullcontext()
