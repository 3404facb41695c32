"""Config files and command lines for ``fuzz.py``: the real ones, changed where a parser looks."""

import random
from copy import deepcopy
from pathlib import Path
from typing import Any

import yaml

from mlcl.errors import MlclError
from mlcl.system import yaml_text

CONFIGS = sorted(
    path for path in (Path(__file__).parents[2] / "configs").glob("**/*.yaml") if "sweeps" not in path.parts
)
FLAGS = [
    "--data.root=x --data.batch_size 3 --data.views 2 --data.augment mulcon --data.cache disk",
    "--model.network.head QueryDecoder --model.network.head.dim=8 --model.network.head.ffn null",
    "--model.lr_mult={'backbone': None} --model.optimizer SGD --model.optimizer.lr 1e-3 --model.schedule StepDecay",
    "--trainer.max_epochs=3 --trainer.precision 16-mixed --trainer.devices [0] --name x --seed_everything 3",
    "--model.embedding_loss null --model.classification_loss AsymmetricLoss --model.threshold [0.1,0.2]",
    "--model.embedding_loss DualContrastiveLoss --model.embedding_loss.bank 4 --model.embedding_weight 0.1",
    "--data CSVDataset --data.classes [a,b] --data.csv t.csv --data.labels_column labels --ema_decay=None",
    "--trainer.logger TensorBoardLogger --trainer.logger.save_dir x --log_images 3 --report true",
    "--trainer.callbacks+ EarlyStopping --trainer.callbacks.monitor val/mAP --test_after_fit false",
    "--model {init_args: {lr_mult: {}}} --data.init_args.root x --model.network.init_args.backbone y",
]
CLASSES = ["os.system", "subprocess.Popen", "builtins.eval", "torch.nn.Linear", "mlcl.heads.CSRA", "CSRA", "a.b", ""]
CLASSES += ["mlcl.losses.AsymmetricLoss", "Demo", "torch.optim.SGD", "\u202eeman", "mlcl", "mlcl.heads.nothing", "1.5"]
TAGS = ["!!python/object/apply:os.system ['touch pwned'] ", "!!python/name:os.system ", "!!binary ", "!!set ", "!x "]
TAGS += ["!!python/object/new:subprocess.Popen [['touch', 'pwned']] ", "!!timestamp ", "!!int ", "!!null ", "!!omap "]
TAGS += ["&a ", "*a ", "&a [*a] ", "<<: ", "? ", "|\n", ">-\n", "{", "- ", "--- ", "... ", "%YAML 9.9\n", "@", "`"]
VALUES: list[Any] = [None, True, False, 0, -1, 1, 1.5, 10**30, -(10**400), 1e308, float("nan"), float("inf"), "", " "]
VALUES += ["null", "None", "nan", "1e999", "0x", "yes", "~", "\0", "\u202e", "é" * 50, "\ud7ff\ue000", "🐢", "x" * 5000]
VALUES += ["../../x", "/dev/zero", "http://localhost:1/", "$(touch pwned)", "${HOME}", "a\nb", "{", "[", "9" * 5000]
VALUES += [[], {}, [[]], [None], {"": None}, {"class_path": None}, {"init_args": {}}, {1: 2}, [1, "a", None, {}]]
WORDS = ("--help", "--print_config", "-c", "--", "--config", "-", "--data", "--=", "---x")
ENDINGS = (".x", "+", ".init_args", ".class_path", ".help", "..", ".0", "\n")
LAUGHS = 8  # levels of nine aliases each: more than our bound, and not enough to harm another reader


