import itertools
import time

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

import mlcl.data.sampler
from mlcl.data.sampler import AHEAD, ChunkSampler, ClassAwareSampler, EpochSampler
from mlcl.errors import MlclError
from mlcl.system.seeding import derive, global_seed, seeded


@pytest.fixture
def sampler(monkeypatch):
    """Make a sampler as rank ``rank`` of ``world`` would."""

    def make(count, world=1, rank=0, seed=0, shuffle=True, epoch=0):
        monkeypatch.setattr(mlcl.data.sampler, "world_size", lambda: world)
        monkeypatch.setattr(mlcl.data.sampler, "rank", lambda: rank)
        made = EpochSampler(range(count), seed=seed, shuffle=shuffle)
        made.set_epoch(epoch)
        return made

    return make


def indices(sampler):
    return [index for _, index in sampler]


def test_it_yields_the_epoch_and_every_index_once(sampler):
    pairs = list(sampler(50, epoch=3))
    assert {epoch for epoch, _ in pairs} == {3}
    assert sorted(index for _, index in pairs) == list(range(50))


def test_the_order_is_a_function_of_seed_and_epoch(sampler):
    orders = {(seed, epoch): indices(sampler(50, seed=seed, epoch=epoch)) for seed in (0, 1) for epoch in (0, 1, 2)}
    assert len({tuple(order) for order in orders.values()}) == 6
    torch.manual_seed(99)
    assert all(indices(sampler(50, seed=seed, epoch=epoch)) == order for (seed, epoch), order in orders.items())


def test_one_sampler_told_another_epoch_is_as_good_as_a_new_one(sampler):
    one = sampler(50)
    first = indices(one)
    one.set_epoch(1)
    assert indices(one) == indices(sampler(50, epoch=1)) != first
    one.set_epoch(0)
    assert indices(one) == first == indices(one)


def test_the_order_is_the_same_in_any_process(sampler):
    """Written down from another process: a resumed run, a rank or another machine must draw the same."""
    assert indices(sampler(10)) == ORDER_0_0
    assert indices(sampler(10, seed=3, epoch=7)) == ORDER_3_7


ORDER_0_0 = [5, 1, 7, 9, 3, 8, 2, 4, 0, 6]
ORDER_3_7 = [4, 8, 6, 5, 0, 9, 1, 3, 2, 7]


def test_without_shuffling_the_order_is_the_datasets(sampler):
    assert indices(sampler(7, shuffle=False, epoch=4)) == list(range(7))


