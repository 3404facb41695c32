"""Configs and command lines that no one means: accepted, or one line; nothing hangs, runs a command or has no end."""

import random
from pathlib import Path

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonargparse import get_loader
from stress import fuzz_configs
from stress.fuzz_inputs import changes_of, reader_of, seeds
from support.running import REPOSITORY

from mlcl.errors import MlclError, line
from mlcl.system import yaml_text

DEMO = ["--config", str(REPOSITORY / "configs" / "demo.yaml")]
LAUGHS = "\n".join(fuzz_configs.laughs())
FILES = {
    "laughs": (f"{LAUGHS}\nmodel: *l7\n", "--config mine.yaml: more than 1,000,000 values, with its aliases"),
    "itself": ("model: &a [*a]\n", "nested more than 100 levels deep"),
    "brackets": (f"model: {'[' * 1000}\n", "--config mine.yaml is not YAML: nested too deeply"),
    "deep": (f"model: {'[' * 120}{']' * 120}\n", "nested more than 100 levels deep"),
    "twice": ("data: Demo\nmodel: {}\ndata: CSVDataset\n", "mine.yaml: the key 'data' twice, line 3"),
    "a byte of 0": ('model: "\\0"\n', "--config mine.yaml: null character"),
    "no number": ("trainer: !!int\n", "--config mine.yaml is not YAML: string index out of range"),
    "no time": ("trainer: !!timestamp x\n", "--config mine.yaml is not YAML: "),
    "digits": (f"seed_everything: {'9' * 5000}\n", "--config mine.yaml is not YAML: Exceeds the limit"),
    "an object": ("model: !!python/object/apply:os.system [touch pwned]\n", "could not determine a constructor"),
    "Latin-1": ("name: caf\xe9\n".encode("latin-1"), "--config mine.yaml is not YAML: 'utf-8' codec"),
    "a list": ("- 1\n", "must map keys"),
    "a long text": (f"data:\n  class_path: Demo\n  init_args: {{views: {'x' * 9000}}}\n", "expected an integer"),
}
WORDS = {
    "no time": (["--model.network.head", "!!timestamp "], "--model.network.head '!!timestamp ' is not YAML"),
    "brackets": (["--name=" + "[" * 1000], "--name '[[["),
    "digits": (["--data.views", "9" * 5000], "--data.views '999"),
    "a long name": (["-c", "x" * 5000], "--config xxx"),
    "a long place": (["--ckpt_path", "x" * 5000], "no such file"),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_that_nobody_means_is_one_line(mlcl, name):
    text, words = FILES[name]
    Path("mine.yaml").write_bytes(text if isinstance(text, bytes) else text.encode())
    outcome = mlcl("fit", "--config", "mine.yaml", "--print_config")
    assert outcome.status in (1, 2) and outcome.err.count("\n") == 1 and words in outcome.err, outcome.err[:500]
    assert len(outcome.err) < 2100 and "MLCL_DEBUG" not in outcome.err and not Path("pwned").exists()


@pytest.mark.parametrize("name", WORDS)
def test_a_flag_that_nobody_means_is_one_line(mlcl, name):
    words, said = WORDS[name]
    outcome = mlcl("fit", *DEMO, *words, "--print_config")
    assert outcome.status in (1, 2) and outcome.err.count("\n") == 1 and said in outcome.err, outcome.err[:500]
    assert len(outcome.err) < 2100 and "MLCL_DEBUG" not in outcome.err


def test_a_file_of_one_part_is_read_with_the_same_care(mlcl):
    Path("data.yaml").write_text("class_path: Demo\ninit_args: {root: a}\ninit_args: {root: b}\n")
    outcome = mlcl("fit", *DEMO, "--data", "data.yaml", "--print_config")
    assert outcome.status == 1 and outcome.err.count("\n") == 1, outcome.err[:500]
    assert outcome.err.startswith("mlcl: --data data.yaml: the key 'init_args' twice"), outcome.err


def test_a_date_is_a_name_like_any_other(mlcl):
    Path("mine.yaml").write_text("name: 2026-22-11\n")
    for arguments in (["--name", "2026-22-11"], ["--config", "mine.yaml"]):
        outcome = mlcl("fit", *DEMO, *arguments, "--print_config")
        assert outcome.status == 0 and "2026-22-11" in outcome.out, outcome.err


def test_aliases_and_merges_that_people_write_are_read():
    text = "a: &a {x: 1, y: [1, 2]}\nb: {<<: *a, x: 2}\nc: [*a, *a]\n"
    assert yaml_text.read(text, "f") == yaml.safe_load(text)
    names = yaml.safe_dump({"classes": [f"class {i}" for i in range(10_000)]})
    assert len(yaml_text.read(names, "f")["classes"]) == 10_000


ODD = [
    *("1e-3", "12e4", "1E5", "+1e5", "-1e-5", "1.e3", "1_000", "1_0e3", "0x1F", "0o17", "017", "0b1", "1:30", "1:30.5"),
    *("._", ".inf", "-.INF", ".nan", "nan", "inf", "yes", "no", "On", "off", "y", "true", "null", "~", "", " ", " a"),
    *("a ", "=", "<<", "2026-11-29", "2026-11-29 12:30:00", "!x", "!!int", "&a", "*a", "%x", "@x", "`x", "- a", "a: b"),
    *(
        "a #b",
        "#a",
        "?",
        "-",
        "[a, b]",
        "{a: b}",
        "a\nb",
        "a\n",
        "\n a",
        "a\x85b",
        "a\u2028b",
        "\ufeff",
        "a\tb",
        "a\r\nb",
    ),
    *("'", '"', "'a\"", "\\n", "…", "---", "...", "word " * 200, "x" * 5000, "日本 語", "\U0001f600", "\x1b[2J"),
    *("a\tb", "a\r\nb", "\u00a0", "1\u00a0000", "\u0661e\u0662", "file.Class"),
]
TEXTS = st.sampled_from(ODD) | st.text(st.characters(exclude_characters="\0"), max_size=12) | st.from_regex(
    r"\A[-+.~!&*]?[0-9_.:]{0,4}([eE][-+]?[0-9]{0,3})?\Z"
)  # fmt: skip
PLAIN = TEXTS | st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False)


