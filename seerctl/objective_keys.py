"""Which keys of a recipe belong to one objective alone, and what happens to those of the other ones.

A key of an objective that the recipe does not train is an error, so that no value is read and then ignored. Only what a
recipe inherits may change its objective: the parent's keys of its own objective are then left behind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from seerctl.errors import UsageError

DEFAULT = "swav"
OWN: dict[str, dict[str, tuple[str, ...]]] = {
    "swav": {
        "model": ("head", "head_batchnorm", "prototypes"),
        "loss": (
            "temperature", "epsilon", "iterations", "freeze_prototypes", "hard", "power_law", "queue", "queue_start",
            "small_crops",
        ),
        "parallel": ("accumulated_codes",),
    },
    "supervised": {
        "data": ("fraction",),
        "loss": ("target", "label_smoothing", "classes"),
        "predict": ("size", "crop"),
    },
}  # fmt: skip


def objective_of(table: Mapping[str, Any]) -> Any:
    """The objective that a recipe's table names, or the default's name."""
    loss = table.get("loss")
    return loss.get("objective", DEFAULT) if isinstance(loss, Mapping) else DEFAULT


def leave_behind(table: dict[str, Any], objective: Any) -> None:
    """Drop from `table` the keys of its own objective, if `objective` is another one."""
    if objective == objective_of(table):
        return
    for section, key in _keys(objective_of(table)):
        if isinstance(table.get(section), dict):
            table[section] = {name: value for name, value in table[section].items() if name != key}


def check_keys(table: Mapping[str, Any], where: str) -> None:
    """Nothing, if `table` holds no key of another objective than its own.

    Raises:
        UsageError: it does; the message names the key and both objectives.
    """
    objective = objective_of(table)
    for other in OWN:
        for section, key in () if other == objective else _keys(other):
            if isinstance(table.get(section), Mapping) and key in table[section]:
                raise UsageError(
                    f"{where}: '{section}.{key}' belongs to the objective '{other}', this recipe's is '{objective}'",
                    f"Leave it out, or set loss.objective={other}",
                )


def of_others(objective: str) -> set[tuple[str, str]]:
    """(section, key) of all that `objective` does not use."""
    return {pair for other in OWN if other != objective for pair in _keys(other)}


def _keys(objective: Any) -> Iterator[tuple[str, str]]:
    for section, keys in OWN.get(objective, {}).items():
        for key in keys:
            yield section, key