def test_it_leaves_the_global_generator_alone(sampler):
    before = torch.random.get_rng_state()
    indices(sampler(20))
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_ranks_share_the_order_of_one_process(sampler):
    for world, count, shuffle in itertools.product((2, 3), (1, 2, 7, 12, 13), (True, False)):
        whole = indices(sampler(count, shuffle=shuffle, epoch=2))
        made = [sampler(count, world, rank, shuffle=shuffle, epoch=2) for rank in range(world)]
        parts = [indices(one) for one in made]
        length = -(-count // world)
        assert [len(part) for part in parts] == [len(one) for one in made] == [length] * world
        merged = [index for row in zip(*parts, strict=True) for index in row]
        assert merged[:count] == whole  # step by step the images of one process
        assert merged[count:] == (whole * world)[: world * length - count]  # the padding, taken from the start again


def test_the_largest_batch_is_that_of_the_loaders_of_all_ranks(sampler):
    """Every rank computes it alone, and no step of any loader exceeds it."""
    for world, count, drop_last in itertools.product((1, 2, 3), (1, 5, 12, 13, 31), (True, False)):
        counts = torch.randint(0, 9, (count,), generator=torch.Generator().manual_seed(count))
        made = [sampler(count, world, rank, epoch=3) for rank in range(world)]
        loaders = [DataLoader(counts, 4, sampler=IndexOnly(one), drop_last=drop_last) for one in made]
        steps = [sum(int(part.sum()) for part in step) for step in zip(*loaders, strict=True)]
        bounds = {one.largest_batch(counts, 4) for one in made}
        assert len(bounds) == 1
        if drop_last:
            assert all(step <= max(bounds) for step in steps)
        else:
            assert max(steps) == max(bounds)


class IndexOnly(list):
    def __init__(self, sampler):
        super().__init__(indices(sampler))


def test_an_empty_dataset_has_an_empty_order(sampler):
    assert indices(sampler(0)) == []
    assert sampler(0).largest_batch(torch.zeros(0, dtype=torch.int64), 4) == 0


# --- Every class equally often


@pytest.fixture
def aware(monkeypatch):
    """Make a class-aware sampler as rank ``rank`` of ``world`` would."""

    def make(targets, world=1, rank=0, seed=0, epoch=0):
        monkeypatch.setattr(mlcl.data.sampler, "world_size", lambda: world)
        monkeypatch.setattr(mlcl.data.sampler, "rank", lambda: rank)
        made = ClassAwareSampler(range(len(targets)), seed, targets)
        made.set_epoch(epoch)
        return made

    return make


def long_tailed(count, classes, seed=0):
    """Targets in {1, 0, -1} whose classes are present in a half down to hardly any of the images; one in none."""
    rng = np.random.default_rng(seed)
    present = rng.random((count, classes)) < np.geomspace(0.5, 1 / count, classes)
    targets = np.where(present, 1, rng.choice([0, -1], size=present.shape)).astype(np.int8)
    targets[:, 1] = 0
    return targets


def drawn_in_turn(targets, seed, epoch):
    """The paper's lists in plain loops: one of classes, and one of images for each class; shuffled when through."""
    generator = torch.Generator().manual_seed(derive(seed, epoch))
    lists = [column.nonzero()[0].tolist() for column in (targets == 1).T if (column == 1).any()]
    turns = -(-len(targets) // len(lists))
    order = torch.randperm(turns * len(lists), generator=generator).tolist()
    class_lists = [[number % len(lists) for number in order if number // len(lists) == turn] for turn in range(turns)]
    times = [-(-turns // len(images)) for images in lists]
    entries = [(k, time, image) for k, images in enumerate(lists) for time in range(times[k]) for image in images]
    order = torch.randperm(len(entries), generator=generator).tolist()
    cycles = [
        iter([entries[n][2] for time in range(times[k]) for n in order if entries[n][:2] == (k, time)])
        for k in range(len(lists))
    ]
    return [next(cycles[k]) for class_list in class_lists for k in class_list][: len(targets)]


@pytest.mark.parametrize(("count", "classes"), [(1, 1), (7, 3), (40, 6), (61, 12), (20, 30)])
def test_classes_and_their_images_are_drawn_in_turn(aware, count, classes):
    targets = long_tailed(count, max(classes, 2)) if classes > 1 else np.ones((1, 1), np.int8)
    if not (targets == 1).any():
        targets[0, 0] = 1
    for seed, epoch in ((0, 0), (0, 3), (5, 0)):
        assert indices(aware(targets, seed=seed, epoch=epoch)) == drawn_in_turn(targets, seed, epoch)


def test_every_class_is_drawn_equally_often_and_its_images_too(aware):
    owner = np.repeat([0, 1, 2, 3], [30, 7, 2, 1])  # each image has one class
    targets = np.eye(4, dtype=np.int8)[owner]
    drawn = indices(aware(targets))
    assert [[owner[i] for i in drawn].count(k) for k in range(4)] == [10] * 4
    assert all(len({owner[i] for i in drawn[start : start + 4]}) == 4 for start in range(0, 40, 4))
    times = [drawn.count(i) for i in range(40)]
    for k in range(4):
        own = [time for time, one in zip(times, owner, strict=True) if one == k]
        assert max(own) - min(own) <= 1, "an image comes again when its class is through"


def test_images_without_a_positive_are_never_drawn_and_it_is_said(aware, capfd):
    targets = long_tailed(60, 6)
    never = {i for i in range(60) if not (targets[i] == 1).any()}
    drawn = [indices(aware(targets, epoch=epoch)) for epoch in range(30)]
    assert never and not never & {i for order in drawn for i in order} and all(len(order) == 60 for order in drawn)
    said = capfd.readouterr().err.splitlines()[0]
    left_out = f"{len(never)} of 60 images have no positive and are never drawn"
    assert said == f"data.sampler class_aware: 5 of 6 classes in turn; {left_out}"
    with pytest.raises(MlclError, match="needs images with a positive"):
        aware(-np.ones((4, 2), np.int8))


def test_ranks_share_one_order_and_a_step_has_no_more_labels_than_foretold(aware):
    targets = long_tailed(31, 6)
    counts = torch.from_numpy((targets == 1).sum(1))
    whole = list(aware(targets, epoch=2))
    for world in (2, 3, 4):
        made = [aware(targets, world, rank, epoch=2) for rank in range(world)]
        parts = [list(one) for one in made]
        merged = [pair for row in zip(*parts, strict=True) for pair in row]
        assert merged[:31] == whole and merged[31:] == whole[: len(merged) - 31]
        loaders = [DataLoader(counts, 4, sampler=IndexOnly(one)) for one in made]
        steps = [sum(int(part.sum()) for part in step) for step in zip(*loaders, strict=True)]
        assert {one.largest_batch(counts, 4) for one in made} == {max(steps)}


def test_an_epoch_is_a_function_of_seed_and_epoch_and_repetitions_are_augmented_apart(aware):
    targets = long_tailed(50, 8)
    one = aware(targets)
    first = list(one)
    assert len(set(first)) == len(first) > len({index for _, index in first}), "the same pixels come only once"
    assert {number % 2**32 for number, _ in first} == {0} and (0, first[0][1]) == first[0]
    one.set_epoch(1)
    assert list(one) == list(aware(targets, epoch=1)) and indices(one) != [index for _, index in first]
    one.set_epoch(0)
    torch.manual_seed(99)
    assert list(one) == first != list(aware(targets, seed=1))


def test_as_many_images_as_coco_has_take_a_moment(aware):
    targets = long_tailed(82783, 80)
    made = aware(targets)
    start = time.process_time()
    made.order()
    made.largest_batch(torch.from_numpy((targets == 1).sum(1)), 32)
    list(made)
    assert time.process_time() - start < 1  # measured: 0.06


# --- Chunk by chunk


@pytest.fixture
def by_chunk(monkeypatch):
    """Make a chunk sampler as rank ``rank`` of ``world`` would."""

    def make(chunk, world=1, rank=0, mixed=2, seed=0, epoch=0, shuffle=True, ahead=lambda numbers: None):
        monkeypatch.setattr(mlcl.data.sampler, "world_size", lambda: world)
        monkeypatch.setattr(mlcl.data.sampler, "rank", lambda: rank)
        made = ChunkSampler(range(len(chunk)), seed, shuffle, np.asarray(chunk, dtype=np.int64), mixed, ahead)
        made.set_epoch(epoch)
        return made

    return make


def some_chunks(rng):
    """The chunk of each image: in random order as mlcl pack deals out training images, of uneven sizes, or only one."""
    sizes = rng.integers(1, rng.choice([2, 5, 40]), size=rng.choice([1, 2, 7, 30]))
    return rng.permutation(np.repeat(np.arange(len(sizes)), sizes))


def test_in_chunks_every_image_comes_once_and_a_chunk_to_one_rank_in_one_stretch(by_chunk):
    rng = np.random.default_rng(0)
    for case in range(150):
        chunk, world, mixed = some_chunks(rng), int(rng.integers(1, 6)), int(rng.integers(1, 9))
        count, shuffle = len(chunk), bool(case % 3)
        chunk = chunk if shuffle else np.sort(chunk)
        parts = [indices(by_chunk(chunk, world, rank, mixed, shuffle=shuffle, epoch=case)) for rank in range(world)]
        length = -(-count // world)
        assert [len(part) for part in parts] == [length] * world
        whole = [index for part in parts for index in part]
        times = np.bincount(whole, minlength=count)
        assert times.min() >= 1 and times.sum() == world * length, "all, and nothing but the padding twice"
        if shuffle and world * length == count:
            assert times.max() == 1
        merged = [index for row in zip(*parts, strict=True) for index in row]
        assert by_chunk(chunk, world, 0, mixed, shuffle=shuffle, epoch=case).order().tolist() == merged
        # A rank more for each border between the ranks, and for the padding.
        ranks_of = sum(len(set(chunk[part])) for part in parts)
        assert ranks_of <= len(set(chunk)) + world - 1 + (world * length > count) * max(1, world * length // count)
        for part in parts if shuffle and count >= world else ():
            own, opened, most = chunk[part], set(), 0
            last = {number: place for place, number in enumerate(own)}
            for place, number in enumerate(own):
                opened = {one for one in opened if last[one] >= place} | {number}
                most = max(most, len(opened))
            assert most <= mixed + (world * length > count), "chunks at a time"
        if not shuffle:
            assert whole[:count] == list(range(count))


def test_what_one_chunk_holds_is_in_random_order_anew_in_each_epoch(by_chunk):
    chunk = np.repeat(np.arange(12), 25)
    orders = [tuple(indices(by_chunk(chunk, mixed=3, seed=s, epoch=e))) for s in (0, 1) for e in (0, 1)]
    assert len(set(orders)) == 4
    torch.manual_seed(99)
    assert tuple(indices(by_chunk(chunk, mixed=3, seed=1, epoch=1))) == orders[3]
    neighbours = [chunk[a] == chunk[b] for a, b in itertools.pairwise(orders[0])]
    assert 0.2 < np.mean(neighbours) < 0.6, "about a third of the neighbours are of one chunk"
    assert not any(np.array_equal(np.sort(own), own) for own in np.split(np.array(orders[0]), 12))


def test_the_chunks_to_come_are_told_in_time_and_in_order(by_chunk):
    chunk, told = np.random.default_rng(1).permutation(np.repeat(np.arange(9), 6)), []
    made = by_chunk(chunk, 2, 1, ahead=lambda numbers: told.append((len(seen), numbers)))
    seen = []
    for _, index in made:
        assert chunk[index] in {number for _, numbers in told for number in numbers}, "told before it is read"
        seen.append(index)
    begun = list(dict.fromkeys(chunk[seen].tolist()))
    assert [numbers for _, numbers in told] == [begun[n : n + 1 + AHEAD] for n in range(len(begun))]
    assert [place for place, _ in told] == [chunk[seen].tolist().index(number) for number in begun]


def test_the_largest_batch_of_chunks_is_that_of_the_loaders_of_all_ranks(by_chunk):
    for world, count in itertools.product((1, 2, 3), (1, 5, 13, 31)):
        counts = torch.randint(0, 9, (count,), generator=torch.Generator().manual_seed(count))
        made = [by_chunk(np.arange(count) // 4, world, rank, epoch=3) for rank in range(world)]
        loaders = [DataLoader(counts, 4, sampler=IndexOnly(one)) for one in made]
        steps = [sum(int(part.sum()) for part in step) for step in zip(*loaders, strict=True)]
        assert {one.largest_batch(counts, 4) for one in made} == {max(steps)}
    assert indices(by_chunk([])) == [] and by_chunk([]).largest_batch(torch.zeros(0, dtype=torch.int64), 4) == 0


# --- The seeds under it


def test_derive_is_the_same_on_every_machine():
    assert [derive(0), derive(0, 1), derive(1, 0), derive(7, 3, 123, 1)] == DERIVED
    assert all(0 <= seed < 2**63 for seed in DERIVED)


DERIVED = [2631537505891389924, 9017893900260303862, 6882986155843456424, 5370108388736939476]


def test_derive_tells_its_arguments_apart():
    tuples = [(a, b) for a in range(30) for b in range(30)] + [(1, 23), (12, 3), (123,), (1, 2, 3)]
    assert len({derive(*numbers) for numbers in tuples}) == len(set(tuples))


def test_seeded_draws_the_same_and_leaves_the_generator_as_it_was():
    torch.manual_seed(5)
    before = torch.random.get_rng_state()
    with seeded(1, 2):
        first = torch.rand(3)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.manual_seed(6)
    with seeded(1, 2):
        assert torch.equal(torch.rand(3), first)
    with seeded(1, 3):
        assert not torch.equal(torch.rand(3), first)


def test_seeded_restores_after_an_error_too():
    before = torch.random.get_rng_state()
    with pytest.raises(RuntimeError), seeded(1):
        torch.rand(3)
        raise RuntimeError
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_global_seed_is_lightnings(monkeypatch):
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert global_seed() == 0
    monkeypatch.setenv("PL_GLOBAL_SEED", "17")
    assert global_seed() == 17


@pytest.mark.parametrize("count", [1, 2, 5, 25])
@pytest.mark.parametrize("kind", ["image by image", "chunk by chunk"])
def test_a_rank_knows_which_images_only_fill_it(sampler, by_chunk, kind, count):
    """They come last; what is before them is each image once."""
    for world in (1, 2, 3, 4):
        own = []
        for rank in range(world):
            if kind == "image by image":
                made = sampler(count, world, rank, shuffle=False)
            else:
                made = by_chunk([n // 4 for n in range(count)], world, rank, shuffle=False)
            own += indices(made)[: made.own_images]
        assert sorted(own) == list(range(count))
