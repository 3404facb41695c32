"""Localisation against a slow loop over pixels, and the cases whose answers are known."""

import math

import numpy as np
import pytest
import torch

from mlcl.analysis import localisation
from mlcl.analysis.measures import average_precision
from mlcl.data.coverage import Coverage, covered, near
from mlcl.heads import GlobalPool

GRID = 4, 3
WHOLE = slice(0, 15 * GRID[0]), slice(0, 17 * GRID[1])
HEIGHT, WIDTH = 15 * GRID[0], 17 * GRID[1]  # a cell has 255 pixels, so that no share of it is rounded


def coverage(masks):
    """Of {(row, class): masks of its objects (H, W)}."""
    pairs = sorted(masks)
    unions = [np.any(masks[pair], axis=0) for pair in pairs]
    bits = [np.packbits(near(union, GRID, WHOLE)) for union in unions]
    return Coverage(
        rows=np.array([row for row, _ in pairs]),
        classes=np.array([k for _, k in pairs]),
        area=np.array([max(np.count_nonzero(mask) for mask in masks[pair]) for pair in pairs], dtype=np.float32),
        cells=np.stack([covered(union, GRID, WHOLE) for union in unions]),
        near_bits=np.stack(bits),
    )


def rectangle(top, left, height, width):
    mask = np.zeros((HEIGHT, WIDTH), dtype=bool)
    mask[top : top + height, left : left + width] = True
    return mask


def scenes(images=6, classes=4, seed=0):
    """Random rectangles, one or two per present class, and random attention for every positive."""
    generator = np.random.default_rng(seed)
    masks, attention = {}, {}
    for row in range(images):
        for k in generator.permutation(classes)[: generator.integers(1, classes + 1)]:
            corners = [(generator.integers(0, 40), generator.integers(0, 35)) for _ in range(generator.integers(1, 3))]
            masks[row, int(k)] = [rectangle(*corner, *generator.integers(4, 30, 2)) for corner in corners]
            attention[row, int(k)] = generator.random(GRID) ** 3
    return masks, attention


def measured(masks, attention):
    pairs = list(attention)
    np.random.default_rng(1).shuffle(pairs)
    index, classes = (np.array([pair[n] for pair in pairs]) for n in (0, 1))
    return localisation.measure(index, classes, np.stack([attention[tuple(p)] for p in pairs]), coverage(masks))


