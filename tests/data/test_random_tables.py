"""Random tables against a slow reader written from the documentation: the same targets, the same splits, or refused."""

import ast
import csv
import io
import json
import os
import tempfile
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mlcl.data.csv_file import CSVDataset
from mlcl.errors import MlclError

NAMES = ("a", "b", "c", "hot dog", "x, y", "it's", 'in"ch', "[z]", "nan")
CODES = {"1": 1, "1.0": 1, "0": 0, "-1": -1, "": -1}


class Refused(Exception):
    """The reader finds a mistake in the table."""


def cell_of(names, style, separator):
    names = list(names)
    studio = {0: '{"choices": []}', 1: names[0] if names else ""}.get(len(names), json.dumps({"choices": names}))
    return {"text": separator.join(names), "json": json.dumps(names), "python": repr(names), "studio": studio}[style]


@st.composite
def tables(draw):
    """The text of a table, and the settings with which it is read."""
    columns = draw(st.booleans())
    pool = draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=5, unique=True))
    separator, style = (
        draw(st.sampled_from(";;;|,/\t")),
        draw(st.sampled_from(("text", "text", "json", "python", "studio"))),
    )
    grouped, parted = draw(st.booleans()), draw(st.sampled_from((None, None, "column")))
    rows = []
    for _ in range(draw(st.integers(1, 14))):
        picture = draw(st.sampled_from(("", "./", "sub/../"))) + f"{draw(st.integers(0, 9))}.png"
        if columns:
            # Mostly what does not contradict itself when a picture has several rows.
            cells = [
                draw(st.sampled_from(("1", "1.0", "", "-1") if k % 2 else ("0", "", "-1"))) for k in range(len(pool))
            ]
            cells[0] = draw(st.sampled_from((cells[0],) * 9 + ("0", "1", "yes")))
        else:
            some = draw(st.lists(st.sampled_from(pool), max_size=3, unique=True))
            cells = [draw(st.sampled_from((cell_of(some, style, separator),) * 6 + ("-1", "")))]
        row = [picture, *cells]
        row += [draw(st.sampled_from(("u", "v", "w", "x", "y"))) if draw(st.integers(0, 60)) else ""] if grouped else []
        row += [draw(st.sampled_from(("train", "val", "test")))] if parted else []
        rows.append(row)
    header = [
        "image",
        *(pool if columns else ["labels"]),
        *(["who"] if grouped else []),
        *(["split"] if parted else []),
    ]
    text = io.StringIO()
    quoting = draw(st.sampled_from((csv.QUOTE_MINIMAL, csv.QUOTE_ALL)))
    csv.writer(text, delimiter=draw(st.sampled_from(",,;\t")), quoting=quoting).writerows([header, *rows])
    chosen = {"labels_column": None if columns else "labels", "group_column": "who" if grouped else None}
    chosen["label_separator"] = separator if draw(st.booleans()) else ""
    chosen["empty_cells"] = draw(st.sampled_from((None, None, "unknown", "absent")))
    chosen["val_fraction"] = 0.0 if parted else draw(st.sampled_from((0.0, 0.2, 0.5)))
    chosen["test_fraction"] = 0.0 if parted else draw(st.sampled_from((0.0, 0.3)))
    return text.getvalue(), header, rows, chosen, draw(st.integers(0, 3))


# --- The slow reader


def parsed(cell, separator):
    text = cell.strip()
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError):
            continue
        if isinstance(value, dict):
            value = value["choices"]
        if isinstance(value, list):
            return {str(name).strip() for name in value} - {""}
    if text.startswith("[") and text.endswith("]") and any(mark in text for mark in "|,;\t\n\"'"):
        raise Refused("no list")
    found = {name.strip() for name in text.split(separator)} - {""}
    if any(len(name) > 1 and name[0] == name[-1] and name[0] in "\"'" for name in found):
        raise Refused("quotes")
    return found


def check_names(names, chosen):
    if "nan" in names:
        raise Refused("missing value")
    for mark, name in product("|,;\t\n" + ("" if chosen else "/ &+"), names):
        parts = {part.strip() for part in name.split(mark)} - {""}
        others = set(names)
        if mark in "|,;\t\n":
            others |= {p.strip() for other in names if other != name and mark in other for p in other.split(mark)}
        if mark in name and (mark == "|" or parts <= others):
            raise Refused("several names")


