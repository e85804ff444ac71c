"""The comparison of the SEER papers on your own pictures: SwAV without labels against supervised training.

    python examples/supervised_vs_swav.py TRAIN TEST OUT [--set KEY=VALUE ...]

TRAIN and TEST are shard sets with a column `label`. The same trunk learns the same pictures under the same recipe
twice, by SwAV and by their labels. Both are probed alike; then SwAV's is fine-tuned on a share of the labels, beside
the same fine-tuning from random weights. `--set` goes to both first runs. For CIFAR-10, on two CPU cores (SwAV's
run alone takes 25 minutes; `--set schedule.steps=400` gives a first look in nine all in all):

    seerctl ingest cifar10_train.tar | seerctl shard -o cifar/train
    seerctl ingest cifar10_test.tar | seerctl shard -o cifar/test
    python examples/supervised_vs_swav.py cifar/train cifar/test comparison/

Every command is printed before it runs; starting again goes on where the last one stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import shlex
import sys
from pathlib import Path

from seerctl.cli import run
from seerctl.recipe import load_recipe


def seerctl(*arguments: object) -> None:
    """Run one command; end with its exit code where it fails."""
    call = [str(argument) for argument in arguments]
    sys.stderr.write(f"$ seerctl {shlex.join(call)}\n")
    code = run(call)
    if code:
        sys.exit(code)


def probed(run_directory: Path, train: Path, test: Path) -> dict[str, float]:
    """kNN and linear accuracy of a run's frozen features."""
    files = {name: run_directory.with_name(f"{run_directory.name}-{name}.h5") for name in ("train", "test")}
    for name, data in {"train": train, "test": test}.items():
        if not files[name].exists():
            seerctl("extract", "--model", run_directory, "--data", data, "-o", files[name])
    found = {}
    for probe in ("knn", "linear"):
        report = run_directory.with_name(f"{run_directory.name}-{probe}.json")
        seerctl("probe", probe, "--train", files["train"], "--test", files["test"], "--target", "label",
                "-o", report, "--overwrite")  # fmt: skip
        found[probe] = json.loads(report.read_text())["metrics"]["top1"]["value"]
    return found


def finetuned(options: argparse.Namespace, name: str, fraction: float, start: list[str]) -> float:
    """Accuracy on the test set after fine-tuning on `fraction` of the labels; its predictions are there to audit."""
    place = options.out / f"{name}-{fraction:g}"
    predictions = options.out / f"{place.name}.csv"
    seerctl("pretrain", "--recipe", options.finetune, "--data", options.train, "-o", place, *start,
            "--set", f"data.fraction={fraction:g}", *options.more,
            "--predict", options.test, "--predictions", predictions, "--overwrite")  # fmt: skip
    with predictions.open(newline="", encoding="utf-8") as file:
        hits = [row["label"] == row["prediction"] for row in csv.DictReader(file)]
    return sum(hits) / len(hits)


def main(arguments: list[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("train", type=Path)
    parser.add_argument("test", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--recipe", default="cifar", help="of SwAV; the supervised run changes its objective alone")
    parser.add_argument("--finetune", default="cifar-finetune", help="recipe of the fine-tuning")
    parser.add_argument("--fractions", type=float, nargs="*", default=[0.01, 0.1, 1.0], help="of the labels")
    parser.add_argument("--set", action="append", default=[], help="KEY=VALUE of the recipe of both first runs")
    parser.add_argument("--set-finetune", action="append", default=[], help="KEY=VALUE of the fine-tuning's")
    options = parser.parse_args(arguments)
    settings = [part for value in options.set for part in ("--set", value)]
    options.more = [part for value in options.set_finetune for part in ("--set", value)]
    options.out.mkdir(parents=True, exist_ok=True)
    swav, supervised = options.out / "swav", options.out / "supervised"
    for place, objective in {swav: [], supervised: ["--set", "loss.objective=supervised"]}.items():
        seerctl("pretrain", "--recipe", options.recipe, "--data", options.train, "-o", place, *objective, *settings)
    scores = {place: probed(place, options.train, options.test) for place in (swav, supervised)}
    size = load_recipe(swav / "recipe.toml").model.size
    few = {
        fraction: (
            finetuned(options, "finetuned", fraction, ["--init", str(swav)]),
            finetuned(options, "scratch", fraction, ["--set", f"model.size={size}"]),
        )
        for fraction in options.fractions
    }
    sys.stdout.write(table(scores[swav], scores[supervised], few) + "\n")


def table(swav: dict[str, float], supervised: dict[str, float], few: dict[float, tuple[float, float]]) -> str:
    """The accuracies in percent, as Markdown."""
    lines = [
        "| top-1, % | SwAV, no labels | supervised, all labels |", "|---|---|---|",
        *(f"| {probe}, frozen features | {100 * swav[probe]:.1f} | {100 * supervised[probe]:.1f} |" for probe in swav),
        "", "| labels | fine-tuned from SwAV | the same from random weights |", "|---|---|---|",
        *(f"| {share:.0%} | {100 * ours:.1f} | {100 * scratch:.1f} |" for share, (ours, scratch) in few.items()),
    ]  # fmt: skip
    return "\n".join(lines)


if __name__ == "__main__":
    main(sys.argv[1:])
