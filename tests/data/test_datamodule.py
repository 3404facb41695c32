from pathlib import Path

import numpy as np
import pytest
import torch
from support.trees import write_table
from torchvision.transforms.v2 import InterpolationMode

from mlcl.data.augment import Augmentation
from mlcl.data.augment_steps import Step
from mlcl.data.base import MultiLabelDataModule
from mlcl.data.csv_file import CSVDataset
from mlcl.data.dataset import ImageDataset, Samples
from mlcl.data.demo import Demo
from mlcl.data.images import ImageError, read_image
from mlcl.errors import MlclError

# What PyTorch says of two workers where there is one core, and of a fork beside other threads.
workers = pytest.mark.filterwarnings("ignore:.*DataLoader will create", "ignore:.*use of fork")

TRAIN, TEST = 12, 5


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    """12 pictures to train, 5 to test; two and one of them without a label."""
    rows = ["image,a,b,split"]
    rows += [f"{i}.jpg,{int(i > 1)},{'-1' if i % 4 == 3 else i % 2 * int(i > 1)},train" for i in range(TRAIN)]
    rows += [f"t{i}.png,{int(i > 0)},0,test" for i in range(TEST)]
    return write_table(tmp_path_factory.mktemp("pictures"), rows)


@pytest.fixture
def data(root):
    def make(**settings):
        chosen = {"image_size": 24, "batch_size": 4, "num_workers": 0, **settings}
        made = CSVDataset(root=str(root), **chosen)
        made.setup("fit")
        return made

    return make


@pytest.fixture
def said(capsys):
    """The lines printed since the last question."""
    return lambda: capsys.readouterr().err.splitlines()


def one_line(error, *words):
    assert "\n" not in str(error.value)
    assert all(str(word) in str(error.value) for word in words), str(error.value)


def images(loader):
    return {int(i): image for batch in loader for i, image in zip(batch["index"], batch["image"], strict=True)}


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


# --- The batch


@pytest.mark.parametrize(("views", "shape"), [(1, (4, 3, 24, 24)), (2, (4, 2, 3, 24, 24)), (3, (4, 3, 3, 24, 24))])
def test_a_training_batch(data, views, shape):
    batch = next(iter(data(views=views).train_dataloader()))
    assert set(batch) == {"image", "target", "index"}
    assert batch["image"].shape == shape
    assert batch["image"].dtype == torch.uint8
    assert batch["target"].shape == (4, 2)
    assert batch["target"].dtype == torch.int8
    assert batch["index"].shape == (4,)
    assert batch["index"].dtype == torch.int64


def test_views_are_for_training_only(data):
    made = data(views=2)
    assert next(iter(made.val_dataloader()))["image"].shape == (4, 3, 24, 24)
    assert next(iter(made.test_dataloader()))["image"].shape == (4, 3, 24, 24)


def test_target_and_picture_belong_to_the_index(data):
    made = data(augment="none")
    train = made.splits["train"]
    plain = made.dataset("test").augmentation
    for batch in made.train_dataloader():
        for image, target, index in zip(batch["image"], batch["target"], batch["index"], strict=True):
            assert target.tolist() == train.targets[index].tolist()
            assert torch.equal(image, plain(read_image(train.paths[index])))
    assert -1 in train.targets


def test_evaluation_is_whole_in_order_and_never_augmented(data):
    made = data(augment="mulcon")
    batches = list(made.test_dataloader())
    assert [len(batch["index"]) for batch in batches] == [4, 1]
    assert torch.cat([batch["index"] for batch in batches]).tolist() == list(range(TEST))
    assert same(images(made.test_dataloader()), images(made.test_dataloader()))


def test_training_drops_the_smaller_last_batch_unless_it_is_the_only_one(data):
    assert [len(batch["index"]) for batch in data(batch_size=5).train_dataloader()] == [5, 5]
    assert [len(batch["index"]) for batch in data(batch_size=50).train_dataloader()] == [TRAIN]
    assert [len(batch["index"]) for batch in data(batch_size=TRAIN).train_dataloader()] == [TRAIN]


def test_interpolation_reaches_training_and_evaluation(data):
    default, bilinear, bicubic = (data(augment="none", interpolation=i) for i in (None, "bilinear", "bicubic"))
    for split in ("train", "test"):
        assert torch.equal(default.dataset(split)[0]["image"], bilinear.dataset(split)[0]["image"])
        assert not torch.equal(bicubic.dataset(split)[0]["image"], bilinear.dataset(split)[0]["image"])


# --- Splits


