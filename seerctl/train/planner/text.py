"""A plan for people: the same values as the JSON, in lines and tables."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from seerctl.train.hardware import GIB
from seerctl.train.planner.plan import Planned

_SMALL = 0.005  # share of the peak below which a category is not listed


def plan_text(values: dict[str, Any]) -> str:
    """What a step takes and how long it is, line by line."""
    params, batch, step, training = values["params"], values["batch"], values["step"], values["training"]
    lines = [
        ("parameters", f"{params['total']:,} (trunk {params['trunk']:,}, head {params['head']:,})"),
        ("ranks", f"{values['ranks']} ({values['nodes']} nodes of {values['gpus_per_node']})"),
        ("batch", f"{batch['global']:,} ({batch['per_rank']} a rank), peak learning rate {values['peak_lr']:g}"),
        ("memory", values["verdict"]),
        ("", _categories(values["memory"])),
        ("recomputed", _recomputed(values["checkpointing"]) + _on_host(values["memory"])),
        ("step", f"{step['flops_per_rank'] / 1e12:.4g} TFLOP a rank" + _seconds(step)),
        ("collectives", _collectives(values["collectives"])),
        ("training", _training(training)),
        *_machines(values),
    ]
    return "\n".join(f"{name:<12}{text}" for name, text in lines if text)


def _categories(memory: dict[str, Any]) -> str:
    peak = max(memory["peak_bytes"], 1)
    parts = sorted(memory["by_category"].items(), key=lambda item: -item[1])
    return ", ".join(f"{kind} {_size(count)}" for kind, count in parts if count >= _SMALL * peak)


def _recomputed(checkpointing: dict[str, Any]) -> str:
    names = checkpointing["recomputed"]
    if not names:
        return "nothing"
    chunks = [one for one in checkpointing["chunks"] if one[0] < one[1]]
    together = f", {len(chunks)} times several as one" if chunks else ""
    share = f"{checkpointing['recompute_flops_share']:.1%} of the operations"
    which = "every block" if checkpointing["mode"] == "block" else ", ".join(names)
    return f"{which}{together} ({share})"


def _on_host(memory: dict[str, Any]) -> str:
    return f", what enters kept by the host ({_size(memory['host_bytes'])} a rank)" if memory["host_bytes"] else ""


def _seconds(step: dict[str, Any]) -> str:
    if step["seconds"] is None:
        return ""
    return (
        f"; computing {step['compute_seconds']:.3g} s, sending {step['communication_seconds']:.3g} s: "
        f"{step['seconds']:.3g} to {step['seconds_without_overlap']:.3g} s, {step['images_per_second']:,.0f} images/s"
    )


def _collectives(collectives: Sequence[dict[str, Any]]) -> str:
    return ", ".join(
        f"{one['count']} {one['kind']} of {one['ranks']} ranks {_size(one['bytes'])}" for one in collectives
    )


def _training(training: dict[str, Any]) -> str:
    if training["steps"] is None:
        return "as long as --data or --images say"
    days = f", {training['days']:.3g} days" if training["days"] is not None else ""
    return f"{training['steps']:,} steps of {training['images']:,} images{days}"


def _machines(values: dict[str, Any]) -> list[tuple[str, str]]:
    checkpoints, load, assumed = values["checkpoints"], values["loading_per_node"], values["assumed"]
    room = "" if checkpoints["fit"] is None else f", room for {checkpoints['fit']}"
    lines = [("checkpoints", f"{_size(checkpoints['bytes'])} each, {checkpoints['kept']} kept{room}")]
    if load is not None:
        rate = f"{load['images_per_second']:,.0f} images/s, {load['bytes_per_second'] / 1e6:,.0f} MB/s a node"
        gpu = assumed["gpu"]
        lines += [
            ("loading", rate),
            ("assumed", f"{gpu['name']} at {assumed['efficiency']:.0%} of {gpu['flops'] / 1e12:.0f} TFLOP/s, "
                        f"{assumed['interconnect_bytes_per_second'] / 1e9:g} GB/s between nodes a GPU, "
                        f"{assumed['sample_bytes'] / 1e3:g} kB an image"),
        ]  # fmt: skip
    return lines


def sweep_text(plans: Sequence[Planned]) -> str:
    """One line a plan."""
    rows = [
        ["nodes", "ranks", "shard", "small crops", "peak GiB", "fits", "computing s", "sending s", "step s", "days"]
    ]
    rows += [_row(one.values) for one in plans]
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join("  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)


def _row(values: dict[str, Any]) -> list[str]:
    recipe, step, days = values["recipe"], values["step"], values["training"]["days"]
    times = [step.get(name) for name in ("compute_seconds", "communication_seconds", "seconds")]
    return [
        str(values["nodes"]), str(values["ranks"]), recipe["parallel"]["shard"], recipe["loss"]["small_crops"],
        f"{values['memory']['peak_bytes'] / GIB:.2f}", "yes" if values["fits"] else "no",
        *("-" if one is None else f"{one:.3g}" for one in [*times, days]),
    ]  # fmt: skip


def _size(count: float) -> str:
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count / 1e3:.3g} kB"
