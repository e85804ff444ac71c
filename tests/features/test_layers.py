"""Layer specifications, the regions of R-MAC against cases worked by hand, poolings against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from seerctl.errors import UsageError
from seerctl.features.layers import Layer, region_slots, rmac_regions
from seerctl.features.pooling import Tokens, pool


@pytest.mark.parametrize(
    ("text", "canonical", "stem"),
    [
        ("res5", "res5", "res5"),
        ("res5:avg", "res5", "res5"),
        ("res5:max", "res5:max", "res5-max"),
        ("res4:gem", "res4:gem3", "res4-gem3"),
        ("res4:gem4", "res4:gem4", "res4-gem4"),
        ("res4:gem2.5", "res4:gem2.5", "res4-gem2.5"),
        ("res4:rmac", "res4:rmac3", "res4-rmac3"),
        ("res4:regions2", "res4:regions2", "res4-regions2"),
        ("res5:2x1", "res5:2x1", "res5-2x1"),
        ("blocks.11:cls", "blocks.11:cls", "blocks.11-cls"),
        ("a/b", "a/b", "a-b"),
    ],
)
def test_specifications(text: str, canonical: str, stem: str) -> None:
    layer = Layer.parse(text)
    assert (str(layer), layer.stem) == (canonical, stem)
    assert Layer.parse(str(layer)) == layer


@pytest.mark.parametrize(
    "text", ["", ":max", "res5:", "res5:mean", "res5:gem0", "res5:gem999", "res5:rmac0", "res5:rmac2.5", "res5:rmac9",
             "res5:0x1", "res5:2x", "res5:100x1", "res5:max3"],
)  # fmt: skip
def test_no_such_pooling(text: str) -> None:
    with pytest.raises(UsageError):
        Layer.parse(text)


def test_regions_of_a_square_worked_by_hand() -> None:
    """Side 7: sides 2*7/2 = 7, 2*7/3 = 4.67 -> 4, 2*7/4 = 3.5 -> 3; offsets 0; 0, 3; 0, 2, 4."""
    assert rmac_regions(7, 7, 3) == [
        (0, 0, 7),
        *((top, left, 4) for top in (0, 3) for left in (0, 3)),
        *((top, left, 3) for top in (0, 2, 4) for left in (0, 2, 4)),
    ]


def test_regions_of_a_rectangle_worked_by_hand() -> None:
    """3 x 4: two regions of side 3 overlap by 2/3, three would by 5/6: 2/3 is closer to 0.4, so m = 2.

    Level 1: 1 x 2 of side 3; level 2: 2 x 3 of side 2; level 3: 3 x 4 of side 3/2 -> 1.
    """
    expected = [
        *((0, left, 3) for left in (0, 1)),
        *((top, left, 2) for top in (0, 1) for left in (0, 1, 2)),
        *((top, left, 1) for top in (0, 1, 2) for left in (0, 1, 2, 3)),
    ]
    assert rmac_regions(3, 4, 3) == expected
    assert sorted(rmac_regions(4, 3, 3)) == sorted((left, top, side) for top, left, side in expected)
    # 10 x 32: m = 5 overlap by 1 - 22/4/10 = 0.45, closer to 0.4 than 4 (0.27) and 6 (0.56)
    assert [left for _, left, _ in rmac_regions(10, 32, 1)] == [0, 5, 11, 16, 22]


def test_regions_lie_inside_cover_the_map_and_are_no_more_than_the_slots() -> None:
    for height in range(1, 41):
        for width in (*range(1, 41), 200):
            for levels in (1, 3):
                found = rmac_regions(height, width, levels)
                assert len(found) <= region_slots(levels, square=height == width)
                assert all(top + side <= height and left + side <= width for top, left, side in found)
                assert max(top + side for top, _, side in found) == height
                assert max(left + side for _, left, side in found) == width
        assert len(rmac_regions(height, height, 3)) == region_slots(3, square=True) == 14
    assert region_slots(3, square=False) == 50


def maps(height: int = 7, width: int = 7) -> torch.Tensor:
    return torch.randn(3, 5, height, width, generator=torch.Generator().manual_seed(0)).relu()


def unit(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_poolings_against_numpy() -> None:
    values = maps()
    array = values.double().numpy()
    mac = np.stack(
        [array[:, :, top : top + side, left : left + side].max((2, 3)) for top, left, side in rmac_regions(7, 7, 3)], 1
    )
    expected = {
        "m": array.mean((2, 3)),
        "m:max": array.max((2, 3)),
        "m:gem": (np.maximum(array, 1e-6) ** 3).mean((2, 3)) ** (1 / 3),
        "m:gem4": (np.maximum(array, 1e-6) ** 4).mean((2, 3)) ** (1 / 4),
        "m:regions3": unit(mac).reshape(3, -1),
        "m:rmac3": unit(unit(mac).sum(1)),
        # cells of PyTorch's adaptive pooling: rows 0-3 and 3-6
        "m:2x1": np.stack([array[:, :, :4].mean((2, 3)), array[:, :, 3:].mean((2, 3))], 2).reshape(3, -1),
        "m:1x2": np.stack([array[..., :4].mean((2, 3)), array[..., 3:].mean((2, 3))], 2).reshape(3, -1),
        "m:7x7": array.reshape(3, -1),
    }
    for text, wanted in expected.items():
        found = pool(values, Layer.parse(text))
        assert found.dtype == torch.float32
        np.testing.assert_allclose(found.numpy(), wanted, rtol=1e-5, atol=1e-6, err_msg=text)
        # a mirrored picture of which the map is turned back
        np.testing.assert_allclose(pool(values.flip(-1), Layer.parse(text), mirrored=True).numpy(), found.numpy())


def test_regions_of_other_shapes_are_filled_up_with_zeros() -> None:
    found = pool(maps(4, 6), Layer.parse("m:regions3"), square=False).reshape(3, 50, 5)
    count = len(rmac_regions(4, 6, 3))
    np.testing.assert_allclose(found[:, :count].norm(dim=2).numpy(), 1, rtol=1e-5)
    assert count < 50
    assert not found[:, count:].any()


def test_vectors_and_tokens() -> None:
    vector = torch.ones(2, 4, dtype=torch.bfloat16)
    assert torch.equal(pool(vector, Layer.parse("avgpool")), torch.ones(2, 4))
    with pytest.raises(UsageError, match="nothing to pool"):
        pool(vector, Layer.parse("avgpool:2x1"))
    tokens = Tokens(maps(), torch.full((3, 5), 2.0))
    assert torch.equal(pool(tokens, Layer.parse("b:cls")), tokens.first)
    assert torch.equal(pool(tokens, Layer.parse("b:max")), pool(maps(), Layer.parse("b:max")))
    with pytest.raises(UsageError, match="no class token"):
        pool(maps(), Layer.parse("res5:cls"))
