"""Views: pure functions of (seed, epoch, sample), with the distributions of torchvision's transforms."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from scipy import stats
from torchvision.transforms import ColorJitter, RandomResizedCrop
from torchvision.transforms.functional import adjust_hue

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig, CropSpec
from seerctl.augment.device import blur_matrices, finish
from seerctl.augment.draws import draw_views, uniforms
from seerctl.augment.multicrop import MultiCrop, _blur_matrix, _turned
from tests.pictures import draw

SMALL = (CropSpec(size=24, count=2, scale=(0.2, 1.0)), CropSpec(size=12, count=3, scale=(0.05, 0.3)))


def images(picture, count: int = 6) -> list[np.ndarray]:
    return [np.array(picture(number, 40 + 7 * number, 64 - 3 * number)) for number in range(count)]


def calm(**changes: object) -> AugmentConfig:
    """No random colour, flip or blur, but for `changes`."""
    nothing = {"flip": 0.0, "jitter": 0.0, "grey": 0.0, "blur": 0.0, "crops": SMALL}
    return AugmentConfig(**(nothing | changes))


@pytest.mark.parametrize("mode", ["exact", "fused", "device"])
def test_shapes(picture, mode: str) -> None:
    groups = MultiCrop(AugmentConfig(mode=mode, crops=SMALL), seed=1)(images(picture), np.arange(6), np.zeros(6, int))
    assert [tuple(group.shape) for group in groups] == [(12, 3, 24, 24), (18, 3, 12, 12)]
    for group in groups:
        assert group.dtype == torch.float32
        assert group.is_contiguous()
        assert torch.isfinite(group).all()


@pytest.mark.parametrize("mode", ["exact", "fused", "device"])
def test_a_sample_has_the_same_views_in_any_batch(picture, mode: str) -> None:
    sources = images(picture)
    crop = MultiCrop(AugmentConfig(mode=mode, crops=SMALL), seed=3)
    whole = crop(sources, np.arange(6) + 100, np.full(6, 2))
    for row in range(6):
        alone = crop([sources[row]], np.array([100 + row]), np.array([2]))
        for together, single, spec in zip(whole, alone, SMALL, strict=True):
            assert torch.equal(together.reshape(spec.count, 6, 3, spec.size, spec.size)[:, row], single)


def test_seed_epoch_sample_and_crop_each_change_the_draws() -> None:
    def draw(seed: int = 0, epoch: int = 0, index: int = 0, crop: int = 0) -> tuple[float, ...]:
        return tuple(uniforms(seed, np.array([epoch]), np.array([index]), crop, 8)[0])

    variants = [draw(), draw(seed=1), draw(epoch=1), draw(index=1), draw(crop=1)]
    assert len(set(variants)) == 5
    assert draw() == variants[0]


def test_draws_are_uniform_and_independent() -> None:
    u = uniforms(7, np.repeat(np.arange(20), 1000), np.tile(np.arange(1000), 20), 3, 6)
    assert u.min() >= 0
    assert u.max() < 1
    for column in u.T:
        assert stats.kstest(column, "uniform").pvalue > 1e-4
    correlation = np.corrcoef(u.T) - np.eye(6)
    assert np.abs(correlation).max() < 0.03
    neighbours = np.corrcoef(u[:-1, 0], u[1:, 0])[0, 1]
    assert abs(neighbours) < 0.03


def test_boxes_are_distributed_as_torchvisions() -> None:
    spec, count = CropSpec(size=8, count=1, scale=(0.14, 1.0)), 4000
    sizes = np.tile([[60, 40]], (count, 1))
    box = draw_views(AugmentConfig(), spec, 0, 5, sizes, np.arange(count), np.zeros(count, int)).box
    torch.manual_seed(0)
    source = torch.empty(3, 40, 60)
    reference = np.array([RandomResizedCrop.get_params(source, [0.14, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    for ours, theirs in (
        (box[:, 0], reference[:, 1]),
        (box[:, 1], reference[:, 0]),
        (box[:, 2], reference[:, 3]),
        (box[:, 3], reference[:, 2]),
    ):
        assert stats.ks_2samp(ours, theirs).pvalue > 1e-4
    assert (box[:, 0] + box[:, 2] <= 60).all()
    assert (box[:, 1] + box[:, 3] <= 40).all()


@pytest.mark.parametrize("size", [(1, 1), (1, 50), (50, 1), (3, 200)])
def test_thin_and_tiny_sources_have_views(size: tuple[int, int]) -> None:
    source = np.full((size[1], size[0], 3), 200, np.uint8)
    for group in MultiCrop(AugmentConfig(crops=SMALL), seed=0)([source] * 5, np.arange(5), np.zeros(5, int)):
        assert torch.isfinite(group).all()


def test_exact_without_colour_is_pillows_crop_and_resize(picture) -> None:
    source = np.array(picture(1, 70, 50))
    view = MultiCrop(calm(), seed=2)([source], np.array([4]), np.array([0]))[0][0]
    left, top, width, height = draw_views(
        calm(), SMALL[0], 0, 2, np.array([[70, 50]]), np.array([4]), np.array([0])
    ).box[0]
    cropped = Image.fromarray(source).crop((left, top, left + width, top + height))
    expected = np.asarray(cropped.resize((24, 24), Image.Resampling.BILINEAR), np.float32) / 255
    expected = (expected - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    np.testing.assert_allclose(view.permute(1, 2, 0).numpy(), expected, atol=1e-6)


def test_flip_mirrors(picture) -> None:
    sources = images(picture, 1)
    for mode in ("exact", "fused", "device"):
        straight = MultiCrop(calm(mode=mode), seed=2)(sources, np.array([4]), np.array([0]))[0]
        mirrored = MultiCrop(calm(mode=mode, flip=1.0), seed=2)(sources, np.array([4]), np.array([0]))[0]
        torch.testing.assert_close(straight.flip(3), mirrored, atol=1e-5, rtol=0)


def test_jitter_moves_colours_as_torchvisions(picture) -> None:
    source = np.array(picture(9, 32, 32))
    spec = (CropSpec(size=32, count=1, scale=(1.0, 1.0)),)
    config = calm(jitter=1.0, crops=spec, ratio=(1.0, 1.0))
    count = 600
    ours = MultiCrop(config, seed=0)([source] * count, np.arange(count), np.zeros(count, int))[0].mean((2, 3))
    torch.manual_seed(0)
    jitter = ColorJitter(0.8, 0.8, 0.8, 0.2)
    theirs = np.stack(
        [np.asarray(jitter(Image.fromarray(source)), np.float32).mean((0, 1)) / 255 for _ in range(count)]
    )
    theirs = (theirs - np.float32(IMAGENET_MEAN)) / np.float32(IMAGENET_STD)
    for channel in range(3):
        assert stats.ks_2samp(ours[:, channel].numpy(), theirs[:, channel]).pvalue > 1e-4


def test_fused_is_close_to_exact_where_they_mean_the_same(picture) -> None:
    sources = images(picture)
    for changes, bound in (
        ({}, 0.01),
        ({"grey": 1.0}, 0.02),
        ({"blur": 1.0}, 0.06),
        ({"jitter": 1.0, "hue": 0.0}, 0.06),
    ):
        pair = [
            MultiCrop(calm(mode=mode, **changes), 5)(sources, np.arange(6), np.zeros(6, int))[0]
            for mode in ("exact", "fused")
        ]
        assert (pair[0] - pair[1]).abs().median() < bound, changes


def test_fused_blur_is_a_gaussian(picture) -> None:
    image = picture(11, 48, 48)
    kernel = _blur_matrix(48, 1.3).numpy()
    ours = np.einsum("ij,jkc,lk->ilc", kernel, np.asarray(image, np.float32), kernel)
    theirs = np.asarray(image.filter(ImageFilter.GaussianBlur(1.3)), np.float32)
    assert np.abs(ours - theirs)[4:-4, 4:-4].mean() < 1.0  # of 255; Pillow's is three box blurs


def test_device_is_exact_to_a_level_of_255(picture) -> None:
    sources = images(picture)
    spread = torch.tensor(IMAGENET_STD).view(3, 1, 1) * 255
    settings = ("jitter", "grey", "blur")
    for changes in (*({name: 1.0} for name in settings), {"flip": 1.0}, {"jitter": 0.8, "grey": 0.2, "blur": 0.5}):
        exact, device = (
            MultiCrop(calm(mode=mode, **changes), 5)(sources, np.arange(6), np.zeros(6, int))
            for mode in ("exact", "device")
        )
        for expected, found in zip(exact, device, strict=True):
            levels = ((expected - found) * spread).abs()
            assert levels.mean() < 0.5, changes  # Pillow's blur rounds six times, the matrices do not
            assert (levels < 1.01).float().mean() > (0.85 if "blur" in changes else 0.99), changes
            assert (levels < 3.01).float().mean() > 0.99, changes


def test_the_halves_of_device_are_bytes_and_draws(picture) -> None:
    crop = MultiCrop(AugmentConfig(mode="device", crops=SMALL), seed=3)
    groups, colors = crop.halves(images(picture), np.arange(6), np.zeros(6, int))
    assert [(kind.dtype, tuple(kind.shape)) for kind in groups] == [
        (torch.uint8, (12, 3, 24, 24)),
        (torch.uint8, (18, 3, 12, 12)),
    ]
    assert all(kind.is_contiguous(memory_format=torch.channels_last) for kind in groups)
    assert [tuple(drawn.shape) for drawn in colors] == [(12, 10), (18, 10)]
    whole = finish(groups[0], colors[0])
    assert torch.equal(torch.cat([finish(groups[0][:5], colors[0][:5]), finish(groups[0][5:], colors[0][5:])]), whole)
    assert MultiCrop(AugmentConfig(crops=SMALL), 3).halves(images(picture), np.arange(6), np.zeros(6, int))[1] == []


@pytest.mark.parametrize("size", [5, 40])
def test_blur_matrices_are_pillows_blur(picture, size: int) -> None:
    image = picture(11, size, size)
    radii = torch.tensor([0.1, 0.7, 1.3, 2.0, 6.0])
    for radius, kernel in zip(radii, blur_matrices(size, radii, torch.device("cpu")), strict=True):
        ours = np.einsum("ij,jkc,lk->ilc", kernel, np.asarray(image, np.float32), kernel)
        theirs = np.asarray(image.filter(ImageFilter.GaussianBlur(float(radius))), np.float32)
        assert np.abs(ours - theirs).max() < 3, radius  # six roundings


@pytest.mark.parametrize(
    "section",
    [
        {"crops": ()},
        {"flip": 1.5},
        {"hue": 0.6},
        {"contrast": -1.0},
        {"ratio": (2.0, 1.0)},
        {"blur_radius": (2.0, 1.0)},
    ],
)
def test_impossible_settings_are_refused(section: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        AugmentConfig(**section)


@pytest.mark.parametrize(
    "bad", [{"size": 0}, {"count": 0}, {"scale": (0.0, 1.0)}, {"scale": (0.5, 0.2)}, {"scale": (0.5, 1.2)}]
)
def test_impossible_crops_are_refused(bad: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        CropSpec(**({"size": 8, "count": 1, "scale": (0.1, 1.0)} | bad))


@pytest.mark.parametrize("hue", [-0.5, -0.2, -0.003, 0.003, 0.1, 0.5])
def test_hue_turns_as_torchvision_turns_it(hue: float) -> None:
    view = draw(3, 40, 30)
    expected = adjust_hue(view, hue)
    assert np.array_equal(np.asarray(_turned(view, hue)), np.asarray(expected))
