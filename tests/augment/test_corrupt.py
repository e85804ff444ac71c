"""The corruptions: arithmetic against independent code, severity as distortion, and the same pixels everywhere."""

from __future__ import annotations

import colorsys
import io
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from seerctl.augment.corruptions import FAMILIES, NAMES, Corruption, parse_corruptions
from seerctl.augment.corruptions import blur as blurs
from seerctl.augment.corruptions.filters import gaussian, plasma, sample, streaks, zoomed
from seerctl.augment.corruptions.levels import LEVELS, SIDES, level
from seerctl.augment.decode import to_rgb
from seerctl.errors import UsageError
from seerctl.features.pixels import View
from tests.pictures import draw

Pixels = NDArray[np.uint8]
DRAWN_WITHOUT_CHANCE = ("gaussian_blur", "defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate",
                        "jpeg_compression", "saturate")  # fmt: skip


def picture(seed: int = 0, width: int = 64, height: int = 64) -> Pixels:
    """A drawn picture with some grain, so that blurs and JPEG have something to lose."""
    grain = np.random.default_rng(seed).integers(-20, 20, (height, width, 1))
    return np.clip(np.asarray(draw(seed, width, height)).astype(int) + grain, 0, 255).astype(np.uint8)


def corrupt(name: str, severity: int, pixels: Pixels, key: str = "k") -> NDArray[np.float64]:
    return Corruption(name, severity)(pixels, key).astype(float)


def psnr(one: Pixels, other: Pixels) -> float:
    return float(10 * np.log10(255**2 / max(1e-3, ((one.astype(float) - other) ** 2).mean())))


# ---------------------------------------------------------------------------------------------------------------- names


def test_nineteen_in_four_families() -> None:
    assert len(NAMES) == len(set(NAMES)) == 19
    assert sorted(LEVELS) == sorted(NAMES)
    assert all(set(columns) == set(SIDES) for columns in LEVELS.values())
    assert [len(names) for names in FAMILIES.values()] == [4, 5, 5, 5]


