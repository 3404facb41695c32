import numpy as np
import pytest
import torch
from PIL import Image
from support.trees import REAL_DATA, WHY_NO_REAL_DATA, picture
from torchvision.transforms import v2
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as F

from mlcl.data import rand_augment
from mlcl.data.augment import AUGMENTATIONS, Augmentation
from mlcl.data.augment_steps import Cutout, MultiScaleCrop
from mlcl.data.base import MultiLabelDataModule
from mlcl.data.images import read_image
from mlcl.errors import MlclError


def training(name, size, mode=InterpolationMode.BILINEAR):
    return AUGMENTATIONS[name](size, mode)


def pixels(width, height, seed=0):
    return torch.from_numpy(np.array(picture(width, height, seed))).permute(2, 0, 1).contiguous()


def noise(height, width):
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def drawn(transform, image, seed):
    torch.manual_seed(seed)
    return transform(image)


def alone(step):
    """A step as a transform of one picture."""

    def transform(image):
        chosen = torch.tensor([list(step.draw(*image.shape[-2:]))], dtype=torch.float64)
        return step.apply(image[None], chosen)[0]

    return transform


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_every_set_gives_a_square_of_bytes(name):
    transform = training(name, 33)
    for seed, shape in enumerate([(1, 1), (1, 9), (7, 200), (200, 7), (33, 33), (41, 60)]):
        image = drawn(transform, noise(*shape), seed)
        assert image.shape == (3, 33, 33)
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
        MultiLabelDataModule(augment="cutmix")
    assert all(word in str(error.value) for word in ("cutmix", "data.augment", *AUGMENTATIONS))
    assert "\n" not in str(error.value)


def test_every_name_of_the_recipes_is_there():
    assert set(AUGMENTATIONS) == {"none", "flip", "csra", "mulcon_stage1", "mulcon", "sadcl_stage1", "sadcl"}


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_interpolation_reaches_the_resize(name):
    bilinear = drawn(training(name, 80, InterpolationMode.BILINEAR), pixels(40, 30), 0)
    bicubic = drawn(training(name, 80, InterpolationMode.BICUBIC), pixels(40, 30), 0)
    assert not torch.equal(bilinear, bicubic)


def share_mirrored(name, draws):
    """How often the result is nearer to the mirrored picture: left half black, right half white."""
    image = torch.zeros(3, 48, 48, dtype=torch.uint8)
    image[:, :, 24:] = 255
    transform, mirrored = training(name, 48), 0
    for seed in range(draws):
        result = drawn(transform, image, seed).float()
        mirrored += bool((result - image).abs().sum() > (result - image.flip(-1)).abs().sum())
    return mirrored / draws


@pytest.mark.parametrize("name", ["csra", "sadcl"])
def test_these_flip_half_of_the_time(name):
    assert 0.3 < share_mirrored(name, 60) < 0.7


def test_the_order_of_the_steps_is_the_recipes():
    kinds = {}
    for name in AUGMENTATIONS:
        made = training(name, 32)
        first = [] if made.crops_original else ["Resize"]
        kinds[name] = first + [type(step).__name__ for step in made.steps]
    assert kinds == {
        "none": ["Resize"],
        "flip": ["Resize", "Flip"],
        "csra": ["RandomResizedCrop", "Flip"],
        "mulcon_stage1": ["RandomResizedCrop", "Flip", "RandAugment"],
        "mulcon": ["Resize", "Flip", "RandAugment"],
        "sadcl_stage1": ["Resize", "Cutout", "RandAugment"],
        "sadcl": ["Resize", "MultiScaleCrop", "Flip"],
    }


def test_the_numbers_are_the_recipes_at_448():
    made = {name: training(name, 448) for name in AUGMENTATIONS}
    assert made["csra"].steps[0].library.scale[0] == 0.7
    assert made["mulcon_stage1"].steps[0].library.scale[0] == 0.875
    assert made["sadcl_stage1"].steps[0].length == 224
    assert made["sadcl"].side == 512
    assert made["csra"].side == 536  # its smallest crop, 448.4 pixels wide, fills the result


# --- Against torchvision, whose draws and kernels these are


def reference(name, size):
    """The recipe in torchvision's classes alone, with Pillow where ours uses it."""
    resize, flip = v2.Resize((size, size), antialias=True), v2.RandomHorizontalFlip()
    rand_augment = [v2.ToPILImage(), v2.RandAugment(), v2.PILToTensor()]
    return v2.Compose(
        {
            "none": [resize],
            "flip": [resize, flip],
            "csra": [v2.RandomResizedCrop(size, scale=(0.7, 1), antialias=True), flip],
            "mulcon_stage1": [v2.RandomResizedCrop(size, scale=(0.875, 1), antialias=True), flip, *rand_augment],
            "mulcon": [resize, flip, *rand_augment],
        }[name]
    )


