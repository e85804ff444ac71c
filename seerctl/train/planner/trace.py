"""One training step of one rank of any number, run on tensors without data: the code is the training's own.

Parameters, crops and collectives are fake (torch's FakeTensorMode and its fake process group), so that a rank of 496
needs neither the other 495 nor memory; what training would allocate, compute and send is counted on the way.
"""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from seerctl.errors import UsageError
from seerctl.model.heads import Model
from seerctl.recipe import Recipe
from seerctl.train import recomputing
from seerctl.train.data import CropBatch
from seerctl.train.objectives import build_objective
from seerctl.train.optim import build_optimizer, global_norm, scale_gradients
from seerctl.train.parallel import plan_model
from seerctl.train.planner import ledger as kinds
from seerctl.train.planner.ledger import Ledger, Moment
from seerctl.train.planner.operations import Collective, Operations
from seerctl.train.planner.recompute import Chunk
from seerctl.train.steps import check_batch
from seerctl.train.world import World


@dataclass(frozen=True, slots=True)
class Traced:
    """What one step of one rank takes: bytes at the moment of most memory, operations, collectives.

    `host`: the most bytes of activations that are in the memory of the host.
    """

    peak: Moment
    timeline: tuple[Moment, ...]
    flops: int
    collectives: tuple[Collective, ...]
    trunk: int
    head: int
    host: int = 0


def trace(
    recipe: Recipe,
    nodes: int,
    per_node: int,
    classes: int = 0,
    *,
    accelerated: bool = True,
    chunks: Sequence[Chunk] | None = None,
) -> Traced:
    """Trace one step of `recipe` on the first of `nodes` * `per_node` GPUs; nothing is allocated.

    `classes`: of a supervised recipe's data. `accelerated`: false for processes that compute on CPUs. `chunks`: of
    blocks to recompute, as in `plan_model`.

    Raises:
        UsageError: the batch does not divide over the ranks, or a process group exists in this process.
    """
    ranks = nodes * per_node
    check_batch(recipe.data.batch, ranks, recipe.parallel.accumulate)
    if accelerated and recipe.parallel.precision == "auto":
        recipe = replace(recipe, parallel=replace(recipe.parallel, precision="bf16"))
    world = World(rank=0, size=ranks, local_rank=0, local_size=per_node, device=torch.device("cpu"))
    book, operations, host = Ledger(), Operations(), _Host()
    book.clock = lambda: float(operations.flops)
    with _fake_group(ranks), _quiet():
        # Before the fake mode: it makes splitting parameters by hundreds of ranks a hundred times slower.
        model = plan_model(recipe, world, classes, accelerated=accelerated, chunks=chunks)
        with FakeTensorMode(allow_non_fake_inputs=True), host if accelerated else contextlib.nullcontext():
            _step(recipe, world, model, book, operations, on_host=accelerated)
        params = [sum(p.numel() for p in part.parameters()) for part in (model.trunk, model.head)]
    return Traced(
        book.peak(), tuple(book.timeline()), operations.flops, tuple(operations.collectives()),
        params[0], params[1], host.most,
    )  # fmt: skip


