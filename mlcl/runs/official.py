"""Checkpoints of the papers' own code: CSRA, ML-Decoder, Query2Label, SADCL and MulCon, as weights of our network.

A file is either taken whole, so that the network computes what its code does, or refused.
"""

import math
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from mlcl.errors import MlclError
from mlcl.heads._attention import sine_code
from mlcl.runs import record

State = dict[str, Tensor]
_COUNTER = "num_batches_tracked"  # of a BatchNorm; frozen ones have none
_UNSAID = {"CSRA": ", --model.network.head.lam", "QueryDecoder": ", --model.network.head.heads"}
_IMAGENET = "0.485/0.456/0.406 and 0.229/0.224/0.225"


class Weights(NamedTuple):
    """What a file holds: the head's tensors and the backbone's by our names, and what is fixed in its code."""

    head: str  # name of the class
    tensors: State
    backbone: State
    pixels: str  # mean and std in its code
    fixed: tuple[tuple[str, Any], ...] = ()  # of the head's attributes
    grid: tuple[int, ...] = ()  # (h, w) of the feature map, where the file is of one size alone


def load(network: Any, path: Path, classes: list[str], side: int | None = None, interpolation: str = "bilinear") -> str:
    """Put a file's weights into a network; returns one line about them.

    Args:
        network: of the settings that the file was trained with, see :class:`mlcl.network.Network`.
        path: a file of ``torch.save``; of MulCon ``..._net_A.pth``, with those of E and C beside it. No code in it is
            run.
        classes: K names, in the order of the network's outputs.
        side: of the pictures in pixels; if given, the map of features is compared with that of the file.
        interpolation: with which pictures are resized to it.

    Raises:
        MlclError: if the layout is not known, a tensor is missing, has no place here or another shape, or our network
            computes something else.
    """
    content = record.read(path, numbers=True)
    if not isinstance(content, dict):
        raise MlclError(f"{path} holds no weights, but a {type(content).__name__}")
    parts = [str(key) for key, value in content.items() if isinstance(value, dict) and _tensors(value, path)]
    taken = next((key for key in ("state_dict", "model") if key in parts), None)
    state = _tensors(content if taken is None else content[taken], path)
    try:
        weights = _layout(state, path)(state, path)
        backbone = _by_timm(network.backbone, weights.backbone, path)
    except KeyError as error:
        raise MlclError(f"{path}: there is no tensor {error.args[0]}, which the code of its paper has") from None
    except (RuntimeError, ValueError, TypeError, IndexError) as error:
        raise MlclError(f"{path}: its tensors do not fit each other: {str(error).splitlines()[0]}") from None
    _check_network(network, weights, path)
    _check_names(content, classes, path)
    if weights.grid and side is not None:
        _check_grid(network, weights.grid, side, path)
    fitting = _fitting(network.head, weights.tensors, path, "head")
    network.backbone.load_state_dict(_fitting(network.backbone, backbone, path, "backbone"))
    network.head.load_state_dict(fitting)
    pixels = f"{_numbers(network.mean)} and {_numbers(network.std)}"
    other = f" (of its code: {weights.pixels})" if pixels != weights.pixels else ""
    resized = "" if interpolation == "bilinear" else f", --data.interpolation {interpolation} (of its code: bilinear)"
    left = "".join(f", {key}" for key in parts if key != taken)
    entry = f" of {taken} (not those of {left[2:]})" if taken and left else ""
    return (
        f"{path}: all {len(weights.tensors) + len(weights.backbone)} tensors{entry} loaded; check what is not in the "
        f"file: the order of the classes, mean and std of the pixels {pixels}{other}, --data.image_size{resized}"
        f"{_UNSAID.get(weights.head, '')}"
    )


def _tensors(held: dict[Any, Any], path: Path) -> State:
    """The tensors of an entry by their names, without what ``DataParallel`` puts before them."""
    found = {str(name): value for name, value in held.items() if isinstance(value, Tensor)}
    plain = {name.removeprefix("module."): value for name, value in found.items()}
    if len(plain) < len(found):
        raise MlclError(f"{path} has tensors twice, with and without 'module.' before their names")
    return plain


def _layout(state: State, path: Path) -> Callable[[State, Path], Weights]:
    marks: dict[str, Callable[[State, Path], Weights]] = {
        r"classifier\.multi_head\.0\.head\.weight": _csra,
        r"(head|fc)\.decoder\.duplicate_pooling": _ml_decoder,
        r"fc\.W": _query2label,
        r"mab\.fc_q\.weight": _mulcon,
    }
    for mark, read in marks.items():
        if any(re.fullmatch(mark, name) for name in state):
            return read
    if any(re.match("head.*wordvec|.*decoder.wordvec", name) for name in state):
        raise MlclError(f"{path}: ML-Decoder with queries from words (zero-shot) is another head than ours")
    raise MlclError(
        f"{path} is no checkpoint of CSRA, ML-Decoder, Query2Label, SADCL or MulCon (weights of a backbone alone go to "
        "--model.network.weights)"
    )