def changed_config(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A config with some of its keys and values changed, then perhaps its text."""
    try:
        tree = yaml_text.read(data, "")
    except MlclError:  # also of aliases without end, which would fill the memory here
        tree = None
    if not isinstance(tree, dict):
        tree = yaml.safe_load(rng.choice(CONFIGS).read_bytes())
    for _ in range(rng.choice((0, 1, 1, 2, 4))):
        _change(tree, rng)
    try:
        lines = yaml.safe_dump(tree, allow_unicode=rng.random() < 0.5, sort_keys=False).splitlines()
    except RecursionError:  # too deep to be written
        return data
    for _ in range(rng.choice((0, 0, 1, 2))):
        at, kind = rng.randrange(len(lines)), rng.randrange(7)
        key, _, value = lines[at].partition(":")
        if kind == 0:
            lines[at] = f"{key}: {rng.choice(TAGS)}{value.strip()}"
        elif kind == 1:  # a key twice
            lines.insert(at, lines[at])
        elif kind == 2:
            lines[at] = f"{key}: {rng.choice('[{')}" * rng.choice((1, 50, 3000))
        elif kind == 3:
            lines[:0] = laughs()
            lines[at + LAUGHS] += f" *l{LAUGHS - 1}"
        elif kind == 4:
            lines[at] = " " * rng.randrange(9) + lines[at].lstrip()
        elif kind == 5:
            lines[at] = lines[at] + rng.choice(("\t", "\x85", "\ufeff", " #", ": ", "\x07", "\u2028"))
        else:
            del lines[at:]
            lines.append("")
    text = "\n".join(lines).encode(errors="surrogatepass")
    if rng.random() < 0.1:
        at = rng.randrange(len(text) + 1)
        text = text[:at] + rng.choice((b"\xff", b"\xc3\x28", b"\xed\xa0\x80", b"\0", b"\xff\xfe")) + text[at:]
    return text.decode("utf-8").encode("utf-16") if rng.random() < 0.02 and _is_utf8(text) else text


def laughs() -> list[str]:
    """Lines that stand for 9 ** 7 values."""
    rows = ["l0: &l0 x"]
    return rows + [f"l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, LAUGHS)]


def changed_flags(data: bytes, others: list[bytes], rng: random.Random) -> bytes:
    """A command line with some of its flags and values changed; the parts are divided by a byte of 0."""
    words = data.decode(errors="replace").split("\0")
    for _ in range(rng.choice((1, 1, 2, 4))):
        at, kind = rng.randrange(len(words) + 1), rng.randrange(7)
        word = words[at] if at < len(words) else "--name"
        if kind == 0:
            words[at : at + 1] = [_value(rng)]
        elif kind == 1:
            words[at : at + 1] = [f"{word.partition('=')[0]}={_value(rng)}"]
        elif kind == 2:
            del words[at : at + 1]
            words = words or ["--name"]
        elif kind == 3:
            other = rng.choice(others).decode(errors="replace").split("\0")
            words[at:at] = other[rng.randrange(len(other)) :]
        elif kind == 4:
            words[at : at + 1] = [word + rng.choice(ENDINGS)]
        elif kind == 5:
            words.insert(at, rng.choice(WORDS))
        else:
            place = rng.randrange(len(word) + 1)
            words[at : at + 1] = [word[:place] + chr(rng.choice((9, 46, 61, 91, 123, 0x2028, 0x1F422))) + word[place:]]
    return "\0".join(words).encode(errors="replace")


def _value(rng: random.Random) -> str:
    value = rng.choice([*VALUES, *CLASSES, *TAGS])
    return str(value).replace("\0", "") if rng.random() < 0.5 else rng.choice(TAGS) + repr(value).replace("\0", "")


def _change(tree: Any, rng: random.Random) -> None:
    """One value, key or part of a tree becomes another."""
    places: list[tuple[Any, Any]] = []

    def collect(node: Any) -> None:
        for key in [*node] if isinstance(node, dict) else range(len(node)) if isinstance(node, list) else ():
            places.append((node, key))
            collect(node[key])

    collect(tree)
    if not places:
        return
    (node, key), kind = rng.choice(places), rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, dict):
        node[rng.choice(("class_path", "init_args", "help", 1, None, "é", "x.y", "data", "__class__"))] = node.pop(key)
    elif kind == 2:
        node[key] = yaml.safe_load(yaml.safe_dump(rng.choice(places)[1]))
    elif kind == 3:
        node[key] = {"class_path": rng.choice(CLASSES), "init_args": deepcopy(rng.choice(VALUES))}
    elif kind == 4:
        for _ in range(rng.choice((1, 3, 200))):
            node[key] = [node[key]] if rng.random() < 0.5 else {"init_args": node[key]}
    elif kind == 5:
        node[key] = rng.choice(CLASSES)
    else:
        node[key] = deepcopy(rng.choice(VALUES))  # or a later change would be made in the list above


def _is_utf8(text: bytes) -> bool:
    try:
        text.decode()
    except ValueError:
        return False
    return True