def _step(recipe: Recipe, world: World, model: Model, book: Ledger, operations: Operations, *, on_host: bool) -> None:
    """The step itself; `on_host`: the loader's crops are in the memory of the host, not in the GPU's."""
    model.to_empty(device=world.device)
    model.train()
    optimizer = build_optimizer(model, recipe.optim)
    objective = build_objective(recipe, world)
    batch = _batch(recipe, recipe.data.batch // world.size)
    _note_state(book, model, optimizer, [*objective.state().values(), *([] if on_host else batch.crops)])
    with _Watch(book, operations), book.watch_resizing(), _saved(book), _constant_steps(), _unmarked():
        crops, labels = batch.on(world.device, channels_last=recipe.parallel.channels_last)
        for kind in crops:
            book.note(kind, kinds.CROPS)
        objective.accumulate(model, crops, len(batch.keys), True, recipe.loss.freeze_prototypes, labels)
        for parameter in model.parameters():
            if parameter.grad is not None:
                book.note(parameter.grad, kinds.GRADIENTS)
        norm = global_norm(model)
        if recipe.optim.clip_norm:
            scale_gradients(model, (recipe.optim.clip_norm / norm).clamp(max=1.0))
        optimizer.step()
        optimizer.zero_grad()
        objective.after_update(model)


def _batch(recipe: Recipe, rows: int) -> CropBatch:
    """A rank's part of a step, as the loader hands it over; crops that the device finishes, as it has finished them.

    What finishing takes is gone before the model begins.
    """
    crops = [torch.empty(kind.count * rows, 3, kind.size, kind.size) for kind in recipe.augment.crops]
    labels = torch.zeros(rows, dtype=torch.int64) if recipe.loss.objective == "supervised" else None
    return CropBatch(0, 0, [""] * rows, crops, labels)


def _note_state(book: Ledger, model: nn.Module, optimizer: torch.optim.Optimizer, inputs: list[Tensor]) -> None:
    for parameter in model.parameters():
        book.note(parameter, kinds.PARAMETERS)
    for buffer in model.buffers():
        book.note(buffer, kinds.BUFFERS)
    for state in optimizer.state.values():
        for value in state.values():
            book.note(value, kinds.OPTIMIZER)
    for tensor in inputs:
        book.note(tensor, kinds.CROPS)


class _Watch(TorchDispatchMode):
    """Shows every operator to the ledger and to the counts."""

    def __init__(self, book: Ledger, operations: Operations) -> None:
        super().__init__()
        self.book, self.operations = book, operations

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                self.book.note(tensor)
        self.operations.saw(func, args, kwargs, result)
        _file(self.book, func, args, kwargs, result)
        return result


def _file(book: Ledger, func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> None:
    """What FSDP's own operators and the collectives say of their tensors."""
    name = func._opname
    if name == "split_with_sizes_copy":  # gathered bytes -> whole parameters
        for tensor in kwargs.get("out", ()):
            book.note(tensor, kinds.GATHERED)
    elif name == "chunk_cat":  # whole gradients -> what is reduced
        for tensor in args[0]:
            book.note(tensor, kinds.UNREDUCED)
        book.note(kwargs["out"], kinds.COMMUNICATION)
    elif func.namespace == "c10d" or name == "all_gather_copy_in":
        for tensor in tree_iter((args, kwargs, result)):
            if isinstance(tensor, Tensor):
                book.note(tensor, kinds.COMMUNICATION)


class _Host(contextlib.ExitStack):
    """While it is entered, activations that go to the host are no tensors of the GPU's, and are counted here."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self._now = 0

    def __enter__(self) -> _Host:
        self.enter_context(mock.patch.object(recomputing, "to_host", self._take))
        self.enter_context(mock.patch.object(recomputing, "from_host", self._give))
        return self

    def _take(self, tensor: Tensor) -> tuple[torch.device, Tensor]:
        self._now += tensor.numel() * tensor.element_size()
        self.most = max(self.most, self._now)
        return tensor.device, tensor.to("meta")

    def _give(self, packed: tuple[torch.device, Tensor]) -> Tensor:
        self._now -= packed[1].numel() * packed[1].element_size()
        return torch.empty_like(packed[1], device=packed[0])


def _saved(book: Ledger) -> contextlib.AbstractContextManager[Any]:
    def pack(tensor: Tensor) -> Tensor:
        book.note(tensor, kinds.ACTIVATIONS)
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


@contextlib.contextmanager
def _fake_group(ranks: int) -> Iterator[None]:
    """A process group of the real size whose other members do not exist."""
    # The backend "fake" is part of every torch, but is registered by this module only.
    from torch.testing._internal.distributed.fake_pg import FakeStore  # noqa: PLC0415

    if dist.is_initialized():
        raise UsageError("a plan needs a process of its own, this one belongs to a process group", "Run it apart")
    dist.init_process_group("fake", store=FakeStore(), rank=0, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """FSDP calls collectives by names that the newest torch calls old."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        yield


def _constant_steps() -> contextlib.AbstractContextManager[Any]:
    """AdamW on a CPU reads its count of steps off a tensor, which here holds none; any number gives the same shapes."""
    return mock.patch("torch.optim.adam._get_value", lambda value: 1.0 if isinstance(value, Tensor) else value)


def _unmarked() -> contextlib.AbstractContextManager[Any]:
    """FSDP marks what it does for profilers, by operators that would take a tenth of a trace."""
    marks = torch.autograd.profiler.record_function
    return mock.patch.multiple(marks, __enter__=lambda mark: mark, __exit__=lambda mark, *_: None)