def _csra(state: State, path: Path) -> Weights:
    count = sum(name.startswith("classifier.multi_head.") for name in state)
    heads = [state.pop(f"classifier.multi_head.{i}.head.weight") for i in range(count)]
    return Weights("CSRA", {"weight": torch.stack(heads).flatten(2)}, state, "0/0/0 and 1/1/1")


def _ml_decoder(state: State, path: Path) -> Weights:
    start = "head.decoder." if "head.decoder.duplicate_pooling" in state else "fc.decoder."
    weight, bias = state.pop(f"{start}duplicate_pooling"), state.pop(f"{start}duplicate_pooling_bias")
    used = math.ceil(len(bias) / weight.shape[-1])  # groups without a class come last
    tensors = {"weight": weight[:used], "bias": bias, "queries": state.pop(f"{start}query_embed.weight")[:used]}
    tensors |= _linear(state, f"{start}embed_standart", "project") | _linear(state, f"{start}layers.0.norm1", "norm")
    tensors |= _layer(state, f"{start}layers.0.", "layer.", "multihead_attn", ("norm2", "norm3"))
    return Weights("MLDecoder", tensors, state, "0/0/0 and 1/1/1", (("heads", 8),))


def _query2label(state: State, path: Path) -> Weights:
    if any(".decoder.layers." in name and ".self_attn." in name for name in state):
        raise MlclError(f"{path}: self-attention among the classes (--keep_..._self_attn_dec), which our head lacks")
    for name in [name for name in state if re.match(r"prototype$|memorybank$|proj_head\.", name)]:
        del state[name]  # of SADCL's losses
    tensors = {"queries": state.pop("query_embed.weight")}
    tensors |= {"classifier.weight": state.pop("fc.W")[0], "classifier.bias": state.pop("fc.b")[0]}
    tensors |= _linear(state, "transformer.decoder.norm", "norm")
    if "input_proj.weight" in state:
        tensors |= _linear(state, "input_proj", "project")
        tensors["project.weight"] = tensors["project.weight"].flatten(1)  # a convolution of 1 x 1
    for part, attention, norms in (
        ("encoder", "self_attn", ("norm1", "norm2")),
        ("decoder", "multihead_attn", ("norm2", "norm3")),
    ):
        layers = {found[1] for name in state if (found := re.match(rf"transformer\.{part}\.layers\.(\d+)\.", name))}
        for i in layers:
            tensors |= _layer(state, f"transformer.{part}.layers.{i}.", f"{part}.{i}.", attention, norms)
    code = state.pop("backbone.1.pe")
    ours = sine_code(code.shape[2], code.shape[3], code.shape[1], like=code.float())
    rounding = 1e-3 if code.dtype == torch.float32 else 1e-2
    if not torch.allclose(code[0].flatten(1).T.float(), ours, atol=rounding):
        raise MlclError(f"{path}: backbone.1.pe is not the sine code of positions that our head computes")
    backbone = {re.sub(r"^backbone\.0\.(body\.)?", "", name): value for name, value in state.items()}
    return Weights("QueryDecoder", tensors, backbone, _IMAGENET, grid=(*code.shape[2:],))


def _mulcon(state: State, path: Path) -> Weights:
    """One file for the attention, one for the backbone, and one for each class."""
    if not path.name.endswith("_net_A.pth"):
        raise MlclError(f"{path}: of MulCon give the file ..._net_A.pth, with ..._net_E.pth and ..._net_C_0.pth beside")
    start, count = path.name.removesuffix("A.pth"), state["I"].shape[1]
    classes = [_beside(path, f"{start}C_{k}.pth") for k in range(count)]
    tensors = {"queries": state.pop("I")[0]}
    tensors |= {f"classifier.{kind}": torch.cat([part[kind] for part in classes]) for kind in ("weight", "bias")}
    places = {
        "sab1.mab": "among_tokens.0",
        "sab2.mab": "among_tokens.1",
        "mab": "to_labels",
        "sab3.mab": "among_labels.0",
    }
    names = {"fc_q": "query", "fc_k": "key", "fc_v": "value", "fc_o": "linear"}
    names |= {"ln0": "norm_attention", "ln1": "norm_linear"}
    for theirs, ours in places.items():
        for part, name in names.items():
            tensors |= _linear(state, f"{theirs}.{part}", f"{ours}.{name}")
    stages = {"0": "conv1", "1": "bn1", **{str(3 + stage): f"layer{stage}" for stage in range(1, 5)}}
    backbone = [(name.partition("."), value) for name, value in _beside(path, f"{start}E.pth").items()]
    renamed = {f"{stages.get(first, first)}.{rest}": value for (first, _, rest), value in backbone}
    return Weights("LabelAttention", tensors, renamed | state, _IMAGENET, (("heads", 4), ("scale", "full")))


def _beside(path: Path, name: str) -> State:
    content = record.read(path := path.with_name(name))
    if not isinstance(content, dict):
        raise MlclError(f"{path} holds no weights, but a {type(content).__name__}")
    return _tensors(content, path)