@pytest.mark.parametrize("name", ["none", "flip", "csra", "mulcon_stage1", "mulcon"])
def test_the_same_seed_gives_torchvisions_picture(name):
    ours, theirs, image = training(name, 61), reference(name, 61), pixels(120, 90)
    for seed in range(25):
        assert torch.equal(drawn(ours, image, seed), drawn(theirs, image, seed)), seed


def test_every_operation_of_rand_augment_is_torchvisions_of_the_same_name():
    image = pixels(70, 50)
    library = v2.RandAugment()
    assert list(rand_augment.OPERATIONS) == list(library._AUGMENTATION_SPACE)
    for number, (name, (signed, _)) in enumerate(rand_augment.OPERATIONS.items()):
        magnitudes, library_signed = library._AUGMENTATION_SPACE[name]
        assert signed == library_signed
        values = magnitudes(31, 50, 70)
        for sign in (1.0, -1.0) if signed else (1.0,):
            strength = sign * float(values[9]) if values is not None else 0.0
            how = {"interpolation": InterpolationMode.NEAREST, "fill": library._fill}
            for source, result in (
                (image, rand_augment.by_kernel(image[None], [(number, sign)])[0]),
                (F.to_pil_image(image), rand_augment.by_pillow(image[None], [[(number, sign)]])[0]),
            ):
                wanted = library._apply_image_or_video_transform(source, name, strength, **how)
                wanted = wanted if isinstance(wanted, torch.Tensor) else F.pil_to_tensor(wanted)
                assert (wanted.int() - result.int()).abs().max() <= 1, (name, sign)


def test_kernels_on_a_batch_do_to_each_picture_what_pillow_does():
    batch = torch.stack([pixels(64, 48, seed) for seed in range(12)])
    torch.manual_seed(4)
    draws = [rand_augment.RandAugment().draw(48, 64) for _ in range(12)]
    chosen = [[(int(draw[at]), draw[at + 1]) for draw in draws] for at in (0, 2)]
    assert len({kind for kinds in chosen for kind in kinds}) > 12  # most kinds, some of them several times
    by_kernel = rand_augment.by_kernel(rand_augment.by_kernel(batch, chosen[0]), chosen[1])
    by_pillow = rand_augment.by_pillow(batch, chosen)
    difference = (by_kernel.int() - by_pillow.int()).abs().float().mean((1, 2, 3))
    changed = (batch.int() - by_pillow.int()).abs().float().mean((1, 2, 3))
    assert difference.max() < 1.5 and changed.max() > 20


def test_rand_augment_draws_evenly():
    torch.manual_seed(0)
    draws = [rand_augment.RandAugment().draw(48, 64) for _ in range(2100)]
    kinds = [(int(draw[at]), draw[at + 1]) for draw in draws for at in (0, 2)]
    numbers = torch.tensor([number for number, _ in kinds])
    counts = numbers.bincount(minlength=14).double()
    assert ((counts - 300).square() / 300).sum() < 34.5  # chi-squared with 13 degrees of freedom: 99.9 %
    signed = [sign for number, sign in kinds if list(rand_augment.OPERATIONS.values())[number][0]]
    assert abs(signed.count(-1.0) / len(signed) - 0.5) < 0.04
    assert {sign for number, sign in kinds if not list(rand_augment.OPERATIONS.values())[number][0]} == {1.0}


def batch_for(made, width, height, count):
    """What a loader leaves to the device: squares, and the numbers drawn for each."""
    squares = torch.stack([made.resized(pixels(width, height, seed)) for seed in range(count)])
    torch.manual_seed(1)
    return squares, torch.stack([made.draw(height, width) for _ in range(count)])


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_a_batch_at_once_is_each_picture_by_itself(name):
    """What makes ``augment_on: device`` the same augmentation: one list of numbers, applied here or there."""
    made = training(name, 33)
    squares, numbers = batch_for(made, 60, 41, 9)
    before = squares.clone()
    together = made.apply(squares, numbers)
    alone = [made.apply(one[None], chosen[None])[0] for one, chosen in zip(squares, numbers, strict=True)]
    assert torch.equal(together, torch.stack(alone))
    assert torch.equal(squares, before)
    halves = made.apply(made.apply(squares, numbers, last=1), numbers, first=1)
    assert torch.equal(together, halves)