def test_without_a_validation_split_the_test_images_serve_and_it_is_said(data, said):
    made = data()
    assert made.splits["val"] is made.splits["test"]
    train, val, test = said()
    assert train.startswith("train 12 images")
    assert val.startswith("val   5 images")
    assert "the test images: selection sees them" in val
    assert "--data.val_fraction" in val
    assert test.startswith("test  5 images")
    assert "4 unknown" not in test


def test_a_split_of_its_own_is_said_too(root, tmp_path, said):
    write_table(tmp_path, ["image,a,split", "x.jpg,1,train", "z.jpg,0,train", "y.jpg,1,val"])
    made = CSVDataset(root=str(tmp_path))
    made.setup("fit")
    assert made.splits["test"] is made.splits["val"]
    assert "(its own split)" in said()[1]


def carved(made):
    return [{path.name for path in made.splits[split].paths} for split in ("train", "val", "test")]


def test_a_share_of_the_training_images_is_carved_out(data, said):
    train, val, test = carved(data(val_fraction=0.25))
    assert (len(train), len(val), len(test)) == (9, 3, TEST)
    assert train | val == {f"{i}.jpg" for i in range(TRAIN)}
    assert not train & val
    assert "held out from train" in said()[1]


def test_the_carving_depends_on_the_split_seed_alone(data, monkeypatch):
    first = carved(data(val_fraction=0.25, split_seed=3))
    monkeypatch.setenv("PL_GLOBAL_SEED", "77")
    np.random.seed(77)
    torch.manual_seed(77)
    assert carved(data(val_fraction=0.25, split_seed=3)) == first
    assert carved(data(val_fraction=0.25, split_seed=4)) != first


def test_carving_keeps_targets_with_their_pictures(data):
    whole = data().splits["train"]
    of_name = dict(zip((path.name for path in whole.paths), whole.targets.tolist(), strict=True))
    for split in ("train", "val"):
        part = data(val_fraction=0.4).splits[split]
        assert [of_name[path.name] for path in part.paths] == part.targets.tolist()


@pytest.mark.parametrize(("empty_images", "counts"), [("keep", (TRAIN, TEST)), ("drop", (TRAIN - 2, TEST - 1))])
def test_images_without_a_label_are_kept_or_dropped(data, empty_images, counts):
    splits = data(empty_images=empty_images).splits
    assert (len(splits["train"].paths), len(splits["test"].paths)) == counts
    if empty_images == "drop":
        assert all((samples.targets == 1).any(1).all() for samples in splits.values())


def test_setting_up_twice_reads_once(data, said):
    made = data()
    splits = made.splits
    made.setup("test")
    assert made.splits is splits
    assert len(said()) == 3


def test_samples_are_taken_by_mask_or_by_number():
    samples = Samples(["a", "b", "c"], np.array([[1], [0], [-1]], dtype=np.int8))
    assert samples.take(np.array([True, False, True])).paths == ["a", "c"]
    assert samples.take([2, 0]).paths == ["c", "a"]
    assert samples.take([2, 0]).targets.tolist() == [[-1], [1]]
    assert samples.take(slice(None)).paths == ["a", "b", "c"]


# --- Randomness: a function of (seed, epoch, index, view)


@workers
def test_workers_change_neither_the_order_nor_a_pixel(data):
    settings = {"augment": "mulcon_stage1", "views": 2}
    alone = list(data(**settings).train_dataloader())
    together = list(data(num_workers=2, **settings).train_dataloader())
    assert len(alone) == len(together) == 3
    for one, other in zip(alone, together, strict=True):
        assert all(torch.equal(one[key], other[key]) for key in one)


@workers
def test_the_next_epoch_is_another_with_any_number_of_workers(data):
    epochs = []
    for num_workers in (0, 2):
        loader = data(num_workers=num_workers).train_dataloader()
        first = list(loader)
        loader.sampler.set_epoch(1)
        epochs.append((images(first), images(loader), [batch["index"].tolist() for batch in loader]))
    (zero, one, order), (zero_by_workers, one_by_workers, order_by_workers) = epochs
    assert same(zero, zero_by_workers)
    assert same(one, one_by_workers)
    assert order == order_by_workers
    assert not any(torch.equal(zero[index], one[index]) for index in zero)


@pytest.mark.parametrize("augment", ["csra", "mulcon", "mulcon_stage1", "sadcl_stage1", "sadcl"])
def test_a_picture_is_the_same_in_any_order(data, augment):
    first, second = data(augment=augment).dataset("train"), data(augment=augment).dataset("train")
    forward = {index: first[2, index]["image"] for index in range(TRAIN)}
    backward = {index: second[2, index]["image"] for index in reversed(range(TRAIN))}
    assert same(forward, backward)