def test_names_families_and_all() -> None:
    assert [str(one) for one in parse_corruptions(["fog:3"])] == ["fog:3"]
    assert len(parse_corruptions(["all:1", "all:2", "fog:2"])) == 38
    noise = parse_corruptions(["shot_noise:4", "noise:4"], seed=7)
    assert [one.stem for one in noise] == ["shot_noise-4", "gaussian_noise-4", "impulse_noise-4", "speckle_noise-4"]
    assert noise[0].recipe == "shot_noise:4 (corruptions-1, seed 7)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forg:3", "no corruption 'forg'. Did you mean 'fog'"), ("nosie:3", "Did you mean 'noise'"),
        ("fog", "no severity from 1 to 5. Write fog:3"), ("fog:0", "from 1 to 5"), ("fog:6", "from 1 to 5"),
        ("fog:3.0", "from 1 to 5"), ("", "no corruption ''"), ("all:x", "from 1 to 5"),
    ],
)  # fmt: skip
def test_refused_names(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_corruptions([text])
    assert message in str(caught.value)


# ----------------------------------------------------------------------------------------------------------- the pixels


@pytest.mark.parametrize("name", NAMES)
def test_shapes_and_extremes(name: str) -> None:
    for height, width in ((16, 16), (17, 40), (96, 50)):
        for pixels in (picture(1, width, height), np.zeros((height, width, 3), np.uint8), np.full((height, width, 3),
                       255, np.uint8)):  # fmt: skip
            before = pixels.copy()
            for severity in (1, 5):
                found = Corruption(name, severity)(pixels, "k")
                assert (found.dtype, found.shape, found.flags.writeable) == (np.uint8, pixels.shape, True)
            np.testing.assert_array_equal(pixels, before)


@pytest.mark.parametrize("name", NAMES)
def test_fixed_by_seed_key_name_and_severity(name: str) -> None:
    pixels = picture(2)
    once = Corruption(name, 3)(pixels, "a")
    np.random.seed(5)  # no global state is used
    with ThreadPoolExecutor(4) as pool:
        for other in pool.map(lambda _: Corruption(name, 3)(pixels, "a"), range(8)):
            np.testing.assert_array_equal(other, once)
    chance = not np.array_equal(Corruption(name, 3)(pixels, "b"), once)
    reseeded = not np.array_equal(Corruption(name, 3, seed=1)(pixels, "a"), once)
    assert chance == reseeded == (name not in DRAWN_WITHOUT_CHANCE)


@pytest.mark.parametrize("name", NAMES)
def test_it_changes_the_picture_but_keeps_what_is_on_it(name: str) -> None:
    pixels = picture(3)
    assert not np.array_equal(Corruption(name, 1)(pixels, "k"), pixels)
    one = corrupt(name, 1, pixels).mean(-1).ravel()
    assert np.corrcoef(one, pixels.mean(-1).ravel())[0, 1] > 0.5


def distortions(pictures: list[Pixels], name: str) -> list[float]:
    return [
        float(np.mean([psnr(pixels, Corruption(name, severity)(pixels, str(n))) for n, pixels in enumerate(pictures)]))
        for severity in range(1, 6)
    ]


@pytest.mark.parametrize("name", ["gaussian_noise", "gaussian_blur", "fog", "spatter", "contrast", "jpeg_compression"])
def test_severity_is_distortion_on_drawn_pictures(name: str) -> None:
    found = distortions([picture(seed) for seed in range(12)], name)
    assert found == sorted(found, reverse=True)
    assert found[0] > found[4] + 1


@pytest.mark.data
@pytest.mark.parametrize("side", [32, 64, pytest.param(224, marks=pytest.mark.slow)])
def test_severity_is_distortion_on_photographs(side: int, shared_data: Path) -> None:
    files = sorted((shared_data / "clothing" / "validation").rglob("*.jpg"))[::7]
    pictures = [View.of(side)(file.read_bytes()) for file in files]
    for name in NAMES:
        found = distortions(pictures, name)
        assert found == sorted(found, reverse=True), (name, found)


# ------------------------------------------------------------------------------------------- against independent code


def test_noise_has_the_published_strength() -> None:
    grey = np.full((224, 224, 3), 128, np.uint8)
    for severity, sigma in ((1, 0.08), (2, 0.12)):
        assert corrupt("gaussian_noise", severity, grey).std() / 255 == pytest.approx(sigma, rel=0.02)
        assert corrupt("gaussian_noise", severity, grey).mean() == pytest.approx(128, abs=0.5)
    shot = corrupt("shot_noise", 1, grey) / 255  # Poisson of 60 photons at white: variance = mean / 60
    assert shot.mean() == pytest.approx(128 / 255, rel=0.01)
    assert shot.var() == pytest.approx(128 / 255 / 60, rel=0.03)
    speckle = corrupt("speckle_noise", 1, grey)
    assert speckle.std() / 128 == pytest.approx(0.15, rel=0.02)
    impulse = corrupt("impulse_noise", 3, grey)
    assert (impulse == 0).mean() == pytest.approx(0.045, abs=0.003)
    assert (impulse == 255).mean() == pytest.approx(0.045, abs=0.003)


def test_blurs_against_scipy() -> None:
    image = picture(4, 70, 60).astype(np.float32)
    for sigma in (0.4, 1.0, 3.3):
        wanted = ndimage.gaussian_filter(image.astype(float), (sigma, sigma, 0), mode="nearest")
        np.testing.assert_allclose(gaussian(image, sigma), wanted, atol=2e-3)
    for severity in (1, 3, 5):
        (radius, softness), scale = level("defocus_blur", severity, 224)
        kernel, side = blurs.disk(radius * scale, softness)
        disk = np.frombuffer(kernel, np.float32).reshape(side, side)
        assert disk.sum() == pytest.approx(1, abs=1e-5)
        np.testing.assert_allclose(disk, disk.T, atol=1e-7)
        pixels = picture(5, 224, 224)
        wanted = ndimage.convolve(pixels.astype(float), disk[:, :, None].astype(float), mode="mirror")
        assert np.abs(corrupt("defocus_blur", severity, pixels) - wanted).max() < 0.51


def test_streaks_are_a_weighted_sum_along_a_line() -> None:
    image = np.random.default_rng(0).random((40, 50)).astype(np.float32)
    weights = np.exp(-0.5 * (np.arange(7) / 2.0) ** 2)
    wanted = sum(w * np.roll(image, -step, axis=1) for step, w in enumerate(weights / weights.sum()))
    np.testing.assert_allclose(streaks(image, 3, 2.0, 0.0)[:, :40], wanted[:, :40], atol=1e-5)
    down = streaks(image.T, 3, 2.0, 90.0)
    np.testing.assert_allclose(down[:40], wanted.T[:40], atol=1e-5)


def test_sampling_against_scipy() -> None:
    generator = np.random.default_rng(1)
    image = generator.random((30, 41, 3)).astype(np.float32)
    rows, columns = generator.uniform(-8, 37, (2, 200)).astype(np.float32)
    columns = columns + np.float32(4)
    for channel in range(3):
        wanted = ndimage.map_coordinates(image[..., channel].astype(float), [rows, columns], order=1, mode="mirror")
        np.testing.assert_allclose(sample(image, rows, columns)[..., channel], wanted, atol=1e-4)
    np.testing.assert_array_equal(zoomed(image, 1.0), image)
    big = zoomed(image, 2.0)
    np.testing.assert_allclose(big[15, 20], image[14:16, 19:22].mean((0, 1)), atol=0.2)
    assert np.abs(np.diff(big, axis=0)).max() <= np.abs(np.diff(image, axis=0)).max() * 0.51


def test_colours_against_the_standard_library() -> None:
    pixels = picture(6, 16, 16)
    for severity in range(1, 6):
        bright, colour = corrupt("brightness", severity, pixels), corrupt("saturate", severity, pixels)
        (added,), _ = level("brightness", severity, 16)
        (factor, offset), _ = level("saturate", severity, 16)
        for row, column in np.ndindex(16, 16):
            hue, saturation, value = colorsys.rgb_to_hsv(*(pixels[row, column] / 255))
            wanted = np.array(colorsys.hsv_to_rgb(hue, saturation, min(1, value + added))) * 255
            assert np.abs(bright[row, column] - wanted).max() < 0.51
            wanted = np.array(colorsys.hsv_to_rgb(hue, min(1, max(0, saturation * factor + offset)), value)) * 255
            assert np.abs(colour[row, column] - wanted).max() < 0.51


def test_contrast_pixels_and_jpeg() -> None:
    pixels = picture(7, 224, 224)
    mean = pixels.mean((0, 1))
    assert np.abs(corrupt("contrast", 2, pixels) - ((pixels - mean) * 0.3 + mean)).max() < 0.51
    small = Image.fromarray(pixels).resize((67, 67), Image.Resampling.BOX)
    np.testing.assert_array_equal(corrupt("pixelate", 4, pixels), small.resize((224, 224), Image.Resampling.BOX))
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=15)
    assert np.abs(corrupt("jpeg_compression", 3, pixels) - to_rgb(file.getvalue())).mean() < 0.5


