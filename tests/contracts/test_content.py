"""Whether a loss says truly that it needs the picture: the table of docs/methods.md."""

import inspect
import re

import pytest
from support.content import CLASSES, DIM, content
from support.running import REPOSITORY

from mlcl.losses import EMBEDDING_LOSSES

# As in the table; a loss of a new file is tested with its defaults, and needs a row there.
SETTINGS = {"DualContrastiveLoss": {"projection": 0, "bank": 0}}
ROWS = {name: (name, SETTINGS.get(name, {})) for name in EMBEDDING_LOSSES}
ROWS["LabelContrastiveLoss, hard_negatives 64"] = ("LabelContrastiveLoss", {"hard_negatives": 64})


def make(kind, settings):
    required = {n for n, p in inspect.signature(EMBEDDING_LOSSES[kind]).parameters.items() if p.default is p.empty}
    sizes = {name: size for name, size in {"num_classes": CLASSES, "dim": DIM}.items() if name in required}
    return EMBEDDING_LOSSES[kind](**sizes, **settings)


@pytest.mark.parametrize("name", ROWS)
def test_one_embedding_per_class_is_the_optimum_only_where_it_is_said(name):
    loss = make(*ROWS[name])
    found = content(loss)
    assert found.least > -1e-9
    if loss.carries_content:
        assert found.distance > 0.02 * found.constant > 0
    else:
        assert found.distance == pytest.approx(0, abs=1e-6)
    table = (REPOSITORY / "docs" / "methods.md").read_text()
    row = re.search(rf"^\| `{name.replace(',', '`,', 1) if ',' in name else name + '`'} \| (.*) \|$", table, re.M)
    assert row, f"docs/methods.md has no row of {name}"
    said = [float(value) for value in row[1].split(" | ")[:3]]
    assert said == pytest.approx([found.constant, found.least, found.distance], abs=0.006)
