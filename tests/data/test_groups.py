"""Rows of one picture, copies of a file and groups: what belongs together is on one side of a split."""

import shutil

import numpy as np
import pytest
from support.trees import write_pictures, write_table

from mlcl.data.csv_file import CSVDataset
from mlcl.data.dataset import Samples
from mlcl.data.groups import together
from mlcl.errors import MlclError

SPLITS = ("train", "val", "test")


@pytest.fixture
def table(tmp_path):
    def make(rows, **settings):
        return CSVDataset(root=str(write_table(tmp_path, rows)), **settings)

    return make


def refused(make, *arguments, **settings):
    with pytest.raises(MlclError) as error:
        make(*arguments, **settings)
    return str(error.value)


# --- One picture in several rows


def test_one_picture_in_several_rows_of_names(table):
    data = table(["image,labels", "a.png,cat", "b.png,", "a.png,dog", "./a.png,cat;emu"], labels_column="labels")
    train = data.read_split("train")
    assert [path.name for path in train.paths] == ["a.png", "b.png"]
    assert train.targets.tolist() == [[1, 1, 1], [0, 0, 0]]
    assert "4 rows are 2 pictures" in data.notes["labels.csv"]


def test_one_picture_in_several_rows_of_columns(table):
    data = table(["image,cat,dog,emu", "a.png,1,,", "b.png,0,0,0", "a.png,,0,-1", "a.png,1,,"])
    assert data.read_split("train").targets.tolist() == [[1, 0, -1], [0, 0, 0]]


def test_rows_of_a_picture_that_contradict(table):
    message = refused(table, ["image,cat,dog", "a.png,1,0", "b.png,0,0", "a.png,0,1"])
    assert "rows 2 and 4" in message and "'cat'" in message
    message = refused(table, ["image,labels", "a.png,", "a.png,dog"], labels_column="labels")
    assert "rows 2 and 3" in message
    known = table(["image,labels", "a.png,-1", "a.png,dog"], labels_column="labels")
    assert known.read_split("train").targets.tolist() == [[1]]
    rows = ["image,who,cat", "a.png,x,1", "a.png,y,1"]
    assert "several groups" in refused(table, rows, group_column="who")


def test_a_dataset_of_ones_own_that_contradicts_itself(tmp_path):
    class Own(CSVDataset):
        def read_split(self, split):
            samples = super().read_split(split)
            return samples and Samples([samples.paths[0]] * 2, samples.targets[:2])

    write_table(tmp_path, ["image,cat", "a.png,1", "b.png,0"])
    assert "a.png is listed twice, with different labels" in refused(Own(root=str(tmp_path)).read_splits)


# --- Splits by fraction


def many(count, columns="", cells=lambda n: ""):
    return [f"image{columns},cat", *(f"{n}.png{cells(n)},{n % 2}" for n in range(count))]


def sides(data):
    data.read_splits()
    return {split: {path.name for path in samples.paths} for split, samples in data.splits.items()}