def test_lengths_follow_the_size_of_the_picture() -> None:
    assert level("gaussian_blur", 5, 224) == ((6,), 1.0)
    assert level("gaussian_blur", 5, 448) == ((6,), 2.0)
    assert level("gaussian_blur", 5, 32) == ((1.0,), 1.0)
    assert level("gaussian_blur", 5, 64) == ((1.5,), 1.0)
    assert level("gaussian_blur", 5, 48) == ((1.5,), 0.75)
    assert level("gaussian_blur", 5, 128) == ((6,), 128 / 224)
    small, large = picture(8, 224, 224), np.kron(picture(8, 224, 224), np.ones((2, 2, 1), np.uint8))
    shrunk = corrupt("gaussian_blur", 3, large).reshape(224, 2, 224, 2, 3).mean((1, 3))
    assert np.abs(shrunk - corrupt("gaussian_blur", 3, small))[8:-8, 8:-8].mean() < 1


def test_plasma_fills_its_range_and_is_rougher_with_less_decay() -> None:
    smooth, rough = (plasma(64, decay, np.random.default_rng(0)) for decay in (2.0, 1.2))
    for field in (smooth, rough):
        assert (field.min(), field.max()) == (0.0, pytest.approx(1.0))
    assert np.abs(np.diff(rough)).mean() > 2 * np.abs(np.diff(smooth)).mean()


def test_weather_looks_like_itself() -> None:
    dark = np.full((224, 224, 3), 60, np.uint8)
    snow, frost, fog = (corrupt(name, 3, dark) for name in ("snow", "frost", "fog"))
    assert np.percentile(snow, 99) > 200  # bright flakes
    assert np.median(snow) < 120  # on a dim ground
    middle, rim = frost[80:144, 80:144], np.concatenate([frost[:20], frost[-20:]])
    assert rim.mean() > middle.mean() + 10  # ice grows from the borders
    assert (frost[..., 2] >= frost[..., 0]).all()  # and is bluish
    assert np.ptp(fog.mean(-1)) > 20  # clouds: uneven
    assert np.abs(np.diff(fog, axis=0)).max() < 10  # and smooth
    mud, water = corrupt("spatter", 5, np.full((224, 224, 3), 200, np.uint8)), corrupt("spatter", 3, dark)
    assert 0.15 < (mud[..., 0] < 130).mean() < 0.3
    assert (water[..., 1] - water[..., 0]).max() > 20  # turquoise
