import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import InterpolationMode
from trees import REAL_DATA, WHY_NO_REAL_DATA, picture

from mlcl.data.augment import AUGMENTATIONS, Cutout, MultiScaleCrop, evaluation, training
from mlcl.data.images import read_image
from mlcl.errors import MlclError


def pixels(width, height, seed=0):
    return torch.from_numpy(np.array(picture(width, height, seed))).permute(2, 0, 1).contiguous()


def noise(height, width):
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(transform, image, seed):
    torch.manual_seed(seed)
    return transform(image)


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (7, 200), (200, 7), (33, 33), (41, 60)])
@pytest.mark.parametrize("size", [33, 64])
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_set_gives_a_square_of_bytes(name, size, shape):
    transform = training(name, size)
    for seed in range(3):
        image = drawn(transform, noise(*shape), seed)
        assert image.shape == (3, size, size)
        assert image.dtype == torch.uint8


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_same_seed_draws_the_same_and_the_picture_stays_as_it_was(name):
    transform, image = training(name, 33), pixels(60, 41)
    before = image.clone()
    seeds = range(8)
    first = [drawn(transform, image, seed) for seed in seeds]
    np.random.seed(7)  # no other generator takes part
    again = [drawn(transform, image, seed) for seed in seeds]
    assert all(map(torch.equal, first, again))
    assert torch.equal(image, before)
    different = len({result.numpy().tobytes() for result in first})
    assert different == (1 if name == "none" else 2 if name == "flip" else different)
    assert name in ("none", "flip") or different >= 7


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_how_a_picture_lies_in_memory_does_not_matter(name):
    image = pixels(60, 41)
    other = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)  # as decoded JPEGs come
    transform = training(name, 33)
    assert torch.equal(drawn(transform, image, 5), drawn(transform, other, 5))


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(MlclError) as error:
        training("cutmix", 32)
    assert all(word in str(error.value) for word in ("cutmix", "data.augment", *AUGMENTATIONS))
    assert "\n" not in str(error.value)


def test_every_name_of_the_recipes_is_there():
    assert set(AUGMENTATIONS) == {"none", "flip", "csra", "mulcon_stage1", "mulcon", "sadcl_stage1", "sadcl"}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_interpolation_reaches_the_resize(name):
    nearest = drawn(training(name, 80, InterpolationMode.NEAREST), pixels(40, 30), 0)
    bicubic = drawn(training(name, 80, InterpolationMode.BICUBIC), pixels(40, 30), 0)
    assert not torch.equal(nearest, bicubic)


def share_mirrored(name, draws):
    """How often the result is nearer to the mirrored picture: left half black, right half white."""
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    image[:, :, 24:] = 255
    transform, mirrored = training(name, 48), 0
    for seed in range(draws):
        result = drawn(transform, image, seed).float()
        mirrored += bool((result - image).abs().sum() > (result - image.flip(-1)).abs().sum())
    return mirrored / draws


@pytest.mark.parametrize("name", ["flip", "csra", "sadcl", "mulcon", "mulcon_stage1"])
def test_these_flip_half_of_the_time(name):
    assert 0.35 < share_mirrored(name, 150) < 0.65


def test_none_and_sadcls_first_stage_never_flip():
    assert share_mirrored("none", 10) == 0
    assert share_mirrored("sadcl_stage1", 150) < 0.15  # the hole beside a white that solarizing made black misleads


def test_the_order_of_the_steps_is_the_recipes():
    kinds = {name: [type(step).__name__ for step in training(name, 32).transforms] for name in AUGMENTATIONS}
    assert kinds == {
        "none": ["Resize"],
        "flip": ["Resize", "RandomHorizontalFlip"],
        "csra": ["RandomResizedCrop", "RandomHorizontalFlip"],
        "mulcon_stage1": ["RandomResizedCrop", "RandomHorizontalFlip", "RandAugment"],
        "mulcon": ["Resize", "RandomHorizontalFlip", "RandAugment"],
        "sadcl_stage1": ["Resize", "Cutout", "RandAugment"],
        "sadcl": ["Resize", "MultiScaleCrop", "RandomHorizontalFlip"],
    }


def test_the_numbers_are_the_recipes_at_448():
    steps = {name: training(name, 448).transforms for name in AUGMENTATIONS}
    assert steps["csra"][0].scale == (0.7, 1)
    assert steps["mulcon_stage1"][0].scale == (0.875, 1)
    assert steps["sadcl_stage1"][1].length == 224
    assert steps["sadcl"][0].size == [512, 512]


# --- Cutout


def hole(image, result):
    rows, columns = (image != result).any(0).nonzero(as_tuple=True)
    return rows.min().item(), rows.max().item() + 1, columns.min().item(), columns.max().item() + 1


