"""Every protocol by name: what it reads, which options it takes, what it measures. Nothing is imported until it runs.

To register one, add a row to `PROTOCOLS`. `load` is a function that is called as `load(<input>=PATH, ..., target=NAME)`
(an input with `many` gets a list of paths; one that is left out is not passed; nor is `target` where none was named:
the protocol has none, or, where it is None, may do without) and returns the task, checked. `run` is called as
`run(task, <option>=VALUE, ...)` and returns a `ProbeResult`; it also gets `device`, `progress` and `full` where it has
parameters of these names. Options whose `stage` is "load" go to `load`. A test compares the defaults written here with
those of the functions.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from seerctl.errors import UsageError, did_you_mean
from seerctl.typed import convert

if TYPE_CHECKING:
    from seerctl.probes.report import ProbeResult

Progress = Callable[[int], None]
Inputs = Mapping[str, Path | Sequence[Path | str]]


@dataclass(frozen=True, slots=True)
class Input:
    """A feature file that a protocol reads; of `many` there may be several."""

    help: str
    required: bool = True
    many: bool = False


@dataclass(frozen=True, slots=True)
class Option:
    """A setting of a protocol. hint: its type, as `typed.convert` checks it. parameter: the name that the function has
    for it, where that is another one. stage: the function that it goes to."""

    hint: Any
    default: Any
    help: str
    parameter: str = ""
    stage: Literal["load", "run"] = "run"


@dataclass(frozen=True, slots=True)
class Protocol:
    """A row of the table. load, run: "module:function". metrics: names, or patterns with * (of several k, say)."""

    summary: str
    load: str
    run: str
    inputs: Mapping[str, Input]
    metrics: tuple[str, ...]
    target: bool | None = True
    options: Mapping[str, Option] = field(default_factory=dict)

    def measures(self, metric: str) -> bool:
        """Whether a report of this protocol can hold `metric`."""
        return any(fnmatchcase(metric, pattern) for pattern in self.metrics)


TRAIN = Input("features to learn from")
TEST = Input("features to score on, of the same model and layer")
CLASSIFICATION = {"train": TRAIN, "test": TEST}
TASK = "seerctl.probes.task:load_task"
QUERIES = Input("features of the queries")
SEARCH = {
    "whiten": Input("features to learn PCA whitening on", required=False),
    "distractors": Input("features of pictures that no query is after", required=False, many=True),
}


def _search(components: int) -> dict[str, Option]:
    """What the protocols that rank an index share."""
    return {
        "components": Option(int, components, "of the whitening", stage="load"),
        "names": Option(str | None, None, "column with the file names", stage="load"),
        "data": Option(tuple[str, ...], (), "shard sets that know the file names", stage="load"),
        "k": Option(tuple[int, ...], (1, 5, 10), "of precision at k", "ks"),
    }


LOGISTIC = {
    "l2": Option(tuple[float, ...], (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0), "penalties to choose from",
                 "penalties"),
    "validation": Option(float, 0.2, "share of the training rows held out for the choice"),
    "seed": Option(int, 0, "of the held-out part"),
}  # fmt: skip

LABELS = "seerctl.probes.targets:load_labels"
LABEL_COLUMNS = {
    "ignore": Option(str | None, None, "column of lists: classes that do not count in a row", stage="load"),
    "negatives": Option(str | None, None, "column of lists: the only classes known to be absent", stage="load"),
}
RESAMPLED = {
    "draws": Option(int, 1000, "bootstrap samples of the interval"),
    "seed": Option(int, 0, "of every draw"),
}

PROTOCOLS: dict[str, Protocol] = {
    "knn": Protocol(
        summary="weighted cosine k-nearest neighbours",
        load=TASK, run="seerctl.probes.knn:knn", inputs=CLASSIFICATION,
        metrics=("top1", "top5", "mean_per_class", "top1_k*", "top5_k*"),
        options={
            "k": Option(tuple[int, ...], (10, 20, 100, 200), "neighbours; the headline is 20, else the first", "ks"),
            "temperature": Option(float, 0.07, "votes weigh exp(similarity / temperature)"),
            "similarity": Option(Literal["cosine", "dot"], "cosine", "of unit vectors, or of features as they are"),
        },
    ),
    "linear": Protocol(
        summary="L2-regularised logistic regression, its penalty chosen on held-out training rows",
        load=TASK, run="seerctl.probes.linear:linear", inputs=CLASSIFICATION,
        metrics=("top1", "top5", "mean_per_class"),
        options={
            **LOGISTIC,
        },
    ),
    "sgd": Protocol(
        summary="SEER's linear probe: heads trained by SGD, rates and layers swept in one pass",
        load="seerctl.probes.layers:load_layers", run="seerctl.probes.sgd:sgd",
        inputs={"train": Input("features to learn from, of each layer", many=True),
                "test": Input("features to score on, of each layer", many=True)},
        metrics=("top1", "top5", "mean_per_class"),
        options={
            "lr": Option(tuple[float, ...], (0.001, 0.003, 0.01, 0.03, 0.1, 0.3), "rates per 256 rows", "rates"),
            "heads": Option(tuple[Literal["batchnorm", "plain"], ...], ("batchnorm",), "kinds tried on each layer"),
            "epochs": Option(int, 28, "passes over the training rows"),
            "milestones": Option(tuple[int, ...], (8, 16, 24), "epochs after which the rate is divided by 10"),
            "cosine": Option(bool, False, "fall by a cosine instead"),
            "batch": Option(int, 256, "rows of a step"),
            "weight_decay": Option(float, 5e-4, "of the Linear"),
            "validation": LOGISTIC["validation"],
            "seed": Option(int, 0, "of the held-out part, the weights and the order"),
        },
    ),
    "lowshot": Protocol(
        summary="logistic regression on a few rows of each class, several draws",
        load=TASK, run="seerctl.probes.lowshot:lowshot", inputs=CLASSIFICATION,
        metrics=("top1_k*", "mean_per_class_k*", "top1_*pct", "mean_per_class_*pct"),
        options={
            "k": Option(tuple[int, ...], (1, 2, 4, 8, 16, 32, 64, 96), "rows of each class", "shots"),
            "shares": Option(tuple[float, ...], (), "of the rows of each class"),
            "samples": Option(int, 5, "draws of each"),
            "l2": Option(tuple[float, ...], (1e-4, 1e-3, 1e-2, 1e-1, 1.0), "penalties to choose from", "penalties"),
            "seed": Option(int, 0, "of the draws"),
        },
    ),
    "svm": Protocol(
        summary="VOC07: an SVM of each class, its cost chosen by folds; mean average precision",
        load=LABELS, run="seerctl.probes.svm:svm", inputs=CLASSIFICATION, metrics=("map", "map_k*"),
        options={
            **LABEL_COLUMNS,
            "costs": Option(tuple[float, ...], (0.01, 0.1, 1.0, 2.0, 5.0, 10.0, 15.0, 20.0, 50.0, 100.0, 1000.0),
                            "to choose from"),
            "folds": Option(int, 3, "of the training rows"),
            "rule": Option(Literal["area", "voc", "voc11"], "voc", "average precision"),
            "ignored_in_training": Option(bool, False, "leave ignored rows out of the training too"),
            "k": Option(tuple[int, ...], (), "low-shot: positives of each class", "shots"),
            "samples": Option(int, 5, "low-shot: draws of each"),
            **RESAMPLED,
        },
    ),
    "multilabel": Protocol(
        summary="several labels a row: a logistic regression of each class; mean average precision",
        load=LABELS, run="seerctl.probes.multilabel:multilabel", inputs=CLASSIFICATION, metrics=("map",),
        options={
            **LABEL_COLUMNS, **LOGISTIC, "rule": Option(Literal["area", "voc", "voc11"], "area", "average precision"),
            **RESAMPLED,
        },
    ),
    "regression": Protocol(
        summary="numbers, by ridge regression or as classes",
        load="seerctl.probes.targets:load_numbers", run="seerctl.probes.regression:regression", inputs=CLASSIFICATION,
        metrics=("mae", "rmse", "r2", "spearman", "top1", "within_1"),
        options={
            "method": Option(Literal["ridge", "classes"], "ridge", "ridge regression, or each number as a class"),
            "l2": Option(tuple[float, ...], tuple(10.0**power for power in range(-6, 3)), "penalties to choose from",
                         "penalties"),
            "validation": LOGISTIC["validation"],
            **RESAMPLED,
        },
    ),
    "retrieval": Protocol(
        summary="mean average precision of rankings by cosine",
        load="seerctl.probes.retrieval:load_retrieval", run="seerctl.probes.retrieval:retrieval", target=None,
        inputs={"test": QUERIES, "train": Input("features of the index", required=False), **SEARCH},
        metrics=("map", "map_medium", "map_easy", "map_hard", "mp*", "r[1-9]*"),
        options={
            "truth": Option(str | None, None, "ground truth file, where no target is named", stage="load"),
            **_search(512),
        },
    ),
    "copies": Protocol(
        summary="originals of altered pictures found among distractors",
        load="seerctl.probes.copies:load_copies", run="seerctl.probes.copies:copies", target=None,
        inputs={"test": Input("features of altered pictures", many=True), "train": Input("features of the originals"),
                **SEARCH},
        metrics=("map", "map_*", "mp*"),
        options={
            "split": Option(str | None, None, "column with the kind of alteration", stage="load"),
            "per_original": Option(int, 100, "file numbers of one original, without a target", stage="load"),
            **_search(1024),
        },
    ),
    "ood": Protocol(
        summary="a linear classifier on other distributions",
        load="seerctl.probes.ood:load_ood", run="seerctl.probes.ood:ood",
        inputs={"train": Input("features to learn from", required=False), "test": TEST,
                "shift": Input("features of another distribution", many=True)},
        metrics=("top1", "top5", "top1_*", "top5_*", "drop_*", "effective_*"),
        options={
            "probe": Option(str | None, None, "fitted probe to score, instead of training features", stage="load"),
            "map": Option(tuple[str, ...], (), "class maps, FILE or NAME=FILE", "maps", stage="load"),
            "models": Option(str | None, None, "accuracies of other models, for the line", stage="load"),
            "mask": Option(bool, True, "leave out the logits of classes that a set does not have"),
            **LOGISTIC,
        },
    ),
    "geo": Protocol(
        summary="geolocalisation by cells or by the nearest picture",
        load="seerctl.probes.geo:load_geo", run="seerctl.probes.geo:geo", inputs=CLASSIFICATION, target=False,
        metrics=("acc_25km", "acc_*km", "median_km"),
        options={
            "latitude": Option(str, "latitude", "column, in degrees", stage="load"),
            "longitude": Option(str, "longitude", "column, in degrees", stage="load"),
            "mode": Option(Literal["cells", "nearest"], "cells", "classify cells, or take the nearest picture's place"),
            "least": Option(int, 50, "training pictures in a cell"),
            "most": Option(int, 1000, "training pictures in a cell"),
            **LOGISTIC,
        },
    ),
    "clusters": Protocol(
        summary="clusters or prototypes against labels",
        load="seerctl.probes.clusters:load_clusters", run="seerctl.probes.clusters:clusters",
        inputs={"test": Input("features to cluster")},
        metrics=("nmi", "ami", "ari", "purity", "matched", "use", "dead"),
        options={
            "prototypes": Option(str | None, None, "run directory or weights with prototypes", stage="load"),
            "method": Option(Literal["auto", "kmeans", "prototypes", "scores"], "auto", "how pictures are assigned"),
            "k": Option(int | None, None, "clusters of k-means; None: as many as classes"),
            "replicates": Option(int, 500, "samples drawn for the intervals"),
            "seed": Option(int, 0, "of k-means and the intervals"),
        },
    ),
    "words": Protocol(
        summary="tags by what their pictures look like, across languages",
        load="seerctl.probes.words:load_words", run="seerctl.probes.words:words",
        inputs={"test": Input("features of pictures with tags")},
        metrics=("split_half", "translation_r1", "translation_r5"),
        options={
            "language": Option(str | None, None, "column with the language of a picture's tags", stage="load"),
            "languages": Option(str | None, None, "file of languages of tags instead", stage="load"),
            "separator": Option(str | None, None, "what stands between tags of a text", stage="load"),
            "least": Option(int, 5, "pictures that a tag needs", stage="load"),
            "dictionary": Option(str | None, None, "file of tags that mean the same", stage="load"),
            "k": Option(int | None, None, "groups of tags; None: root of half the tags"),
            "centre": Option(bool, True, "take off what all tags have in common"),
            "seed": Option(int, 0, "of groups and halves"),
        },
    ),
}  # fmt: skip


def protocol(name: str, where: str = "probe") -> Protocol:
    """The protocol called `name`; `where` begins the message.

    Raises:
        UsageError: there is none.
    """
    if name not in PROTOCOLS:
        raise UsageError(f"{where}: no protocol '{name}'", did_you_mean(name, PROTOCOLS))
    return PROTOCOLS[name]


def checked_options(name: str, options: Mapping[str, Any], where: str = "probe") -> dict[str, Any]:
    """Every option of the protocol `name`: those given, checked, and the defaults of the others.

    Raises:
        UsageError: an unknown option, or a value of a wrong type.
    """
    known = protocol(name, where).options
    for key in options:
        if key not in known:
            hint = did_you_mean(key, known) if known else "It has none"
            raise UsageError(f"{where}: {name} has no option '{key}'", hint)
    return {
        key: convert(option.hint, options[key], where, key) if key in options else option.default
        for key, option in known.items()
    }


def check_inputs(name: str, inputs: Mapping[str, Any], target: str | None, where: str = "probe") -> None:
    """Make sure that the protocol `name` gets the inputs that it needs and no others, and a target if it needs one.

    Raises:
        UsageError: it does not.
    """
    found = protocol(name, where)
    for key in inputs:
        if key not in found.inputs:
            raise UsageError(f"{where}: {name} has no input '{key}'", did_you_mean(key, found.inputs))
    for key, wanted in found.inputs.items():
        if wanted.required and key not in inputs:
            raise UsageError(f"{where}: {name} needs '{key}'", f"Name {wanted.help}")
        if not wanted.many and isinstance(inputs.get(key), (list, tuple)):
            raise UsageError(f"{where}: {name} takes one '{key}', not several")
    if found.target and not target:
        raise UsageError(f"{where}: {name} needs a target", "Name the column to predict")
    if target and found.target is False:
        raise UsageError(f"{where}: {name} has no target, and '{target}' was named")


def run_protocol(
    name: str, inputs: Inputs, target: str | None = None, options: Mapping[str, Any] | None = None, *,
    device: str = "cpu", progress: Progress | None = None, full: bool = False,
) -> ProbeResult:  # fmt: skip
    """Load the task of the protocol `name` from feature files and score it.

    full: keep the scores of every class, where the protocol can.

    Raises:
        UsageError: an unknown protocol, input or option, a missing one, or what the protocol refuses.
        InputError: files that are damaged or do not fit the protocol.
    """
    check_inputs(name, inputs, target)
    values, found = checked_options(name, options or {}), PROTOCOLS[name]
    stages: dict[str, dict[str, Any]] = {"load": {}, "run": {}}
    for key, option in found.options.items():
        stages[option.stage][option.parameter or key] = values[key]
    run = resolve(found.run)
    shared = {"device": device, "progress": progress, "full": full}
    takes = inspect.signature(run).parameters
    task = resolve(found.load)(**_paths(found, inputs), **({"target": target} if target else {}), **stages["load"])
    result = run(task, **stages["run"], **{key: value for key, value in shared.items() if key in takes})
    return cast("ProbeResult", result)


def _paths(found: Protocol, inputs: Inputs) -> dict[str, Any]:
    return {
        key: [value] if found.inputs[key].many and isinstance(value, (str, Path)) else value
        for key, value in inputs.items()
    }


def resolve(entry: str) -> Callable[..., Any]:
    """The function that "module:function" names, imported now."""
    module, _, function = entry.partition(":")
    return cast("Callable[..., Any]", getattr(importlib.import_module(module), function))
