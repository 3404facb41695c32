"""Cells that hold several names, however they were written; and names that are none."""

import json

import pytest
from support.trees import write_table

from mlcl.data.cells import names_in
from mlcl.data.csv_file import CSVDataset
from mlcl.errors import MlclError


def quoted(cell):
    return '"' + cell.replace('"', '""') + '"'


@pytest.fixture
def labels(tmp_path):
    """The dataset of a table whose pictures have these cells."""

    def make(*cells, **settings):
        rows = ["image,labels", *(f"{n}.png,{quoted(cell)}" for n, cell in enumerate(cells))]
        return CSVDataset(root=str(write_table(tmp_path, rows)), labels_column="labels", **settings)

    return make


def refused(make, *cells, **settings):
    with pytest.raises(MlclError) as error:
        make(*cells, **settings)
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.mark.parametrize("mark", ["|", ",", ", ", " | ", "\t", "/", " ", "&"])
def test_cells_with_another_separator(labels, mark):
    cells = ("a", "b", mark.join("ab"), mark.join("abc"), "c")
    message = refused(labels, *cells)
    assert "--data.label_separator" in message and repr(mark.strip() or mark) in message
    data = labels(*cells, label_separator=mark.strip() or mark)
    assert data.classes == ("a", "b", "c")
    assert data.read_split("train").targets.tolist() == [[1, 0, 0], [0, 1, 0], [1, 1, 0], [1, 1, 1], [0, 0, 1]]


def test_names_that_occur_only_together(labels):
    assert "--data.label_separator ','" in refused(labels, "a,b", "b,c", "a,c")
    assert "--data.label_separator '|'" in refused(labels, "a|b", "c|d")
    assert "--data.label_separator ';'" in refused(labels, "a;b", "b", "a", label_separator=",")


def test_names_that_only_look_like_lists(labels):
    assert labels("hot dog", "dog", "fire, large", "smoke").classes == ("dog", "fire, large", "hot dog", "smoke")
    findings = "Cardiomegaly, mild", "Cardiomegaly, severe", "Edema, mild", "Edema, severe"
    assert "label_separator" in refused(labels, *findings)
    assert labels(*findings, label_separator=";").num_classes == 4
    # What the user says counts.
    assert labels("hot dog", "hot", "dog", label_separator=";").num_classes == 3
    assert labels("a|b", "a", "b", classes=["a", "b", "a|b"]).read_split("train").targets[0].tolist() == [0, 0, 1]
    assert labels("[other]", "(a) left", "{x}").classes == ("(a) left", "[other]", "{x}")


def test_an_unknown_name_of_known_parts_gets_the_option(labels):
    assert "--data.label_separator '|'" in refused(labels, "a|b", classes=["a", "b"])
    assert "label_separator" not in refused(labels, "a|z", classes=["a", "b"])


@pytest.mark.parametrize("separator, cell", [("\\t", "a\tb"), ("\\n", "a\nb"), ("||", "a||b"), ("#", "a#b")])
def test_any_separator(labels, separator, cell):
    assert labels(cell, label_separator=separator).classes == ("a", "b")


LISTS = {
    '["a", "b"]': {"a", "b"},
    "['a', 'b']": {"a", "b"},
    '["it\'s", "b"]': {"it's", "b"},
    "[\"it's\", 'b']": {"it's", "b"},
    "('a', 'b')": {"a", "b"},
    "{'a', 'b'}": {"a", "b"},
    "['a']": {"a"},
    "[]": set(),
    '[""]': set(),
    '["a;b", "c, d"]': {"a;b", "c, d"},
    "[1, 2]": {"1", "2"},
    ' [ "a" ] ': {"a"},
    '["K\\u00fche", "猫"]': {"Kühe", "猫"},
    '{"choices": ["cat", "dog"]}': {"cat", "dog"},
    '{"choices": []}': set(),
    '{"choices": "cat"}': {"cat"},
}


@pytest.mark.parametrize("cell", LISTS)
def test_lists_read_as_what_they_mean(cell):
    assert names_in(cell) == LISTS[cell]


NO_LISTS = """['a' 'b'] | [a, b] | {a,b} | [["a"], ["b"]] | ["a", null] | [{"label": "a"}] | {"labels": ["a"]} | [a; b]
| 'a', 'b' | "a" | ['a', True] | ["a"; 'b'] | [0 2] | [cat dog] | set() | frozenset({'a'}) | ["a", "b"
| array(['a'], dtype=object)"""


@pytest.mark.parametrize("cell", [cell.strip() for cell in NO_LISTS.split("|")])
def test_lists_of_something_else_are_refused(cell):
    with pytest.raises(MlclError, match=r'write (a list, )?\["a", "b"\]'):
        names_in(cell)