def test_cutout_is_one_square_of_one_colour_cut_off_at_the_border():
    cutout, base = Cutout(8), torch.full((3, 20, 24), 50, dtype=torch.uint8)
    seen = set()
    for seed in range(300):
        result = drawn(cutout, base, seed)
        top, bottom, left, right = hole(base, result)
        inside = result[:, top:bottom, left:right]
        assert (inside == inside[:, :1, :1]).all()
        assert bottom - top == 8 or top == 0 or bottom == 20
        assert right - left == 8 or left == 0 or right == 24
        assert 4 <= bottom - top <= 8  # at least half of it stays: its centre is in the picture
        assert 4 <= right - left <= 8
        outside = result.clone()
        outside[:, top:bottom, left:right] = 50
        assert torch.equal(outside, base)
        seen.add((bottom - top) * (right - left))
    assert 64 in seen
    assert min(seen) < 64


def test_cutout_is_centred_everywhere_and_of_every_colour():
    cutout, tops, colours = Cutout(1), set(), set()
    for seed in range(400):
        result = drawn(cutout, torch.zeros(3, 5, 5, dtype=torch.uint8), seed)
        if result.any():
            top, _, left, _ = hole(torch.zeros_like(result), result)
            tops.add((top, left))
            colours.add(tuple(result[:, top, left].tolist()))
    assert len(tops) == 25
    assert len(colours) > 300


@pytest.mark.parametrize("length", [0, 1, 100])
def test_cutout_of_any_length(length):
    result = drawn(Cutout(length), torch.zeros(3, 6, 6, dtype=torch.uint8), 3)
    assert result.shape == (3, 6, 6)
    assert (result.any(0).sum() == {0: 0, 1: 1, 100: 36}[length]).item()


# --- MultiScaleCrop


def crop_of(shape, seed):
    """Scales and offsets of a draw, read off a picture that says where each of its pixels was."""
    height, width = shape
    image = torch.stack([torch.arange(height)[:, None].expand(shape), torch.arange(width).expand(shape)])
    crop = MultiScaleCrop(1, InterpolationMode.BILINEAR)
    crop.resize = torch.nn.Identity()
    part = drawn(crop, image, seed)
    (top, left), (bottom, right) = part[:, 0, 0].tolist(), (part[:, -1, -1] + 1).tolist()
    return top, left, bottom - top, right - left


def test_multi_scale_crop_draws_every_allowed_pair_of_scales_at_every_offset():
    scales, side = (1, 0.875, 0.75, 0.66, 0.5), 80
    pairs, offsets = set(), set()
    for seed in range(600):
        top, left, tall, wide = crop_of((side, side), seed)
        i, j = (next(n for n, scale in enumerate(scales) if round(side * scale) == length) for length in (tall, wide))
        assert abs(i - j) <= 2
        pairs.add((i, j))
        assert 0 <= top <= side - tall
        assert 0 <= left <= side - wide
        if tall < side and wide < side:
            offsets.add((round(4 * top / (side - tall)), round(4 * left / (side - wide))))
    assert len(pairs) == 19
    corners_edges_centre = {(i, j) for i in (0, 2, 4) for j in (0, 2, 4)}
    assert offsets == corners_edges_centre | {(1, 1), (1, 3), (3, 1), (3, 3)}


@pytest.mark.parametrize(("height", "width"), [(100, 300), (300, 100)])
def test_multi_scale_crop_measures_by_the_shorter_side(height, width):
    for seed in range(40):
        top, left, tall, wide = crop_of((height, width), seed)
        assert 50 <= tall <= 100
        assert 50 <= wide <= 100
        assert top + tall <= height
        assert left + wide <= width


def test_multi_scale_crop_resizes_what_it_cropped():
    image = pixels(64, 64)
    torch.manual_seed(2)
    top, left, tall, wide = crop_of((64, 64), 2)
    expected = evaluation(32)(image[:, top : top + tall, left : left + wide])
    assert torch.equal(drawn(MultiScaleCrop(32, InterpolationMode.BILINEAR), image, 2), expected)


# --- Evaluation


@pytest.mark.parametrize("size", [31, 224])
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_evaluation_resizes_as_pillow_does(name, size):
    wanted = picture(300, 211).resize((size, size), Image.Resampling[name.upper()])
    result = evaluation(size, InterpolationMode(name))(pixels(300, 211))
    difference = np.abs(result.permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted).astype(int))
    assert difference.mean() < 0.1
    assert difference.max() <= 2


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
def test_evaluation_resizes_a_photograph_as_pillow_does():
    for path in sorted(REAL_DATA.glob("coco2014/train2014/*.jpg"))[:4]:
        with Image.open(path) as image:
            wanted = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
        result = evaluation(224)(read_image(path)).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(result - wanted).mean() < 0.1


def test_evaluation_draws_nothing():
    before = torch.random.get_rng_state()
    evaluation(20)(pixels(30, 30))
    assert torch.equal(torch.random.get_rng_state(), before)
