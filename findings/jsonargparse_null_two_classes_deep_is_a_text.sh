#!/usr/bin/env bash
# Finding: on the command line of jsonargparse (LightningCLI's parser), null for an argument of a class within a class becomes the
# text "None"; one class deep, and in a config file at any depth, it is None.
#
# Guess before: `--model.network.head.words null` is None wherever the type allows None, as `--model.network.words null` is.
# Seen (jsonargparse 4.53.0): an argument `str | None` of the inner class gets 'None' without a word, so that a file of this
# name is looked for; `int | None` is refused, with a message about the text None.
# Way out: --config '{model: {network: {init_args: {head: {init_args: {words: null}}}}}}', or the same in a file.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet 'jsonargparse[signatures]==4.53.0'
cd "$folder"
cat > parts.py <<'PYTHON'
class Head:
    def __init__(self, words: str | None = "file", groups: int | None = 1):
        pass


class Network:
    def __init__(self, head: Head, words: str | None = "file"):
        pass


class Model:
    def __init__(self, network: Network):
        pass
PYTHON
venv/bin/python - <<'PYTHON'
import jsonargparse
import parts

parser = jsonargparse.ArgumentParser(exit_on_error=False)
parser.add_argument("--config", action="config")
parser.add_class_arguments(parts.Model, "model", sub_configs=True)
given = ["--model.network", "parts.Network", "--model.network.head", "parts.Head"]


def network(*more):
    return parser.parse_args([*given, *more]).model.network.init_args


outer = network("--model.network.words", "null").words
inner = network("--model.network.head.words", "null").head.init_args.words
config = "{model: {network: {init_args: {head: {init_args: {words: null}}}}}}"
written = network("--config", config).head.init_args.words
try:
    number = repr(network("--model.network.head.groups", "null").head.init_args.groups)
except jsonargparse.ArgumentError:
    number = "refused"
print(f"jsonargparse {jsonargparse.__version__}: one class deep {outer!r}, two classes deep {inner!r}, a number there {number},"
      f" in a config {written!r}")
assert outer is None and written is None, "null is no longer None there"
assert inner == "None", "null is None two classes deep, too"
assert number == "refused", "null is possible for a number two classes deep"
PYTHON