def labels_of(header, rows, chosen):
    """Classes, and the target of each row."""
    fixed = {"image", "who", "split"}
    if chosen["labels_column"] is None:
        classes = [name for name in header if name not in fixed]
        codes = {**CODES, **({"": 0} if chosen["empty_cells"] == "absent" else {})}
        cells = [[row[header.index(name)].strip() for name in classes] for row in rows]
        if any(cell not in codes for row in cells for cell in row):
            raise Refused("no label")
        return classes, [[codes[cell] for cell in row] for row in cells]
    cells = [row[1] for row in rows]
    studio = any(cell.startswith('{"choices"') for cell in cells)
    unknown = chosen["empty_cells"] == "unknown" or (chosen["empty_cells"] is None and studio)
    found = [parsed(cell, chosen["label_separator"] or ";") for cell in cells]
    found = [{"-1"} if unknown and not cell.strip() else names for cell, names in zip(cells, found, strict=True)]
    classes = sorted({name for names in found for name in names} - {"-1"})
    check_names(classes, chosen["label_separator"])
    if not classes:
        raise Refused("no class")
    if any("-1" in names and len(names) > 1 for names in found):
        raise Refused("-1 is no class")
    return classes, [[-1] * len(classes) if names == {"-1"} else [int(c in names) for c in classes] for names in found]


def held_out(samples, fraction, seed, grouped):
    """Transitive groups by repeated comparison, then as many groups as fit, in the order of their first pictures."""
    wanted, group = round(fraction * len(samples)), list(range(len(samples)))
    for _ in samples:
        for (i, one), (j, two) in product(enumerate(samples), repeat=2):
            if grouped and one[2] == two[2]:
                group[i] = group[j] = min(group[i], group[j])
    taken, chosen = 0, set()
    for place in np.random.default_rng(seed).permutation(len(samples)):
        size = group.count(place)
        if size and taken + size <= wanted:
            taken, chosen = taken + size, chosen | {place}
    if wanted and not chosen:
        raise Refused("groups too large")
    inside = [number in chosen for number in group]
    return [s for s, i in zip(samples, inside, strict=True) if not i], [
        s for s, i in zip(samples, inside, strict=True) if i
    ]


def read_slowly(header, rows, chosen, seed):
    classes, targets = labels_of(header, rows, chosen)
    grouped, parted = "who" in header, "split" in header
    if grouped and any(not row[header.index("who")] for row in rows):
        raise Refused("no group")
    pictures = {}
    for row, target in zip(rows, targets, strict=True):
        key = os.path.normpath(row[0]), row[header.index("split")] if parted else None
        pictures.setdefault(key, []).append((target, row[header.index("who")] if grouped else None))
    samples = []
    for (name, part), same in pictures.items():
        for one, two in product([target for target, _ in same], repeat=2):
            if chosen["labels_column"] is None and any({a, b} == {0, 1} for a, b in zip(one, two, strict=True)):
                raise Refused("contradiction")
            if chosen["labels_column"] and set(one) == {0} and 1 in two:
                raise Refused("contradiction")
        if len({who for _, who in same}) > 1:
            raise Refused("several groups")
        merged = [max(column) for column in zip(*(target for target, _ in same), strict=True)]
        samples.append((name, merged, same[0][1], part))
    if parted:
        splits = {part: [s for s in samples if s[3] == part] for part in ("train", "val", "test")}
    else:
        train, test = held_out(samples, chosen["test_fraction"], seed, grouped)
        train, val = held_out(train, chosen["val_fraction"], seed, grouped) if chosen["val_fraction"] else (train, [])
        splits = {"train": train, "val": val, "test": test if chosen["test_fraction"] else []}
    return classes, {split: [(s[0], s[1]) for s in found] for split, found in splits.items() if found}


def agree(table):
    text, header, rows, chosen, seed = table
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "labels.csv").write_text(text, newline="")
        try:
            expected = read_slowly(header, rows, chosen, seed)
        except Refused as reason:
            with pytest.raises(MlclError) as error:
                CSVDataset(root=folder, split_seed=seed, **chosen).read_splits()
            assert "\n" not in str(error.value), reason
            return
        data = CSVDataset(root=folder, split_seed=seed, **chosen)
        data.read_splits()
        classes, splits = expected
        assert list(data.classes) == classes
        for split, expected_rows in splits.items():
            found = data.splits[split]
            names = [os.path.relpath(path, folder) for path in found.paths]
            assert list(zip(names, found.targets.tolist(), strict=True)) == expected_rows
        # No other images: val may serve as test, and test as val.
        assert {id(s) for s in data.splits.values() if s.paths} == {id(data.splits[split]) for split in splits}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(tables())
def test_random_tables(table):
    agree(table)


@pytest.mark.slow
@settings(max_examples=3000, deadline=None, suppress_health_check=list(HealthCheck))
@given(tables())
def test_thousands_of_random_tables(table):
    agree(table)