@pytest.mark.parametrize("seed", range(3))
def test_copies_of_a_file_stay_on_one_side(table, tmp_path, seed):
    data = table(many(20), test_fraction=0.25, val_fraction=0.25, split_seed=seed)
    for n in range(0, 20, 2):
        shutil.copy(tmp_path / f"{n}.png", tmp_path / f"{n + 1}.png")
    found = sides(data)
    for names in found.values():
        assert {int(name[:-4]) // 2 for name in names if int(name[:-4]) % 2} == {int(n[:-4]) // 2 for n in names}
    assert sum(map(len, found.values())) == 20 and len(found["test"]) in (4, 5) and found["val"]


@pytest.mark.parametrize("fractions", [{"val_fraction": 0.3}, {"test_fraction": 0.3, "val_fraction": 0.3}])
def test_groups_stay_on_one_side(table, fractions):
    data = table(many(30, ",who", lambda n: f",p{n % 7}"), group_column="who", **fractions)
    found = sides(data)
    assert data.classes == ("cat",)
    patients = [{int(name[:-4]) % 7 for name in names} for names in {id(s): s for s in found.values()}.values()]
    groups = [data.splits[split].groups for split in ("train", "val")]
    assert not set(groups[0]) & set(groups[1])
    distinct = {frozenset(names): {int(name[:-4]) % 7 for name in names} for names in found.values()}
    assert sum(len(people) for people in distinct.values()) == 7, patients


def test_groups_larger_than_the_share_are_refused(table):
    data = table(many(20, ",who", lambda n: f",p{n % 2}"), group_column="who", val_fraction=0.1)
    assert "data.group_column" in refused(data.read_splits)
    assert "no group" in refused(table, many(2, ",who", lambda n: ","), group_column="who")
    assert "no column 'who'" in refused(table, many(2), group_column="who")


@pytest.mark.parametrize("count, fraction", [(10, 0.3), (101, 0.1), (1000, 0.25)])
def test_images_on_their_own_are_chosen_as_ever(tmp_path, count, fraction):
    """A run that held some out is tested on the same ones later."""
    samples = Samples([tmp_path / f"{n}.png" for n in range(count)], np.zeros((count, 1), dtype=np.int8))
    rest, share = samples.hold_out(fraction, seed=3)
    order = np.random.default_rng(3).permutation(count)
    assert share.paths == [samples.paths[n] for n in sorted(order[: round(fraction * count)])]
    assert len(rest.paths) + len(share.paths) == count


def test_what_belongs_together(tmp_path):
    write_pictures(tmp_path, [f"{n}.png" for n in range(6)])
    shutil.copy(tmp_path / "0.png", tmp_path / "4.png")
    (tmp_path / "5.png").unlink()
    paths = [tmp_path / f"{n}.png" for n in range(6)] + [tmp_path / "sub" / ".." / "2.png", tmp_path / "none.png"]
    assert together(paths).tolist() == [0, 1, 2, 3, 0, 5, 2, 7]
    assert together(paths, [*"abcdeafg"]).tolist() == [0, 1, 2, 3, 0, 0, 2, 7]


def test_files_of_one_size_are_told_apart(tmp_path):
    start = b"0" * 10_000
    for name, content in {"a": start + b"1", "b": start + b"2", "c": start + b"1", "d": b"1" + start}.items():
        (tmp_path / name).write_bytes(content)
    assert together([tmp_path / name for name in "abcd"]).tolist() == [0, 1, 0, 3]


# --- Splits that are given


def test_a_file_takes_the_place_of_the_columns_rows(table, tmp_path):
    write_table(tmp_path, ["image,cat", "x.png,1", "y.png,0"], "new.csv")
    rows = ["image,cat,split", "a.png,1,train", "b.png,0,train", "c.png,1,val", "d.png,0,test"]
    data = table(rows, test_csv="new.csv")
    assert sides(data) == {"train": {"a.png", "b.png"}, "val": {"c.png"}, "test": {"x.png", "y.png"}}
    assert "names train" in refused(table, rows, test_csv="labels.csv")


def test_a_share_beside_a_split_column_is_refused(table):
    assert "data.test_fraction" in refused(table(many(4, ",split", lambda n: ",train"), test_fraction=0.5).read_splits)


@pytest.mark.parametrize("split", ["val", "test"])
def test_val_is_compared_with_train_as_test_is(mlcl, tmp_path, split):
    other = "test" if split == "val" else "val"
    rows = ["image,cat,split", "a.png,1,train", "b.png,0,train", f"a.png,1,{split}", f"c.png,0,{other}", "d.png,1,val"]
    root = write_table(tmp_path / "data", [*rows, "e.png,0,test"])
    outcome = mlcl("check", "--data", "CSVDataset", "--data.root", root, "--data.num_workers", "0")
    assert f"1 images are in train and in {split}" in outcome.out


def test_a_group_in_two_given_splits_is_said(table, said):
    rows = ["image,who,cat,split", "a.png,p,1,train", "b.png,q,0,train", "c.png,p,1,test", "d.png,r,0,val"]
    table(rows, group_column="who").setup()
    assert "1 groups, such as p, are in train and in test" in said()


@pytest.fixture
def said(capsys):
    return lambda: "".join(capsys.readouterr())
