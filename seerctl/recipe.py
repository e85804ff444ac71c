"""Training recipes: TOML that inherits (`extends`), overridden by `--set a.b=value`, into frozen dataclasses.

A recipe states the global batch; how many ranks share it is the launcher's business and changes no result.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import tomllib
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from seerctl.augment.config import AugmentConfig
from seerctl.errors import UsageError, did_you_mean
from seerctl.model.sizes import SIZES
from seerctl.objective_keys import check_keys, leave_behind, of_others
from seerctl.shards.remote.options import byte_size
from seerctl.typed import build, plain, read_toml

SEARCH_VARIABLE = "SEERCTL_RECIPES"
MAX_EXTENDS = 2
FROM_INIT = "init"  # model.size: what the weights of --init are of


def _require(fact: bool, message: str) -> None:
    if not fact:
        raise ValueError(message)


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """The trunk's `size` ("init": that of the weights of --init), and the head.

    SwAV's: `head` holds the widths of the linear layers after the trunk, `prototypes` is K. A supervised head is one
    linear layer from the pooled trunk to the classes and has no keys here.
    """

    size: str = "nano"
    head: tuple[int, ...] = (512, 128)
    head_batchnorm: bool = False
    prototypes: int = 3000

    def __post_init__(self) -> None:
        known = self.size in SIZES or self.size == FROM_INIT
        _require(known, f"no size '{self.size}'. {did_you_mean(self.size, SIZES)}")
        _require(bool(self.head) and min(self.head) > 0, "head needs at least one positive width")
        _require(self.prototypes >= 2, "prototypes must be at least 2")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """`batch` images a step over all ranks; `workers` loader processes a rank (auto: its share of the cores).

    `weights`: a file (.h5, .csv, .jsonl, .parquet), or a numeric column of the set: how often each sample is to come.
    Empty: once an epoch each. `fraction` of the labelled samples of each class, picked by key and run.seed, are all
    that a supervised run sees; those of a smaller fraction are among those of a larger one. `max_damaged`: the share of
    images that may turn out to be undecodable; each is counted and replaced by the next of the set. Ten are always let
    pass, but for 0, which stops at the first. Shards at a URL are kept in the directory `cache`, up to `cache_size`
    ("20GB", "500MiB") on each machine; "": as SEERCTL_CACHE and SEERCTL_CACHE_SIZE say, or ~/.cache/seerctl/shards and
    20GB.
    """

    batch: int = 256
    workers: int | Literal["auto"] = "auto"
    weights: str = ""
    fraction: float = 1.0
    max_damaged: float = 0.001
    cache: str = ""
    cache_size: str = ""

    def __post_init__(self) -> None:
        _require(not self.cache_size or bool(byte_size(self.cache_size)), 'cache_size is a size such as "20GB"')
        _require(0 <= self.max_damaged <= 1, "max_damaged is a share, in [0, 1]")
        _require(0 < self.fraction <= 1, "fraction must be in (0, 1]")
        _require(self.batch >= 2, "batch must be at least 2")
        _require(self.workers == "auto" or self.workers >= 0, "workers must not be negative")


@dataclass(frozen=True, kw_only=True)
class LossConfig:
    """`swav` (Caron et al. 2020): codes from the first kind of crops, `iterations` of Sinkhorn at `epsilon`.

    The prototypes stay frozen for the first `freeze_prototypes` steps. Codes are the best prototype alone for the first
    `hard` steps. `power_law` lets the prototypes' shares fall as rank^-power_law instead of being equal. `queue`: so
    many projections of earlier steps (over all ranks, for each big crop) share the prototypes with a small batch, from
    step `queue_start` on, once they are there. `small_crops`: forwarded at their own size, or padded with zeros to the
    first kind's as SEER's released code did.

    `supervised`: cross-entropy of every crop with the class in the column `target`, of which `label_smoothing` is
    spread over all classes. `classes`: how many there must be; 0 takes them as they are. A key of the other objective
    is refused; one that a recipe inherits is left behind.
    """

    objective: Literal["swav", "supervised"] = "swav"
    temperature: float = 0.1
    epsilon: float = 0.05
    iterations: int = 3
    freeze_prototypes: int = 313
    hard: int = 0
    power_law: float = 0.0
    queue: int = 0
    queue_start: int = 0
    small_crops: Literal["own", "pad"] = "own"
    target: str = "label"
    label_smoothing: float = 0.0
    classes: int = 0

    def __post_init__(self) -> None:
        _require(bool(self.target), "target must name a column")
        _require(0 <= self.label_smoothing < 1, "label_smoothing must be in [0, 1)")
        _require(self.classes == 0 or self.classes >= 2, "classes must be at least 2, or 0")
        _require(self.temperature > 0 and self.epsilon > 0, "temperature and epsilon must be positive")
        _require(self.iterations >= 1, "iterations must be at least 1")
        _require(self.freeze_prototypes >= 0, "freeze_prototypes must not be negative")
        _require(min(self.hard, self.queue, self.queue_start) >= 0, "hard, queue and queue_start must not be negative")
        _require(self.power_law >= 0, "power_law must not be negative")


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """`lr` holds for `lr_batch` images a step and is scaled to the recipe's batch (`linear`, `sqrt`) or not (`none`).

    LARC scales each tensor's gradient by `trust` * |p| / (|g| + decay |p|) (You et al. 2017); `larc_clip` caps that at
    the learning rate. `no_decay` names what weight decay leaves out: biases, BatchNorm. `clip_norm` scales a step's
    gradients down to that norm over all parameters; 0 leaves them. The head learns at `head_lr_scale` times the rate of
    the trunk.
    """

    name: Literal["sgd", "adamw"] = "sgd"
    lr: float = 0.3
    lr_batch: int = 256
    lr_scaling: Literal["linear", "sqrt", "none"] = "linear"
    head_lr_scale: float = 1.0
    momentum: float = 0.9
    nesterov: bool = False
    betas: tuple[float, float] = (0.9, 0.999)
    weight_decay: float = 1e-6
    no_decay: tuple[Literal["bias", "norm"], ...] = ()
    larc: bool = True
    larc_trust: float = 0.001
    larc_eps: float = 1e-8
    larc_clip: bool = False
    clip_norm: float = 0.0

    def __post_init__(self) -> None:
        _require(self.lr > 0 and self.lr_batch > 0, "lr and lr_batch must be positive")
        _require(self.clip_norm >= 0, "clip_norm must not be negative")
        _require(self.head_lr_scale > 0, "head_lr_scale must be positive")
        _require(0 <= self.momentum < 1, "momentum must be in [0, 1)")
        plain_momentum = self.name == "sgd" and self.momentum > 0
        _require(plain_momentum or not self.nesterov, "nesterov goes with sgd and a momentum above 0")
        _require(all(0 <= beta < 1 for beta in self.betas), "betas must be in [0, 1)")
        _require(self.weight_decay >= 0, "weight_decay must not be negative")
        _require(self.larc_trust > 0 and self.larc_eps >= 0, "larc_trust must be positive, larc_eps not negative")
        _require(not (self.larc and self.name == "adamw"), "larc goes with sgd: set larc = false for adamw")


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """`steps`, or `epochs` of the data where steps is 0. Learning rates are fractions of the peak.

    Linear from `start` to 1 over the first `warmup` (a fraction of all steps), then cosine towards `end`, constant, or
    in steps: times `gamma` at each of `milestones` (fractions of all steps, rising).
    """

    steps: int = 0
    epochs: float = 1.0
    shape: Literal["cosine", "constant", "step"] = "cosine"
    warmup: float = 0.05
    start: float = 0.016
    end: float = 0.001
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1

    def __post_init__(self) -> None:
        marks = self.milestones
        _require(bool(marks) == (self.shape == "step"), 'milestones and shape = "step" go together')
        _require(all(0 < mark < 1 for mark in marks), "milestones are fractions of all steps, in (0, 1)")
        _require(list(marks) == sorted(set(marks)), "milestones must rise")
        _require(0 < self.gamma <= 1, "gamma must be in (0, 1]")
        _require(self.steps >= 0, "steps must not be negative")
        _require(self.steps > 0 or self.epochs > 0, "steps or epochs must be positive")
        _require(0 <= self.warmup < 1, "warmup is a fraction of all steps, in [0, 1)")
        _require(0 <= self.start <= 1 and 0 <= self.end <= 1, "start and end are fractions of the peak, in [0, 1]")


@dataclass(frozen=True, kw_only=True)
class ParallelConfig:
    """How the ranks divide the work; none of it changes what is learnt, but for `precision` and `sync_batchnorm`.

    `shard`: parameters are split over all ranks, or inside each node and repeated across nodes. `sync_batchnorm`:
    statistics over the world, a node, groups of N ranks, or each rank alone. `precision` auto: bf16 where the hardware
    computes in it, which not every CPU does, else fp32; BatchNorm, codes and loss are float32 under all. With fp16 the
    loss is multiplied by a scale, `loss_scale` at first, halved when a gradient overflows, whose step is left out, and
    doubled after `loss_scale_growth` good ones. `reduce_dtype`: in which gradients are summed over ranks. `accumulate`:
    each rank goes through its part of the batch in so many micro-batches, to save memory; BatchNorm then sees those,
    and the codes come from each of them ("micro") or from a pass without gradient over all ("batch"): both are other
    objectives than the undivided batch. `activation_checkpointing`: what backward computes again instead of keeping
    it: nothing, each block, or ("dp") the chunks of blocks that cost least while the activations of a rank keep within
    `activation_budget` GiB, or, where that is 0, the traced step within 85 % of the GPU's memory (on a CPU, of a rank's
    share of the machine's). "auto" does the same, and recomputes each block where "dp" refuses a budget as too small.
    `activation_offload` keeps what enters recomputed blocks in the host's memory; budgets are kept as if it did not.
    None of it changes what is learnt: a run goes on with another choice. `compile`: torch.compile makes kernels for
    each block of the trunk, which round in another order: a run goes on with the same choice.
    """

    shard: Literal["world", "node"] = "world"
    precision: Literal["auto", "fp32", "bf16", "fp16"] = "auto"
    reduce_dtype: Literal["fp32", "bf16", "fp16"] = "fp32"
    loss_scale: float = 65536.0
    loss_scale_growth: int = 2000
    sync_batchnorm: int | Literal["world", "node", "none"] = "world"
    activation_checkpointing: Literal["none", "block", "dp", "auto"] = "none"
    activation_budget: float = 0.0
    activation_offload: bool = False
    checkpoint_wrapper: Literal["fairscale", "torch"] = "fairscale"
    compile: bool = False
    reshard_after_forward: bool = True
    channels_last: bool = True
    accumulate: int = 1
    accumulated_codes: Literal["micro", "batch"] = "micro"
    timeout_minutes: float = 30.0

    def __post_init__(self) -> None:
        sync = self.sync_batchnorm
        _require(isinstance(sync, str) or sync >= 2, "sync_batchnorm groups need at least 2 ranks")
        _require(1 <= self.loss_scale < math.inf, "loss_scale must be at least 1")
        _require(self.loss_scale_growth >= 1, "loss_scale_growth must be at least 1")
        scaled = self.precision == "fp16"
        _require(scaled or self.reduce_dtype != "fp16", 'reduce_dtype = "fp16" needs precision = "fp16" and its scale')
        _require(self.accumulate >= 1, "accumulate must be at least 1")
        _require(0 <= self.activation_budget < math.inf, "activation_budget must not be negative")
        planned = self.activation_checkpointing in ("dp", "auto")
        _require(planned or not self.activation_budget, 'activation_budget goes with activation_checkpointing = "dp"')
        recomputes = self.activation_checkpointing != "none"
        _require(
            recomputes or not self.activation_offload,
            'activation_offload goes with activation_checkpointing = "block", "dp" or "auto"',
        )
        _require(
            not (self.compile and recomputes and self.checkpoint_wrapper == "fairscale"),
            'compile and activation checkpoints need checkpoint_wrapper = "torch", fairscale has hooks of its own',
        )
        _require(self.timeout_minutes > 0, "timeout_minutes must be positive")


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """How `--predict` looks at pictures: the centre crop of `size` after the short side became size / `crop`.

    0: the size of the first kind of crops; the fraction that `seerctl extract` takes (0.875, all below 160 px).
    """

    size: int = 0
    crop: float = 0.0

    def __post_init__(self) -> None:
        _require(self.size >= 0, "size must not be negative")
        _require(0 <= self.crop <= 1, "crop is a fraction, in (0, 1], or 0")


@dataclass(frozen=True, kw_only=True)
class WatchConfig:
    """What is measured beside the training, none of which changes it.

    Where `--knn` names a labelled set, every `knn_every` steps and at the end: the class in the column `knn_target` of
    up to `knn_queries` images by their `knn_k` nearest among up to `knn_bank` others (cosine, T = 0.07). That costs one
    forward pass of each of these images, as `--predict` looks at them. `tensorboard`: the run directory also gets event
    files of what metrics.jsonl says.
    """

    knn_every: int = 1000
    knn_target: str = "label"
    knn_k: int = 20
    knn_bank: int = 10000
    knn_queries: int = 2000
    tensorboard: bool = False

    def __post_init__(self) -> None:
        _require(self.knn_every >= 1, "knn_every must be at least 1")
        _require(bool(self.knn_target), "knn_target must name a column")
        _require(min(self.knn_k, self.knn_queries) >= 1, "knn_k and knn_queries must be at least 1")
        _require(self.knn_bank >= self.knn_k, "knn_bank must be at least knn_k")


@dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """A checkpoint every `every` steps and at the end; the newest `keep` stay, and those of every `keep_every` steps.

    `background`: training goes on while it is written, which takes the memory of its tensors once more, of the host.
    `on_full`: a disk without room stops the run, or the run says so, goes on and tries again at the next; one that a
    signal ends stops in any case.
    """

    every: int = 1000
    keep: int = 3
    keep_every: int = 0
    background: bool = True
    on_full: Literal["stop", "continue"] = "stop"

    def __post_init__(self) -> None:
        _require(self.every >= 1 and self.keep >= 1, "every and keep must be at least 1")
        _require(self.keep_every >= 0, "keep_every must not be negative")
        _require(self.keep_every % self.every == 0, f"keep_every must be a multiple of every, {self.every}")


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """The seed of weights, order and views; how often metrics are written; where it runs."""

    seed: int = 0
    log_every: int = 10
    device: Literal["auto", "cpu", "cuda"] = "auto"

    def __post_init__(self) -> None:
        _require(self.log_every >= 1, "log_every must be at least 1")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Everything that decides what is learnt, but for the data."""

    description: str = ""
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    parallel: ParallelConfig = field(default_factory=ParallelConfig)
    predict: PredictConfig = field(default_factory=PredictConfig)
    watch: WatchConfig = field(default_factory=WatchConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    run: RunConfig = field(default_factory=RunConfig)

    def __post_init__(self) -> None:
        enough = self.augment.crops[0].count >= 2 or self.loss.objective != "swav"
        _require(enough, "augment.crops: SwAV needs at least 2 crops of the first kind")
        _require(
            self.loss.queue % self.data.batch == 0, f"loss.queue must be a multiple of the batch, {self.data.batch}"
        )
        parts, codes = self.parallel.accumulate, self.parallel.accumulated_codes
        _require(
            self.data.batch % parts == 0, f"a batch of {self.data.batch} does not divide into {parts} micro-batches"
        )
        _require(
            not (self.loss.queue and parts > 1 and codes == "micro"),
            'a queue and micro-batches need parallel.accumulated_codes = "batch"',
        )
        pad, sizes = self.loss.small_crops == "pad", [crop.size for crop in self.augment.crops]
        _require(not pad or max(sizes) == sizes[0], "loss.small_crops: only crops that are smaller can be padded")
        _require(
            not (pad and parts > 1 and codes == "batch"),
            'padded crops and micro-batches need parallel.accumulated_codes = "micro"',
        )


def load_recipe(name_or_path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe of that name or file, with `a.b=value` overrides applied in order.

    Raises:
        UsageError: no such recipe, not TOML, an unknown key (with the closest known one), a wrong value, or a key of
            another objective than the recipe's.
    """
    path = find(name_or_path)
    table = _with_parents(path, MAX_EXTENDS)
    # The objective first: what it leaves behind is the file's, never what stands beside it on the command line.
    for override in sorted(overrides, key=lambda text: not text.startswith("loss.objective=")):
        _apply(table, override)
    check_keys(table, str(path))
    return build(Recipe, table, str(path))


def find(name_or_path: str | Path) -> Path:
    """The file behind a recipe's name or path.

    Raises:
        UsageError: there is none; the message names those there are.
    """
    path, name = Path(name_or_path), str(name_or_path)
    if path.suffix == ".toml" or os.sep in name:
        if path.is_file():
            return path
        raise UsageError(f"{name}: no such recipe file", f"Recipes by name: {', '.join(recipe_names())}")
    for folder in _folders():
        if (folder / f"{name}.toml").is_file():
            return folder / f"{name}.toml"
    raise UsageError(f"no recipe '{name}'", did_you_mean(name, recipe_names()))


def recipe_names() -> list[str]:
    """Names of the recipes that can be found, sorted."""
    return sorted({path.stem for folder in _folders() for path in folder.glob("*.toml")})


def _folders() -> list[Path]:
    """$SEERCTL_RECIPES, then the recipes inside an installed wheel, or beside the package in a checkout."""
    package = Path(__file__).parent
    own = [Path(part) for part in os.environ.get(SEARCH_VARIABLE, "").split(os.pathsep) if part]
    return [*own, package / "recipes", package.parent / "recipes"]


def _with_parents(path: Path, levels: int) -> dict[str, Any]:
    table = read_toml(path)
    parent = table.pop("extends", None)
    if parent is None:
        return table
    if not isinstance(parent, str):
        raise UsageError(f"{path}: 'extends' is {parent!r}", "It must be the name or path of a recipe")
    if levels == 0:
        raise UsageError(f"{path}: more than {MAX_EXTENDS} levels of 'extends'")
    beside = path.parent / (parent if parent.endswith(".toml") else f"{parent}.toml")
    base = _with_parents(beside if beside.is_file() else find(parent), levels - 1)
    base.pop("description", None)
    if isinstance(table.get("loss"), dict) and "objective" in table["loss"]:
        leave_behind(base, table["loss"]["objective"])
    for key, value in table.items():
        both_tables = isinstance(value, dict) and isinstance(base.get(key), dict)
        base[key] = {**base[key], **value} if both_tables else value
    return base


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if parts == ["loss", "objective"]:
        leave_behind(table, _literal(text.strip(), parts))
    if not equals or not all(parts):
        raise UsageError(f"--set {override}: not of the form section.key=value")
    for part in parts[:-1]:
        table = table.setdefault(part, {})
        if not isinstance(table, dict):
            raise UsageError(f"--set {override}: '{part}' is not a section")
    table[parts[-1]] = _literal(text.strip(), parts)


def _literal(text: str, parts: Sequence[str]) -> Any:
    """A TOML value; bare text where the field holds a string, or where it is no TOML at all."""
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text
    return text if _hint(parts) is str and not isinstance(value, str) else value


def _hint(parts: Sequence[str]) -> Any:
    hint: Any = Recipe
    for part in parts:
        hint = typing.get_type_hints(hint).get(part) if dataclasses.is_dataclass(hint) else None
    return hint


def resolved(recipe: Recipe) -> dict[str, Any]:
    """`recipe` as nested plain values: every key that its objective uses."""
    table: dict[str, Any] = plain(recipe)
    for section, key in of_others(recipe.loss.objective):
        del table[section][key]
    return {key: value for key, value in table.items() if value != {}}


def dump(recipe: Recipe) -> str:
    """`recipe` as TOML, every key that its objective uses written out; `load_recipe` of it gives an equal recipe."""
    table = resolved(recipe)
    lines = [f"{key} = {_toml(value)}" for key, value in table.items() if not isinstance(value, dict)]
    for section, values in table.items():
        if isinstance(values, dict):
            lines += ["", f"[{section}]", *(f"{key} = {_toml(value)}" for key, value in values.items())]
    return "\n".join(lines).lstrip("\n") + "\n"


def _toml(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        return json.dumps(value).replace("\x7f", "\\u007f")
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(item)}" for key, item in value.items()) + " }"
    if isinstance(value, Sequence):
        return "[" + ", ".join(map(_toml, value)) + "]"
    raise TypeError(f"no TOML form of {type(value).__name__}")


def differences(old: Recipe, new: Recipe) -> list[str]:
    """Keys whose values differ, as `section.key: old -> new`."""
    before, after = _flat(resolved(old)), _flat(resolved(new))
    return [
        f"{key}: {_toml(before[key])} -> {_toml(after[key])}"
        for key in before
        if key in after and before[key] != after[key] and key != "description"
    ]


def _flat(table: Mapping[str, Any]) -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat.update({f"{key}.{name}": item for name, item in value.items()})
        else:
            flat[key] = value
    return flat