def test_the_table_of_label_studio(labels):
    choices = ['{"choices":["cat","dog"]}', "cat", '{"choices":[]}', ""]
    data = labels(*choices)
    assert data.classes == ("cat", "dog")
    assert data.read_split("train").targets.tolist() == [[1, 1], [1, 0], [0, 0], [-1, -1]]  # the last: not annotated
    assert labels(*choices, empty_cells="absent").read_split("train").targets[3].tolist() == [0, 0]
    assert labels("cat", "", "dog").read_split("train").targets[1].tolist() == [0, 0]
    assert labels("a", "-1.0", "b").read_split("train").targets[1].tolist() == [-1, -1]
    assert labels("cat", "", "dog", empty_cells="unknown").read_split("train").targets[1].tolist() == [-1, -1]


@pytest.mark.parametrize("nothing", ["nan", "<NA>", "#N/A"])
def test_a_missing_value_is_no_class(labels, nothing):
    assert "missing value" in refused(labels, "a", nothing)
    assert labels("a", nothing, classes=["a", nothing]).num_classes == 2


@pytest.mark.parametrize("cells", [("0", "1", "1"), ("[0, 1, 0]", "[1, 0, 0]"), ("0 1 1", "1 0 0")])
def test_flags_are_no_names(labels, cells):
    assert "0 and 1 are no names" in refused(labels, *cells)


@pytest.mark.parametrize("names", [("Cat", "cat"), ("1", "1.0"), ("hot dog", "hot\u00a0dog"), ("é", "e\u0301")])
def test_two_spellings_of_a_name_are_said(labels, names):
    assert "differ in little" in labels(*names, "emu").notes["spellings"]


def test_what_may_be_several_names_or_none_is_said(labels):
    tags = "haze primary", "agriculture clear primary water", "clear primary", "cloudy", "clear habitation primary"
    assert "--data.label_separator ' '" in labels(*tags).notes["several"]
    assert "N/A" in labels("cat", "N/A").notes["nothing"]
    assert not labels("hot dog", "traffic light", "stop sign", "light").notes


@pytest.mark.parametrize("verb", ["fit", "check"])
def test_the_command_line_says_the_option(mlcl, tmp_path, verb):
    root = write_table(tmp_path / "data", ["image,labels", "0.png,a", "1.png,b", "2.png,a|b"])
    flags = ["--data", "CSVDataset", "--data.root", root, "--data.labels_column", "labels"]
    outcome = mlcl(verb, *flags)
    assert outcome.status == 1 and outcome.err.count("\n") == 1
    assert "labels.csv" in outcome.err and "--data.label_separator '|'" in outcome.err
    if verb == "check":
        outcome = mlcl(verb, *flags, "--data.label_separator", "|")
        assert "1.33 labels per image" in outcome.out


def test_what_is_written_as_json_is_read(labels):
    names = ["a;b", "c|d", "", " e ", "f'g", 'h"i']
    data = labels(json.dumps(names), classes=["a;b", "c|d", "e", "f'g", 'h"i'])
    assert data.read_split("train").targets.tolist() == [[1] * 5]


@pytest.mark.parametrize("option", [["--data.label_separator", "#"], ["--data.group_column=~"]])
def test_a_text_that_yaml_takes_for_nothing_is_refused(mlcl, option):
    outcome = mlcl("check", "--data", "CSVDataset", *option)
    assert outcome.status == 2 and outcome.err.count("\n") == 1
    assert option[0].partition("=")[0] in outcome.err and "nothing in YAML" in outcome.err


def test_label_studios_empty_cells_mean_the_same_in_every_table(labels, tmp_path):
    write_table(tmp_path, ["image,labels", "x.png,dog", "y.png,"], "test.csv")
    data = labels('{"choices":["cat","dog"]}', "cat", "", test_csv="test.csv")
    assert data.read_split("test").targets.tolist() == [[0, 1], [-1, -1]]
    assert data.portable_arguments()["empty_cells"] == "unknown"  # a later test of another table, too


def test_a_row_that_label_studio_says_is_annotated_has_no_label_where_nothing_was_chosen(tmp_path):
    rows = ["annotation_id,image,labels", "7,0.png,cat", "8,1.png,", ",2.png,", '9,3.png,"[""cat"",""dog""]"']
    write_table(tmp_path, rows)

    def targets(**settings):
        return CSVDataset(root=str(tmp_path), labels_column="labels", **settings).read_split("train").targets.tolist()

    assert targets() == [[1, 0], [0, 0], [-1, -1], [1, 1]]
    assert targets(empty_cells="absent")[1:3] == [[0, 0], [0, 0]]
    assert targets(empty_cells="unknown")[1:3] == [[-1, -1], [-1, -1]]
    portable = CSVDataset(root=str(tmp_path), labels_column="labels").portable_arguments()
    again = CSVDataset(**{"labels_column": "labels", **portable})
    assert again.read_split("train").targets.tolist() == targets()