@pytest.mark.gpu
@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_the_gpu_makes_the_same_pictures_without_being_waited_for(name):
    made = training(name, 224)
    squares, numbers = batch_for(made, 300, 200, 16)
    on_device = squares.cuda()
    torch.cuda.set_sync_debug_mode("error")
    try:
        result = made.apply(on_device, numbers)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    difference = (result.cpu().int() - made.apply(squares, numbers).int()).abs().float().mean((1, 2, 3))
    assert difference.median() < 0.5 and difference.max() < 3


# --- Cutout


def hole(image, result):
    rows, columns = (image != result).any(0).nonzero(as_tuple=True)
    return rows.min().item(), rows.max().item() + 1, columns.min().item(), columns.max().item() + 1


def test_cutout_is_one_square_of_one_colour_cut_off_at_the_border():
    cutout, base = alone(Cutout(8, 20)), torch.full((3, 20, 20), 50, dtype=torch.uint8)
    seen = set()
    for seed in range(80):
        result = drawn(cutout, base, seed)
        top, bottom, left, right = hole(base, result)
        inside = result[:, top:bottom, left:right]
        assert (inside == inside[:, :1, :1]).all()
        assert bottom - top == 8 or top == 0 or bottom == 20
        assert right - left == 8 or left == 0 or right == 20
        assert 4 <= bottom - top <= 8  # at least half of it stays: its centre is in the picture
        assert 4 <= right - left <= 8
        outside = result.clone()
        outside[:, top:bottom, left:right] = 50
        assert torch.equal(outside, base)
        seen.add((bottom - top) * (right - left))
    assert 64 in seen
    assert min(seen) < 64


def test_cutout_is_centred_everywhere_and_of_every_colour():
    cutout, tops, colours = alone(Cutout(1, 5)), set(), set()
    for seed in range(200):
        result = drawn(cutout, torch.zeros(3, 5, 5, dtype=torch.uint8), seed)
        if result.any():
            top, _, left, _ = hole(torch.zeros_like(result), result)
            tops.add((top, left))
            colours.add(tuple(result[:, top, left].tolist()))
    assert len(tops) == 25
    assert len(colours) > 150


@pytest.mark.parametrize("length", [0, 1, 100])
def test_cutout_of_any_length(length):
    result = drawn(alone(Cutout(length, 6)), torch.zeros(3, 6, 6, dtype=torch.uint8), 3)
    assert result.shape == (3, 6, 6)
    assert (result.any(0).sum() == {0: 0, 1: 1, 100: 36}[length]).item()


# --- MultiScaleCrop


def crop_of(side, seed):
    """Top, left, height and width of a draw, in pixels of a square."""
    torch.manual_seed(seed)
    box = [share * side for share in MultiScaleCrop(1, InterpolationMode.BILINEAR, side).draw(7, 9)]
    assert all(abs(length - round(length)) < 1e-9 for length in box)
    return [round(length) for length in box]


def test_multi_scale_crop_draws_every_allowed_pair_of_scales_at_every_offset():
    scales, side = (1, 0.875, 0.75, 0.66, 0.5), 80
    pairs, offsets = set(), set()
    for seed in range(300):
        top, left, tall, wide = crop_of(side, seed)
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


def test_multi_scale_crop_resizes_what_it_cropped():
    image = pixels(64, 64)
    top, left, tall, wide = crop_of(64, 2)
    expected = Augmentation(32)(image[:, top : top + tall, left : left + wide])
    assert torch.equal(drawn(alone(MultiScaleCrop(32, InterpolationMode.BILINEAR, 64)), image, 2), expected)


# --- Evaluation


@pytest.mark.parametrize("size", [31, 224])
@pytest.mark.parametrize("name", ["bilinear", "bicubic"])
def test_evaluation_resizes_as_pillow_does(name, size):
    wanted = picture(300, 211).resize((size, size), Image.Resampling[name.upper()])
    result = Augmentation(size, InterpolationMode(name))(pixels(300, 211))
    difference = np.abs(result.permute(1, 2, 0).numpy().astype(int) - np.asarray(wanted).astype(int))
    assert difference.mean() < 0.1
    assert difference.max() <= 2


@pytest.mark.skipif(not REAL_DATA.is_dir(), reason=WHY_NO_REAL_DATA)
def test_evaluation_resizes_a_photograph_as_pillow_does():
    for path in sorted(REAL_DATA.glob("coco2014/train2014/*.jpg"))[:4]:
        with Image.open(path) as image:
            wanted = np.asarray(image.convert("RGB").resize((224, 224), Image.Resampling.BILINEAR)).astype(int)
        result = Augmentation(224)(read_image(path)).permute(1, 2, 0).numpy().astype(int)
        assert np.abs(result - wanted).mean() < 0.1


def test_evaluation_draws_nothing():
    before = torch.random.get_rng_state()
    Augmentation(20)(pixels(30, 30))
    assert torch.equal(torch.random.get_rng_state(), before)