def assert_read(content):
    text = yaml_text.dump(content)
    for read in (yaml.safe_load, lambda text: yaml_text.read(text, "f"), get_loader("yaml")):
        assert read(text) == content, text


def test_odd_texts_are_read_as_they_were_written():
    assert_read({"classes": ODD, "by name": dict(zip(ODD, reversed(ODD), strict=True))})
    for text in ODD:
        assert_read({"name": text, "init_args": {"tags": [text]}})


@settings(max_examples=60, deadline=None, derandomize=True)
@given(content=st.dictionaries(TEXTS, st.lists(PLAIN, max_size=3) | PLAIN, min_size=1, max_size=3))
def test_what_is_written_is_read(content):
    assert_read(content)


def test_numbers_and_plain_words_stay_readable():
    content = {
        "lr": 1e-05,
        "low": 5e-324,
        "n": 5,
        "precision": "32-true",
        "backbone": "resnet101.tv_in1k",
        "name": "été",
    }
    assert yaml_text.dump(content).count("'") == yaml_text.dump(content).count('"') == 0
    assert_read(content)


def test_every_config_of_ours_is_read():
    for path in sorted(REPOSITORY.glob("configs/**/*.yaml")):
        assert yaml_text.read(path.read_text(), str(path)) == yaml.safe_load(path.read_text())


def test_a_long_message_keeps_both_ends():
    said = line("begins " + "x" * 9000 + "\x1b[2J ends")
    assert len(said) < 2010 and said.startswith("begins x") and said.endswith("\\x1b[2J ends")


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    """What fuzz.py calls: accept, refuse with MlclError, or fail."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path_factory.mktemp("fuzz"))
        yield {name: reader_of(name, Path.cwd()) for name in ("config", "flags")}


def refused_or_read(read, data):
    try:
        read(data)
    except MlclError as error:
        assert str(error).count("\n") == 1


few = settings(max_examples=15, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda part: st.lists(part, max_size=3) | st.dictionaries(st.text(max_size=9), part, max_size=3),
    max_leaves=6,
)
PLACES = ["data", "data.init_args.views", "model", "model.network.init_args.head", "model.optimizer", "model.lr_mult"]
PLACES += ["trainer", "trainer.logger", "trainer.callbacks", "name", "seed_everything", "model.threshold", "ckpt_path"]


@few
@given(place=st.sampled_from(PLACES), value=VALUES)
def test_any_value_at_any_place(readers, place, value):
    content = yaml.safe_load((REPOSITORY / "configs" / "demo.yaml").read_text())
    *above, last = place.split(".")
    node = content
    for key in above:
        node = node.setdefault(key, {})
    node[last] = value
    refused_or_read(readers["config"], yaml.safe_dump(content, allow_unicode=True).encode(errors="replace"))


@pytest.mark.parametrize("name", ["config", "flags"])
def test_the_first_inputs_of_make_fuzz(readers, name):
    rng, pool, change = random.Random(1), seeds(name), changes_of(name)
    for _ in range(10):
        refused_or_read(readers[name], change(rng.choice(pool), pool, rng))