def energy_by_pixels(attention, union):
    """Every pixel has an equal part of its cell's attention."""
    on, total = 0.0, 0.0
    for y in range(HEIGHT):
        for x in range(WIDTH):
            weight = attention[y * GRID[0] // HEIGHT, x * GRID[1] // WIDTH] / 255
            total += weight
            on += weight if union[y, x] else 0
    return on / total


def hit_by_pixels(attention, union):
    i, j = divmod(int(attention.argmax()), GRID[1])
    y, x = (i + 0.5) * HEIGHT / GRID[0], (j + 0.5) * WIDTH / GRID[1]
    return any(
        math.dist((y, x), (row + 0.5, column + 0.5)) <= 15
        for row in range(HEIGHT)
        for column in range(WIDTH)
        if union[row, column]
    )


def test_every_measure_against_a_loop_over_pixels():
    masks, attention = scenes()
    found = measured(masks, attention)
    assert list(zip(found.index.tolist(), found.classes.tolist(), strict=True)) == sorted(masks)
    for place, (row, k) in enumerate(sorted(masks)):
        unions = {j: np.any(masks[row, j], axis=0) for image, j in masks if image == row}
        energies = {j: energy_by_pixels(attention[row, k], union) for j, union in unions.items()}
        chance = unions[k].mean()
        others = [energies[j] for j in energies if j != k]
        assert found.energy[place] == pytest.approx(energies[k], abs=1e-6)
        assert found.chance[place] == pytest.approx(chance, abs=1e-6)
        assert found.gain[place] == pytest.approx((energies[k] - chance) / (1 - chance), abs=1e-6)
        assert found.pointing[place] == hit_by_pixels(attention[row, k], unions[k])
        expected = energies[k] - np.mean(others) if others else np.nan
        assert found.specificity[place] == pytest.approx(expected, abs=1e-6, nan_ok=True)
        assert found.area[place] == max(np.count_nonzero(mask) for mask in masks[row, k])


def test_uniform_attention_is_chance():
    masks, attention = scenes()
    found = measured(masks, {pair: np.full(GRID, np.float32(1 / 12)) for pair in attention})
    np.testing.assert_allclose(found.energy, found.chance, rtol=0, atol=1e-15)
    np.testing.assert_allclose(found.gain, 0, atol=1e-14)
    np.testing.assert_array_equal(found.pointing, found.pointing_chance)  # of equal cells, the share that hits


@pytest.mark.parametrize("cell, expected", [((1, 1), 1.0), ((3, 2), 0.0)])
def test_all_attention_on_one_cell(cell, expected):
    delta = np.zeros(GRID)
    delta[cell] = 0.25
    found = measured({(0, 0): [rectangle(15, 17, 15, 17)]}, {(0, 0): delta})
    assert found.energy.item() == found.pointing.item() == expected
    assert found.gain.item() == pytest.approx(1 if expected else -1 / 11)


def test_classes_that_look_alike_are_not_specific():
    """The same map for every class: what one gains on another's objects, that one loses."""
    masks, attention = scenes(images=20)
    shared = {row: value for (row, _), value in attention.items()}
    found = measured(masks, {(row, k): shared[row] for row, k in attention})
    for row in np.unique(found.index):
        own = found.specificity[found.index == row]
        assert np.isnan(own).all() if len(own) == 1 else own.mean() == pytest.approx(0, abs=1e-12)


def test_permuted_classes_are_specific_by_chance_only():
    generator = np.random.default_rng(0)
    sums = []
    for seed in range(12):
        masks, attention = scenes(images=10, seed=seed)
        right = {pair: np.maximum(covered(np.any(masks[pair], axis=0), GRID, WHOLE), 1) for pair in masks}
        assert np.nanmean(measured(masks, right).specificity) > 0.1
        for row in range(10):
            own = [pair for pair in right if pair[0] == row]
            shuffled = [right[own[n]] for n in generator.permutation(len(own))]
            attention |= dict(zip(own, shuffled, strict=True))
        sums.append(np.nanmean(measured(masks, attention).specificity))
    assert abs(np.mean(sums)) < 3 * np.std(sums) / math.sqrt(len(sums))


def test_repeated_images_count_once_and_what_is_not_covered_not_at_all():
    masks, attention = scenes()
    cover, pairs = coverage(masks), list(attention)
    twice = [*pairs, *pairs[:3], (0, 9), (99, 0)]
    maps = np.stack([attention.get(pair, np.ones(GRID)) for pair in twice])
    index, classes = (np.array([pair[n] for pair in twice]) for n in (0, 1))
    once, found = measured(masks, attention), localisation.measure(index, classes, maps, cover)
    halves = [
        localisation.measure(index[half], classes[half], maps[half], cover) for half in (index % 2 == 0, index > 0)
    ]
    for other in (found, localisation.merged(halves)):
        for name in ("index", "classes", *localisation.MEASURES):
            np.testing.assert_array_equal(getattr(once, name), getattr(other, name))


def test_blocks_change_nothing(monkeypatch):
    masks, attention = scenes()
    whole = measured(masks, attention)
    monkeypatch.setattr(localisation, "_BLOCK", 24)
    for name in localisation.MEASURES:
        np.testing.assert_array_equal(getattr(whole, name), getattr(measured(masks, attention), name))


@pytest.mark.parametrize("broken", [np.nan, np.inf, -0.1])
def test_maps_that_are_no_weights_are_refused(broken):
    masks, attention = scenes()
    first = next(iter(attention))
    attention[first] = attention[first].copy()
    attention[first][0, 0] = broken
    with pytest.raises(ValueError, match="attention"):
        measured(masks, attention)
    with pytest.raises(ValueError, match="cells"):
        measured(masks, {first: np.ones((2, 2))})


def test_class_means_are_over_positives_of_a_class_and_size():
    masks, attention = scenes(images=20)
    found = measured(masks, attention)
    for size in (None, *localisation.SIZES):
        means = found.class_means("gain", 5, size)
        low, high = localisation.SIZES.get(size, (0, math.inf))
        for k in range(5):
            own = [
                g for g, c, a in zip(found.gain, found.classes, found.area, strict=True) if c == k and low <= a < high
            ]
            assert means[k] == pytest.approx(np.mean(own) if own else np.nan, nan_ok=True)


def test_ap_of_a_size_leaves_the_other_positives_out():
    generator = np.random.default_rng(0)
    targets = torch.from_numpy((generator.random((200, 3)) < 0.3).astype(np.int8))
    targets[:5] = -1
    logits = torch.from_numpy(generator.normal(size=(200, 3)))
    sides = {(int(i), int(k)): generator.integers(5, 45) for i, k in (targets == 1).nonzero()}
    del sides[next(iter(sides))]  # a positive without a box
    cover = coverage({pair: [rectangle(0, 0, side, side)] for pair, side in sides.items()})
    for size, (low, high) in localisation.SIZES.items():
        ap, chance = localisation.ap_of_size(logits, targets, torch.arange(200), cover, size)
        for k in range(3):
            area = {n: sides[n, k] ** 2 for n in range(200) if (n, k) in sides}
            kept = [n for n in range(200) if targets[n, k] == 0 or low <= area.get(n, -1) < high]
            positives = sum(int(targets[n, k]) for n in kept)
            expected = average_precision(logits[kept][:, [k]], targets[kept][:, [k]]).item()
            assert ap[k] == pytest.approx(expected, nan_ok=True)
            assert chance[k] == pytest.approx(positives / len(kept) if positives else np.nan, nan_ok=True)


def test_cam_of_global_pool_adds_up_to_its_logits():
    """The mean of <w_k, F(p)> is the logit without its bias; negative evidence is left out, none at all is uniform."""
    torch.manual_seed(0)
    head = GlobalPool().build(5, 3)
    features = torch.randn(2, 5, 4, 3)
    with torch.no_grad():
        head.classifier.weight[2] = 0
        maps = head.saliency(features, head(features))
        plain = torch.einsum("kc,bchw->bkhw", head.classifier.weight, features)
        torch.testing.assert_close(plain.mean((2, 3)), head(features).logits - head.classifier.bias)
    torch.testing.assert_close(maps[:, :2], plain[:, :2].clamp(min=0))
    assert (maps[:, 2] == 1).all()