def test_epochs_views_pictures_and_seeds_differ(data, monkeypatch):
    dataset = data(views=2, augment="csra").dataset("train")
    one, other = dataset[0, 5]["image"]
    assert not torch.equal(one, other)
    assert not torch.equal(dataset[1, 5]["image"][0], one)
    assert not torch.equal(dataset[1, 5]["image"][1], other)
    monkeypatch.setenv("PL_GLOBAL_SEED", "1")
    assert not torch.equal(data(views=2, augment="csra").dataset("train")[0, 5]["image"][0], one)


class Noise(Step):
    numbers = 1

    def draw(self, height, width):
        return [float(torch.randint(256, ()))]

    def apply(self, images, drawn):
        return images + drawn.to(torch.uint8)[:, :, None, None]


def test_two_copies_of_a_picture_are_augmented_apart(root):
    samples = Samples([root / "3.jpg"] * 2, np.ones((2, 1), dtype=np.int8))
    noise = ImageDataset(samples, Augmentation(8, InterpolationMode.BILINEAR, (Noise(),)))
    assert not torch.equal(noise[0]["image"], noise[1]["image"])


def test_the_first_view_is_that_of_a_run_with_one_view(data):
    one, two = (data(views=views).dataset("train")[4, 2]["image"] for views in (1, 2))
    assert torch.equal(two[0], one)


def test_a_plain_index_means_epoch_0(data):
    dataset = data().dataset("train")
    assert torch.equal(dataset[7]["image"], dataset[0, 7]["image"])
    assert dataset[7]["index"] == 7
    assert len(dataset) == TRAIN


def test_the_global_generator_neither_matters_nor_moves(data):
    made = data(augment="mulcon_stage1", views=2)
    torch.manual_seed(1)
    first = images(made.train_dataloader())
    torch.manual_seed(2)
    before = torch.random.get_rng_state()
    again = images(made.train_dataloader())
    assert torch.equal(torch.random.get_rng_state(), before)
    assert same(first, again)


def test_a_resumed_run_goes_on_with_the_next_epoch(data):
    fresh, resumed = data(), data()
    assert fresh.state_dict() == {"next_epoch": 0}
    resumed.load_state_dict({"next_epoch": 3})
    loader = fresh.train_dataloader()
    loader.sampler.set_epoch(3)
    assert same(images(resumed.train_dataloader()), images(loader))
    assert list(resumed.test_dataloader().sampler) == [(0, index) for index in range(TEST)]


# --- What is wrong


@pytest.mark.parametrize("num_workers", [0, pytest.param(1, marks=workers)])
def test_a_picture_that_cannot_be_read_is_named(tmp_path, num_workers):
    write_table(tmp_path, ["image,a", "x.jpg,1", "y.jpg,0"])
    (tmp_path / "y.jpg").write_bytes((tmp_path / "x.jpg").read_bytes()[:300])
    made = CSVDataset(root=str(tmp_path), image_size=24, batch_size=2, num_workers=num_workers)
    made.setup("fit")
    loader = made.train_dataloader()
    with pytest.raises(ImageError) as error:
        list(loader)
    if num_workers:
        loader._iterator._shutdown_workers()  # left to the garbage collector, torch 2.15 waits 5 seconds for each
    *_, last = str(error.value).strip().splitlines()  # a worker's error brings its traceback
    assert f"{tmp_path / 'y.jpg'}: " in last


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"image_size": 0}, ("data.image_size", "0", "at least 2")),
        ({"batch_size": 0}, ("data.batch_size", "at least 1")),
        ({"views": 0}, ("data.views", "at least 1")),
        ({"num_workers": -1}, ("data.num_workers", "-1", "at least 0")),
        ({"val_fraction": 1.0}, ("data.val_fraction", "1.0")),
        ({"val_fraction": -0.1}, ("data.val_fraction", "-0.1")),
        ({"val_fraction": float("nan")}, ("data.val_fraction", "nan")),
        ({"interpolation": "lanczos"}, ("data.interpolation", "'lanczos'", "bilinear", "bicubic")),
        ({"empty_images": "no"}, ("data.empty_images", "'no'", "keep", "drop")),
    ],
)
def test_an_argument_that_cannot_be_is_refused(data, settings, words):
    with pytest.raises(MlclError) as error:
        data(**settings)
    one_line(error, *words)


def test_an_unknown_augmentation_is_refused(data):
    with pytest.raises(MlclError) as error:
        data(augment="cutmix").train_dataloader()
    one_line(error, "data.augment", "'cutmix'", "csra")


