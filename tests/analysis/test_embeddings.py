"""Class-specific embeddings as data, against naive loops, and at their edges: few rows, one class, one for all."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import mlcl as package
from mlcl.analysis.embeddings import distances, entries, join, neighbour_precision, neighbours, project
from mlcl.data import Demo
from mlcl.errors import MlclError
from mlcl.heads import GlobalPool, SemanticAttention
from mlcl.inference.embeddings import collect
from mlcl.inference.rebuild import Rebuilt
from mlcl.network import Network


def random_entries(images=20, classes=4, dim=6, absent=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    embeddings = torch.randn(images, classes, dim, generator=generator) + torch.randn(1, classes, dim)
    targets = torch.randint(-1, 2, (images, classes), generator=generator)
    return (
        entries(embeddings, targets, absent=absent),
        F.normalize(embeddings, dim=-1).double().numpy(),
        targets.numpy(),
    )


def test_entries_are_the_present_ones_of_unit_length():
    embeddings, targets = torch.randn(3, 2, 5), torch.tensor([[1, 0], [-1, 1], [1, 1]])
    found = entries(embeddings, targets, rows=[7, 4, 9])
    assert found.rows.tolist() == [7, 4, 9, 9] and found.owners.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(np.linalg.norm(found.vectors, axis=1), 1, rtol=1e-6)
    assert found.vectors.dtype == np.float32 and found.present.all() and not found.shared
    with_absent = entries(embeddings, targets.numpy(), absent=True)
    assert len(with_absent) == 5 and with_absent.present.tolist() == [True, False, True, True, True]


def test_entries_refuse_other_shapes():
    with pytest.raises(ValueError, match=r"\(3, 2, 5\) and \(2, 3\)"):
        entries(torch.zeros(3, 2, 5), np.zeros((2, 3)))


def test_parts_joined_are_the_whole():
    embeddings, targets = torch.randn(6, 3, 4), torch.randint(0, 2, (6, 3))
    whole = entries(embeddings, targets)
    joined = join(entries(embeddings[a:b], targets[a:b], range(a, b)) for a, b in ((0, 4), (4, 6)))
    for name in ("vectors", "owners", "rows", "present"):
        np.testing.assert_array_equal(getattr(joined, name), getattr(whole, name))
    with pytest.raises(ValueError, match="at least one"):
        join([])


def test_distances_are_those_of_naive_loops():
    found, unit, targets = random_entries()
    table = distances(found)
    for k in range(4):
        mine, gone = (np.flatnonzero(targets[:, k] == code) for code in (1, 0))
        intra = [1 - unit[a, k] @ unit[b, k] for a in mine for b in mine if a != b]
        others = [(n, j) for n in range(20) for j in range(4) if j != k and targets[n, j] == 1]
        inter = [1 - unit[a, k] @ unit[n, j] for a in mine for n, j in others]
        absent = [1 - unit[a, k] @ unit[b, k] for a in mine for b in gone]
        assert table.count[k] == len(mine)
        for got, wanted in ((table.intra, intra), (table.inter, inter), (table.absent, absent)):
            assert got[k] == pytest.approx(np.mean(wanted), abs=1e-5)


def test_distances_say_where_there_is_no_pair():
    """A class on one image, a class on none, no absent entries."""
    table = distances(entries(torch.randn(2, 3, 4), [[1, 1, 0], [0, 1, 0]]))
    assert table.count.tolist() == [1, 2, 0]
    assert np.isnan(table.intra).tolist() == [True, False, True]
    assert np.isnan(table.inter).tolist() == [False, False, True]
    assert np.isnan(table.absent).all()


def test_of_one_class_there_is_nothing_to_tell_it_from():
    found = entries(torch.randn(4, 1, 3), [[1], [1], [0], [1]], absent=True)
    table = distances(found)
    assert not found.shared and np.isfinite(table.intra).all() and np.isnan(table.inter).all()
    assert len(neighbours(found, 0, 0).rows) == 3


def test_no_entry_at_all():
    found = entries(torch.randn(2, 3, 4), np.zeros((2, 3)))
    assert len(found) == 0 and np.isnan(distances(found).intra).all() and np.isnan(neighbour_precision(found)).all()
    assert project(found.vectors) is None
    assert found.describe() == "0 present entries on 0 images, 0 of 3 classes present"


def test_neighbours_are_those_of_a_naive_search():
    found, unit, targets = random_entries(images=30)
    row = int(np.flatnonzero(targets[:, 1] == 1)[0])
    near = neighbours(found, 1, row, most=4)
    known = [n for n in range(30) if targets[n, 1] >= 0 and n != row]
    wanted = sorted(known, key=lambda n: 1 - unit[n, 1] @ unit[row, 1])[:4]
    assert near.rows.tolist() == wanted
    assert near.present.tolist() == [bool(targets[n, 1] == 1) for n in wanted]
    np.testing.assert_allclose(near.distance, [1 - unit[n, 1] @ unit[row, 1] for n in wanted], atol=1e-5)


def test_neighbours_of_an_image_that_was_not_collected():
    found = entries(torch.randn(2, 2, 3), [[1, 0], [0, 1]])
    assert len(neighbours(found, 0, 0).rows) == 0  # the only one
    with pytest.raises(MlclError, match="class 0 on image 1"):
        neighbours(found, 0, 1)


def test_neighbour_precision_is_that_of_a_naive_search():
    found, _, targets = random_entries(images=30)
    shares = neighbour_precision(found, most=3)
    for k in range(4):
        rows = np.flatnonzero(targets[:, k] == 1)
        assert shares[k] == pytest.approx(np.mean([neighbours(found, k, int(row), 3).present for row in rows]))
    assert np.isnan(neighbour_precision(random_entries(absent=False)[0])).all()


def test_more_neighbours_than_there_are():
    found = entries(torch.randn(3, 1, 4), [[1], [1], [0]], absent=True)
    assert neighbour_precision(found, most=50).tolist() == [0.5]


def test_projection_of_few_many_and_equal_rows():
    rng = np.random.default_rng(0)
    assert project(rng.normal(size=(2, 8))) is None
    assert project(rng.normal(size=(50, 1))) is None
    assert project(np.ones((50, 8))) is None
    for rows, method in ((12, "PCA"), (40, "t-SNE")):
        points, name = project(rng.normal(size=(rows, 8)))
        assert points.shape == (rows, 2)
        assert name.startswith(method)


def test_a_loaded_model_and_its_network_give_the_same(trained, demo_root):
    """The model resizes as it was trained, whatever the datamodule says; the network's mode comes back."""
    model, data = package.load(trained, device="cpu"), Rebuilt(trained / "checkpoints" / "best.ckpt").datamodule()
    found = collect(model, data, absent=True)
    again = collect(model.network.train(), data, absent=True)
    np.testing.assert_allclose(found.vectors, again.vectors, atol=1e-5)
    assert model.network.training and len(found) == 25 * 12
    model.network.eval()
    out = model(data.splits["test"].paths[:3])
    first = entries(out.embeddings, data.splits["test"].targets[:3])
    few = collect(model, data, rows=[2, 0, 1])
    assert few.rows.tolist() == sorted(few.rows, key=[2, 0, 1].index)
    for row in range(3):
        np.testing.assert_allclose(few.vectors[few.rows == row], first.vectors[first.rows == row], atol=1e-5)
    larger = Rebuilt(trained / "checkpoints" / "best.ckpt").datamodule(image_size=64)
    np.testing.assert_allclose(collect(model, larger, absent=True).vectors, found.vectors, atol=1e-5)
    with pytest.raises(MlclError, match="no image was chosen"):
        collect(model, data, rows=[])


