"""Sizes against the published counts and against torchvision's own models."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torchvision.models import regnet

from seerctl.errors import UsageError
from seerctl.model.heads import SwAVHead, SwAVModel
from seerctl.model.init import init_weights
from seerctl.model.sizes import SIZES, TORCHVISION_SIZES, RegNetSize, name_of, size_named
from seerctl.model.trunk import Trunk, build_trunk

# Goyal et al. 2021 and 2022, counted with ClassyVision's models (see README, sizes).
TRUNK_PARAMETERS = {
    "8gf": 37_163_068,
    "16gf": 80_565_140,
    "32gf": 141_333_770,
    "64gf": 276_457_786,
    "128gf": 637_419_894,
    "256gf": 1_272_156_138,
    "10b": 9_323_934_872,
}


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _meta(name: str) -> Trunk:
    with torch.device("meta"):
        return build_trunk(SIZES[name])


@pytest.mark.parametrize(("name", "count"), TRUNK_PARAMETERS.items())
def test_published_trunk_parameters(name: str, count: int) -> None:
    assert _count(_meta(name)) == count


def test_the_two_256gf_models_differ() -> None:
    assert SIZES["256gf"].widths[-1] == 10444
    assert SIZES["256gf-5088"].widths[-1] == 5088
    assert round(_count(_meta("256gf-5088")) / 1e6, 1) == 821.1


def test_10b_with_its_head() -> None:
    with torch.device("meta"):
        model = SwAVModel(build_trunk(SIZES["10b"]), SwAVHead(28280, [8192, 8192, 256], 16000))
    assert _count(model.head) == 304_988_416
    assert _count(model) == 9_628_923_288


@pytest.mark.parametrize("name", TORCHVISION_SIZES)
def test_every_size_is_what_torchvision_builds(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen(Exception):
        pass

    def record(params: regnet.BlockParams, **_: object) -> None:
        raise Seen(params)

    monkeypatch.setattr(regnet, "RegNet", record)
    with pytest.raises(Seen) as seen:
        getattr(regnet, name)(weights=None)
    params = seen.value.args[0]
    size = TORCHVISION_SIZES[name]
    assert (list(size.depths), list(size.widths), list(size.group_widths), size.se_ratio) == (
        params.depths,
        params.widths,
        params.group_widths,
        params.se_ratio,
    )


def test_counts_and_outputs_equal_torchvisions() -> None:
    theirs = torchvision.models.regnet_y_400mf(weights=None)
    ours = build_trunk(SIZES["400mf"])
    assert _count(ours) == _count(theirs) - _count(theirs.fc) == 4_344_144 - 441 * 1000
    ours.load_state_dict({key: value for key, value in theirs.state_dict().items() if not key.startswith("fc.")})
    theirs.fc = nn.Identity()
    images = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


def test_features_by_layer_stop_at_the_deepest() -> None:
    trunk = build_trunk(SIZES["micro"]).eval()
    images = torch.randn(2, 3, 32, 32)
    found = trunk.features(images, ["avgpool", "res3", "res5"])
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "res3": (2, 24, 4, 4),
        "res5": (2, 64, 1, 1),
        "avgpool": (2, 64),
    }
    assert torch.equal(found["avgpool"], trunk(images))
    trunk.trunk_output.block3.register_forward_pre_hook(lambda *_: pytest.fail("the third stage was computed"))
    assert list(trunk.features(images, ["res3"])) == ["res3"]


def test_features_of_an_unknown_layer() -> None:
    with pytest.raises(UsageError, match=r"no layer 'res6'. Did you mean 'res5'\?|Known"):
        build_trunk(SIZES["micro"]).features(torch.zeros(1, 3, 32, 32), ["res6"])


def test_initial_weights_are_seers() -> None:
    trunk = build_trunk(SIZES["nano"])
    init_weights(trunk, seed=1)
    grouped = trunk.trunk_output.block3.get_submodule("block3-1.f.b.0").weight  # 3x3, 10 groups of 16, 160 out
    assert grouped.std().item() == pytest.approx((2 / (9 * 160)) ** 0.5, rel=0.02)  # groups not counted
    bias = trunk.trunk_output.block4.get_submodule("block4-1.f.se.fc2").bias
    assert 0.8 / 96**0.5 < bias.abs().max().item() <= 1 / 96**0.5
    norm = trunk.stem[1]
    assert torch.equal(norm.weight, torch.ones(32))
    assert torch.equal(norm.running_var, torch.ones(32))


def test_initial_weights_depend_on_seed_and_name_alone() -> None:
    first, second, third = (build_trunk(SIZES["micro"]) for _ in range(3))
    init_weights(first, seed=1)
    torch.manual_seed(99)
    init_weights(second, seed=1)
    init_weights(third, seed=2)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), second.parameters(), strict=True))
    assert not torch.equal(first.stem[0].weight, third.stem[0].weight)


def test_head_gives_unit_projections_and_cosines() -> None:
    head = SwAVHead(64, [32, 16], 10, nn.BatchNorm1d)
    assert [type(layer).__name__ for layer in head.projection] == ["Linear", "BatchNorm1d", "ReLU", "Linear"]
    projections, scores = head(torch.randn(8, 64))
    assert torch.allclose(projections.norm(dim=1), torch.ones(8))
    assert torch.allclose(scores, projections @ head.prototypes.weight.T)
    assert [type(layer).__name__ for layer in SwAVHead(64, [32, 16], 10).projection] == ["Linear", "ReLU", "Linear"]


def test_autocast_keeps_projections_and_prototypes_in_float32() -> None:
    model = SwAVModel(build_trunk(SIZES["micro"]), SwAVHead(64, [16], 10))
    model.autocast = torch.bfloat16
    seen: list[torch.dtype] = []
    model.head.projection.register_forward_hook(lambda _, __, output: seen.append(output.dtype))
    projections, scores = model(torch.randn(4, 3, 32, 32))
    assert seen == [torch.bfloat16]
    assert projections.dtype == scores.dtype == torch.float32
    assert torch.allclose(scores, projections @ model.head.prototypes.weight.T)


def test_sizes_refuse_what_cannot_be_built() -> None:
    with pytest.raises(ValueError, match="groups of 7"):
        RegNetSize((1,), (16,), (7,))
    with pytest.raises(UsageError, match="Did you mean '16gf'"):
        size_named("16fg")
    assert name_of(SIZES["10b"]) == "10b"
    assert name_of(RegNetSize((1,), (16,), (8,))) == "w16"
