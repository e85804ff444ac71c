"""Every number that is published of SEER's and SwAV's runs, against the recipes that carry their names.

Sources: Goyal et al. 2021 (arXiv 2103.01988) and 2022 (arXiv 2202.08360); VISSL at 09270ed, configs/config/pretrain/
and swav; the names of the released files (sinkhorn10, proto16k, syncBN64, warmup8k, cnstant_bs32_node16); Caron et al.
2020 (arXiv 2006.09882) with facebookresearch/swav, scripts/swav_800ep_pretrain.sh and swav_200ep_bs256_pretrain.sh.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from seerctl.augment.config import IMAGENET_MEAN, IMAGENET_STD
from seerctl.model.sizes import RegNetSize, size_named
from seerctl.recipe import load_recipe
from seerctl.train.estimate import estimate
from seerctl.train.optim import lr_at, peak_lr
from seerctl.train.steps import total_steps

IG_1B, IMAGENET = 1_000_000_000, 1_281_167
BIG_2021, BIG_2022, SMALL = (224, 2, (0.14, 1.0)), (160, 2, (0.14, 1.0)), (96, 4, (0.05, 0.14))


@dataclass(frozen=True)
class Run:
    """One training as published; `warmup` in steps, learning rates as they are, not as fractions."""

    batch: int
    images: int
    epochs: int
    steps: int
    lr: tuple[float, float, float]  # at the first step, the peak, towards the end
    warmup: int
    shape: str
    crops: tuple[Any, ...]
    epsilon: float
    iterations: int
    weight_decay: float
    sync_batchnorm: int | str
    head: tuple[int, ...]
    head_batchnorm: bool
    prototypes: int
    freeze: int
    queue: tuple[int, int]


SEER = {"head": (8192, 8192, 256), "head_batchnorm": False, "prototypes": 16000, "iterations": 10, "weight_decay": 1e-5,
        "images": IG_1B, "epochs": 1, "freeze": 313, "queue": (0, 0)}  # fmt: skip
SEER_2021 = Run(
    batch=512 * 16, steps=122_070, lr=(0.15, 9.6, 0.0096), warmup=8000, shape="cosine", crops=(BIG_2021, SMALL),
    epsilon=0.05, sync_batchnorm=64, **SEER,
)  # fmt: skip
SEER_128GF = Run(
    batch=128 * 32, steps=244_140, lr=(0.3, 4.8, 4.8), warmup=8000, shape="constant", crops=(BIG_2021, SMALL),
    epsilon=0.05, sync_batchnorm=64, **SEER,
)  # fmt: skip
SEER_2022 = Run(
    batch=496 * 16, steps=126_008, lr=(0.15, 9.3, 0.0093), warmup=5500, shape="cosine", crops=(BIG_2022, SMALL),
    epsilon=0.03, sync_batchnorm="node", **SEER,  # groups of 8, on nodes of 8
)  # fmt: skip
SWAV = {"images": IMAGENET, "shape": "cosine", "crops": (BIG_2021, (96, 6, (0.05, 0.14))), "epsilon": 0.05,
        "iterations": 3, "weight_decay": 1e-6, "head": (2048, 128), "head_batchnorm": True,
        "prototypes": 3000}  # fmt: skip
RUNS = {
    **dict.fromkeys(("8gf", "16gf", "32gf", "64gf", "256gf", "256gf-5088"), SEER_2021),
    "128gf": SEER_128GF,
    "10b": SEER_2022,
    "resnet50": Run(
        batch=64 * 64, epochs=800, steps=250_227, lr=(0.3, 4.8, 0.0048), warmup=3128, sync_batchnorm=8, freeze=313,
        queue=(0, 0), **SWAV,
    ),
    "resnet50-256": Run(
        batch=256, epochs=200, steps=1_000_911, lr=(0.6, 0.6, 0.0006), warmup=0, sync_batchnorm="world", freeze=5005,
        queue=(3840, 15 * (IMAGENET // 256)), **SWAV,
    ),
}  # fmt: skip

# depths, widths, group width, parameters of the trunk; counted with ClassyVision's models, ResNet-50's by torchvision.
SIZES: dict[str, tuple[tuple[int, ...], tuple[int, ...], int, int]] = {
    "8gf": ((2, 4, 10, 1), (168, 448, 896, 2016), 56, 37_163_068),
    "16gf": ((2, 4, 11, 1), (224, 448, 1232, 3024), 112, 80_565_140),
    "32gf": ((2, 5, 12, 1), (232, 696, 1392, 3712), 232, 141_333_770),
    "64gf": ((2, 5, 12, 1), (328, 984, 1968, 4920), 328, 276_457_786),
    "128gf": ((2, 7, 17, 1), (528, 1056, 2904, 7392), 264, 637_419_894),
    "256gf": ((2, 7, 17, 1), (746, 1492, 4103, 10444), 373, 1_272_156_138),
    "256gf-5088": ((3, 7, 16, 1), (640, 1696, 2544, 5088), 848, 821_051_008),
    "10b": ((2, 7, 17, 1), (2020, 4040, 11110, 28280), 1010, 9_323_934_872),
    "resnet50": ((3, 4, 6, 3), (256, 512, 1024, 2048), 0, 23_508_032),
    "resnet50-256": ((3, 4, 6, 3), (256, 512, 1024, 2048), 0, 23_508_032),
}
HEADS = {"128gf": 133.9, "256gf": 158.9, "10b": 304.988416}  # million parameters


@pytest.mark.parametrize("name", RUNS)
def test_the_network_is_the_published_one(name: str) -> None:
    recipe = load_recipe(name)
    depths, widths, group, parameters = SIZES[name]
    size = size_named(recipe.model.size)
    assert (size.depths, size.widths, size.stem_width) == (depths, widths, 32 if group else 64)
    if isinstance(size, RegNetSize):
        assert size.group_widths == tuple(min(group, width) for width in widths)
        assert size.se_ratio == 0.25
    found = estimate(recipe, 1, 1)
    assert found.trunk == parameters
    assert name not in HEADS or found.head / 1e6 == pytest.approx(HEADS[name], abs=0.05)


@pytest.mark.parametrize(("name", "run"), RUNS.items())
def test_the_objective_is_the_published_one(name: str, run: Run) -> None:
    recipe = load_recipe(name)
    model, loss = recipe.model, recipe.loss
    assert (model.head, model.head_batchnorm, model.prototypes) == (run.head, run.head_batchnorm, run.prototypes)
    assert (loss.objective, loss.temperature, loss.epsilon, loss.iterations) == (
        "swav",
        0.1,
        run.epsilon,
        run.iterations,
    )
    assert (loss.freeze_prototypes, loss.hard, loss.power_law) == (run.freeze, 0, 0.0)
    assert (loss.queue, loss.queue_start) == run.queue
    assert recipe.parallel.sync_batchnorm == run.sync_batchnorm
    assert recipe.parallel.accumulate == 1  # micro-batches would be another objective


@pytest.mark.parametrize(("name", "run"), RUNS.items())
def test_the_views_are_the_published_ones(name: str, run: Run) -> None:
    augment = load_recipe(name).augment
    assert tuple((crop.size, crop.count, crop.scale) for crop in augment.crops) == run.crops
    assert (augment.mode, augment.interpolation, augment.ratio, augment.flip) == (
        "exact",
        "bilinear",
        (3 / 4, 4 / 3),
        0.5,
    )
    colours = (augment.jitter, augment.brightness, augment.contrast, augment.saturation, augment.hue, augment.grey)
    assert colours == (0.8, 0.8, 0.8, 0.8, 0.2, 0.2)
    assert (augment.blur, augment.blur_radius) == (0.5, (0.1, 2.0))
    assert (IMAGENET_MEAN, IMAGENET_STD) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


@pytest.mark.parametrize(("name", "run"), RUNS.items())
def test_the_optimiser_and_its_schedule_are_the_published_ones(name: str, run: Run) -> None:
    recipe = load_recipe(name)
    optim, schedule = recipe.optim, recipe.schedule
    assert (optim.name, optim.momentum, optim.nesterov, optim.weight_decay) == ("sgd", 0.9, False, run.weight_decay)
    assert (optim.larc, optim.larc_trust, optim.larc_eps, optim.larc_clip) == (True, 0.001, 1e-8, False)
    assert (optim.no_decay, optim.clip_norm, optim.head_lr_scale) == ((), 0.0, 1.0)  # BatchNorm and biases decay too
    assert (recipe.data.batch, schedule.epochs, schedule.shape) == (run.batch, run.epochs, run.shape)
    steps, peak = total_steps(recipe, run.images), peak_lr(optim, recipe.data.batch)
    assert steps == run.steps
    assert round(schedule.warmup * steps) == run.warmup
    first, top, last = (lr_at(step, steps, peak, schedule) for step in (0, max(0, run.warmup - 1), steps - 1))
    assert (first, top, last) == pytest.approx(run.lr, rel=1e-3)
    middle = lr_at(steps // 2, steps, peak, schedule)  # VISSL's cosine counts from the first step ("fixed")
    assert middle == pytest.approx(peak if run.shape == "constant" else (peak + run.lr[2]) / 2, rel=1e-3)


def test_where_recipes_differ_on_purpose_the_published_way_can_be_had() -> None:
    """SEER padded its small crops and computed in float16 with a scaler."""
    ours = load_recipe("10b")
    assert (ours.loss.small_crops, ours.parallel.precision, ours.parallel.reduce_dtype) == ("own", "bf16", "bf16")
    theirs = load_recipe("10b", ("loss.small_crops=pad", "parallel.precision=fp16", "parallel.reduce_dtype=fp16"))
    assert (theirs.loss.small_crops, theirs.parallel.precision) == ("pad", "fp16")