@pytest.fixture(scope="module")
def data(demo_root):
    return Demo(str(demo_root), 80, 25, 64, image_size=64, num_workers=0, batch_size=16)


def test_a_head_with_one_embedding_for_all_is_said_to_have_it(data):
    """An image is not compared with itself under another class's name; neighbours are the same for all classes."""
    found = collect(Network("test_resnet", GlobalPool(), 12).eval(), data, absent=True)
    table = distances(found)
    assert found.shared and found.describe().endswith("they tell images apart, not classes")
    assert np.isnan(table.inter).all() and np.isfinite(table.intra[table.count > 1]).all()
    assert {tuple(neighbours(found, k, 3, 4).rows) for k in range(12)} == {tuple(neighbours(found, 0, 3, 4).rows)}
    network = Network("test_resnet", SemanticAttention(8), 12)
    torch.nn.init.normal_(network.head.class_maps.weight)  # they start at zero, alike for all classes
    assert not collect(network, data).shared


def test_another_models_classes_are_refused(data, trained):
    with pytest.raises(MlclError, match="other classes than Demo"):
        collect(Network("test_resnet", SemanticAttention(8), 5), data)
    model = package.load(trained, device="cpu")
    model.classes = model.classes[::-1]
    with pytest.raises(MlclError, match="other classes than Demo"):
        collect(model, data)
