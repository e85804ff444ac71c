"""The run directory: what it holds, and whether a start goes on, starts anew, or must be refused.

`recipe.toml` (resolved), `run.json` (the data), `metrics.jsonl`, `checkpoints/`, `weights.safetensors` at the end.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from seerctl import __version__
from seerctl.errors import UsageError
from seerctl.files import atomic_write, blame, read_json, sha256_file, write_json
from seerctl.model.load import WEIGHTS_FILE
from seerctl.recipe import Recipe, differences, dump, load_recipe
from seerctl.shards.index import ShardSet
from seerctl.shards.lock import LOCK
from seerctl.train.labels import Labels
from seerctl.train.metrics import Metrics
from seerctl.weighting import Sampling

SLURM_FOLDER = "slurm"  # scripts and logs of the jobs that trained here; it may be there before the run

_RECIPE, _FACTS = "recipe.toml", "run.json"
# Keys of which no weight depends: a run goes on with other ones.
FREE = (
    "data.workers", "data.cache", "checkpoint.", "watch.", "predict.", "run.log_every", "parallel.timeout_minutes",
    "parallel.activation_checkpointing", "parallel.activation_budget", "parallel.activation_offload",
    "parallel.checkpoint_wrapper",
)  # fmt: skip
# What may stand where a run begins: the lock, and what is left when one was killed before it had its recipe.
_BEFORE = {LOCK, SLURM_FOLDER, _FACTS, f"{_FACTS}.tmp", f"{_RECIPE}.tmp"}


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """Paths inside one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints lie."""
        return self.path / "checkpoints"

    @property
    def recipe(self) -> Path:
        """The resolved recipe, there since the run was begun."""
        return self.path / _RECIPE

    @property
    def weights(self) -> Path:
        """The trained weights, there when the run is done."""
        return self.path / WEIGHTS_FILE

    @property
    def metrics(self) -> Metrics:
        """The log of the run."""
        return Metrics(self.path / "metrics.jsonl")

    @property
    def board(self) -> Path:
        """TensorBoard's event files, where they are asked for."""
        return self.path / "tensorboard"

    def make(self) -> None:
        """Make the directory if there is none."""
        if self.path.exists() and not self.path.is_dir():
            raise UsageError(f"{self.path}: exists already and is not a run", "Choose another output")
        with blame(self.path):
            self.path.mkdir(parents=True, exist_ok=True)

    def prepare(
        self,
        recipe: Recipe,
        shards: ShardSet,
        sampling: Sampling | None = None,
        labels: Labels | None = None,
        init: Path | None = None,
    ) -> None:
        """Claim an empty directory, or check that the run in it is of the same recipe, data and sample weights.

        Keys that no weight depends on (`FREE`) may be others than before; the recipe in the directory then has them.

        init: the weights that a new run starts from, of which the hash is noted.

        Raises:
            UsageError: it holds something else; of another recipe, the message shows the keys that differ.
            EnvironmentFault: it cannot be written.
        """
        facts = {
            "schema": "seer-run-1",
            "seerctl": __version__,
            "data": shards.location,
            "index_sha256": shards.sha256,
            **({"sample_weights": {"source": sampling.source, "sha256": sampling.sha256}} if sampling else {}),
            **({"labels": labels.facts()} if labels else {}),
            **_start(init),
        }
        with blame(self.path):
            if not (self.path / _RECIPE).exists():
                if any(entry.name not in _BEFORE for entry in self.path.iterdir()):
                    raise UsageError(f"{self.path}: exists already and is not a run", "Choose another output")
                write_json(self.path / _FACTS, facts)
                with atomic_write(self.path / _RECIPE, "w") as file:
                    file.write(dump(recipe))
                return
        self._check(recipe, shards, sampling)

    def note(self, key: str, value: Any) -> None:
        """Keep a fact of the latest start in run.json, in place of what an earlier start said of it."""
        facts = self.path / _FACTS
        write_json(facts, {**read_json(facts), key: value})

    @property
    def init_sha256(self) -> str | None:
        """The hash of the weights that the run started from; None where it started from nothing."""
        facts = self.path / _FACTS
        start = read_json(facts).get("init") if facts.is_file() else None
        return start["sha256"] if start else None

    def _check(self, recipe: Recipe, shards: ShardSet, sampling: Sampling | None) -> None:
        hint = "Pass --fresh to start over in a new place, or choose another output"
        found = differences(load_recipe(self.path / _RECIPE), recipe)
        changed = [line for line in found if not line.startswith(FREE)]
        if changed:
            raise UsageError(f"{self.path}: holds a run of another recipe ({'; '.join(changed)})", hint)
        facts = read_json(self.path / _FACTS)
        if facts.get("index_sha256") != shards.sha256:
            raise UsageError(f"{self.path}: holds a run on other data than {shards.location}", hint)
        if facts.get("sample_weights", {}).get("sha256") != (sampling.sha256 if sampling else None):
            raise UsageError(f"{self.path}: holds a run by other sample weights than {recipe.data.weights}", hint)
        if found:
            with atomic_write(self.path / _RECIPE, "w") as file:
                file.write(dump(recipe))


def _start(init: Path | None) -> dict[str, dict[str, str]]:
    """What the run's facts say of the weights in `init`, a file or a run; of what is not there, nothing."""
    path = init / WEIGHTS_FILE if init is not None and init.is_dir() else init
    if path is None or not path.is_file():
        return {}
    return {"init": {"path": str(path), "sha256": sha256_file(path)}}


def fresh_place(path: Path) -> Path:
    """`path` if nothing stands there, else the first free of `path-2`, `path-3`, ..."""
    candidate, number = path, 2
    while candidate.exists() and (not candidate.is_dir() or any(candidate.iterdir())):
        candidate = path.with_name(f"{path.name}-{number}")
        number += 1
    return candidate