def test_a_second_validation_split_is_refused(tmp_path):
    write_table(tmp_path, ["image,a,split", "x.jpg,1,train", "y.jpg,1,val"])
    with pytest.raises(MlclError, match=r"data\.val_fraction is set, but this dataset has a validation split"):
        CSVDataset(root=str(tmp_path), val_fraction=0.5).setup("fit")


def test_carving_without_training_images_is_refused(tmp_path):
    write_table(tmp_path, ["image,a,split", "x.jpg,1,test"])
    with pytest.raises(MlclError, match="no training split"):
        CSVDataset(root=str(tmp_path), val_fraction=0.5).setup("fit")


@pytest.mark.parametrize("split", ["train", "val"])
def test_an_empty_split_is_told_when_it_is_used(tmp_path, split):
    write_table(tmp_path, ["image,a", "x.jpg,1", "y.jpg,0"])
    made = CSVDataset(root=str(tmp_path), val_fraction=0.1 if split == "val" else 0.9)
    made.setup("fit")
    with pytest.raises(MlclError) as error:
        getattr(made, f"{split}_dataloader")()
    one_line(error, "CSVDataset", tmp_path, f"no {split} images")


def test_the_base_class_is_abstract_in_its_one_method(tmp_path):
    assert MultiLabelDataModule.read_split.__isabstractmethod__
    assert MultiLabelDataModule(root=str(tmp_path)).portable_arguments()["root"] == str(tmp_path.resolve())


# --- The demo


def test_the_demo_writes_its_scenes_once_and_reads_them_as_coco(tmp_path):
    demo = Demo(str(tmp_path / "demo"), train_images=6, test_images=3, scene_size=32, image_size=24, num_workers=0)
    demo.prepare_data()
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()}
    demo.prepare_data()
    assert {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*") if file.is_file()} == files
    demo.setup("fit")
    assert (len(demo.dataset("train")), len(demo.dataset("test")), demo.num_classes) == (6, 3, 12)
    assert demo.dataset("train")[0]["image"].shape == (3, 24, 24)
    assert demo.splits["train"].targets.any()


def test_the_demo_overwrites_nothing(tmp_path):
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(MlclError) as error:
        Demo(str(tmp_path), train_images=2, test_images=1, scene_size=32).prepare_data()
    one_line(error, tmp_path, "--data.root")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_a_demo_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(MlclError) as error:
        Demo(str(tmp_path / "file" / "demo"), train_images=2, test_images=1, scene_size=32).prepare_data()
    one_line(error, tmp_path / "file" / "demo", "--data.root")


def test_demo_settings_out_of_range_are_told(tmp_path):
    with pytest.raises(MlclError) as error:
        Demo(str(tmp_path / "demo"), scene_size=8).prepare_data()
    one_line(error, "data.scene_size 8")


def test_a_held_out_part_is_also_the_test_where_there_is_no_other(tmp_path):
    write_table(tmp_path, ["image,cat", *(f"{i}.jpg,1" for i in range(8))])
    data = CSVDataset(csv=str(tmp_path / "labels.csv"), val_fraction=0.25)  # the root is the table's folder
    data.prepare_data()
    data.setup()
    assert data.splits["test"] is data.splits["val"] and len(data.splits["val"].paths) == 2


def test_training_images_in_the_test_are_told(tmp_path, capsys):
    write_table(tmp_path, ["image,cat", "1.jpg,1", "2.jpg,0"])
    data = CSVDataset(root=str(tmp_path), test_csv="labels.csv")
    data.setup()
    assert "2 images are in train and in test" in capsys.readouterr().err


class Own(MultiLabelDataModule):
    """A user's dataset, in which no class is known to be present."""

    classes = ("a", "b")

    def __init__(self, targets, **settings):
        super().__init__(num_workers=0, **settings)
        self.targets = np.array(targets, dtype=np.int8)

    def read_split(self, split):
        return Samples([Path(f"{i}.jpg") for i in range(len(self.targets))], self.targets) if split != "val" else None


@pytest.mark.parametrize("targets", [[[0, 0], [0, 0]], [[-1, -1], [-1, -1]], [[0, -1], [-1, 0]]])
def test_a_training_split_without_a_label_is_refused_and_a_test_split_is_not(targets):
    made = Own(targets)
    made.setup("fit")
    with pytest.raises(MlclError) as error:
        made.train_dataloader()
    one_line(error, "Own at data", "none of its 2 train images has a label", "nothing to learn")
    assert len(made.test_dataloader()) == len(made.val_dataloader()) == 1
    assert len(made.dataset("train", augmented=False)) == 2  # as for its embeddings