def _linear(state: State, theirs: str, ours: str) -> State:
    """Weight and bias of a linear layer or a norm."""
    return {f"{ours}.{kind}": state.pop(f"{theirs}.{kind}") for kind in ("weight", "bias")}


def _layer(state: State, theirs: str, ours: str, attention: str, norms: tuple[str, str]) -> State:
    """A layer around ``nn.MultiheadAttention``, whose query, key and value lie in one matrix."""
    names = {f"{attention}.out_proj": "out", "linear1": "inner", "linear2": "outer"}
    names |= {norms[0]: "norm_attention", norms[1]: "norm_ffn"}
    made: State = {}
    for part, name in names.items():
        made |= _linear(state, f"{theirs}{part}", f"{ours}{name}")
    for kind in ("weight", "bias"):
        parts = state.pop(f"{theirs}{attention}.in_proj_{kind}").chunk(3)
        made |= {f"{ours}{name}.{kind}": part for name, part in zip(("query", "key", "value"), parts, strict=True)}
    return made


def _check_network(network: Any, weights: Weights, path: Path) -> None:
    """Refuse a network that computes something else with these weights."""
    name = type(network.head).__name__
    if name != weights.head:
        raise MlclError(
            f"{path} is of a {weights.head}, this network has a {name}: --model.network.head {weights.head}"
        )
    if isinstance(network.norm, nn.LayerNorm):
        raise MlclError(f"{path}: its head takes the features as they are: --model.network.feature_norm false")
    for setting, value in weights.fixed:
        if (now := getattr(network.head, setting)) != value:
            raise MlclError(f"{path}: its code has {setting} {value}, this head {now} (--model.network.head.{setting})")


def _check_grid(network: Any, grid: tuple[int, ...], side: int, path: Path) -> None:
    """Refuse pictures of another size, whose map has other codes of positions than the file."""
    with torch.no_grad():
        own = network.eval().features(torch.zeros(1, 3, side, side)).shape[2:]
    if (*own,) != grid:
        raise MlclError(
            f"{path} is of maps of {grid[0]} x {grid[1]} positions, pictures of {side} pixels give {own[0]} x {own[1]} "
            f"here: --data.image_size {side * grid[0] // own[0]}"
        )


def _check_names(content: dict[Any, Any], classes: list[str], path: Path) -> None:
    """Refuse another order of the classes, where a file (of ML-Decoder) knows it."""
    theirs, numbers = content.get("idx_to_class"), content.get("class_to_idx")
    try:
        if isinstance(theirs, dict):
            theirs = [theirs[k] for k in sorted(theirs, key=int)]
        elif isinstance(numbers, dict):
            theirs = sorted(numbers, key=lambda name: int(numbers[name]))
    except (ValueError, TypeError):
        raise MlclError(f"{path}: its classes are numbered by something that is no number") from None
    stored = theirs if isinstance(theirs, list) else classes
    for k, (before, now) in enumerate(zip(stored, classes, strict=False)):
        if str(before).casefold() != now.casefold():
            raise MlclError(
                f"{path}: its class {k} is {before!r}, that of the data {now!r}: give --data.classes its order"
            )


def _by_timm(backbone: nn.Module, state: State, path: Path) -> State:
    """The tensors by timm's names: those of torchvision, and what timm's own filter of an architecture renames."""
    codes = {name: value for name, value in state.items() if "pos" in name}
    _check_tensors(backbone.state_dict(), codes, path, "backbone")  # before it: it would resize them
    change = getattr(sys.modules[type(backbone).__module__], "checkpoint_filter_fn", None)
    return dict(change(dict(state), backbone)) if change else state


def _fitting(module: nn.Module, tensors: State, path: Path, part: str) -> State:
    """The module's state dict with all of the tensors, if they are all that it has; a counter may be missing."""
    own, question = module.state_dict(), f"of this {part}; is it the one that the file was made with?"
    record.check_finite(tensors, path)
    if strange := [name for name in tensors if name not in own]:
        raise MlclError(f"{path}: {strange[0]} is none of the tensors {question}")
    _check_tensors(own, tensors, path, part)
    if missing := [name for name in own if name not in tensors and not name.endswith(_COUNTER)]:
        raise MlclError(f"{path}: there is nothing for {missing[0]} {question}")
    return own | tensors


def _check_tensors(own: State, tensors: State, path: Path, part: str) -> None:
    for name, value in tensors.items():
        if name in own and own[name].shape != value.shape:
            shapes = f"{(*value.shape,)} in the file, {(*own[name].shape,)} here"
            raise MlclError(f"{path}: {name} of the {part} is {shapes}: give the settings that it was trained with")
        if name in own and own[name].is_floating_point() and not value.is_floating_point():
            raise MlclError(f"{path}: {name} of the {part} is {value.dtype}, not floating point: quantised?")


def _numbers(values: Tensor) -> str:
    return "/".join(f"{value:.4g}" for value in values.flatten().tolist())
