"""Models from one library's file into another's, tensor by tensor: `seerctl convert`.

A safetensors file is written header first, then each tensor in pieces as it is read, so that neither the model nor a
large tensor has to fit in memory. Files of `torch.save` are written from memory.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

import torch

from seerctl import __version__
from seerctl.errors import InputError, UsageError
from seerctl.files import atomic_write, blame, claim, sha256_file
from seerctl.model.layouts import names, resnets
from seerctl.model.layouts.entries import Entry
from seerctl.model.layouts.layout import Layout
from seerctl.model.layouts.source import Source, open_source
from seerctl.model.sizes import Size, family_of, name_of
from seerctl.model.weights import FORMAT

Target = Literal["seerctl", "torchvision", "vissl", "timm", "hf"]
TARGETS: dict[Target, tuple[Layout, ...]] = {  # one for each family of trunks
    "seerctl": (names.SEERCTL, resnets.SEERCTL),
    "torchvision": (names.TORCHVISION, resnets.TORCHVISION),
    "vissl": (names.VISSL, resnets.VISSL),
    "timm": (names.TIMM, resnets.TIMM),
    "hf": (names.HF, resnets.HF),
}
SAFETENSORS, TORCH = ".safetensors", (".pth", ".pt", ".torch", ".bin")
_DTYPES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Converted:
    """What was read and written; `source_sha256` is of the input file, or of the sums of its parts."""

    input: str
    layout: str
    family: str
    size: str
    widths: tuple[int, ...]
    depths: tuple[int, ...]
    group_widths: tuple[int, ...]
    parameters: int
    head: str
    output: str
    to: str
    tensors: int
    bytes: int
    source_sha256: str
    sha256: str


def convert(
    path: Path,
    output: Path,
    to: Target = "seerctl",
    *,
    keep_head: bool = True,
    overwrite: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Converted:
    """Write the model at `path` to `output` in the layout `to`; `progress` is told the bytes done.

    Every value is copied as it stands, in its dtype. The extension of `output` says what kind of file it is.

    Raises:
        UsageError: output that exists or of an unknown kind, or a head that the layout has no place for.
        InputError: a source that is damaged, no trunk of ours, or names code.
        EnvironmentFault: the output could not be written.
    """
    if output.suffix not in (SAFETENSORS, *TORCH):
        raise UsageError(f"{output}: its name says no kind of file", f"End it in {SAFETENSORS} or {', '.join(TORCH)}")
    claim(output, overwrite=overwrite)
    if output.is_dir():
        raise UsageError(f"{output}: is a directory", "Name a file")
    source = open_source(path, unfinished=True)
    if keep_head and source.unknown:
        raise InputError(f"{source.path}: its head is not known: {names.listing(source.unknown)}", "Pass --head drop")
    trunk, head = source.trunk, source.head if keep_head else {}
    trunk_names, head_names = names.rename(trunk, head, _layout(to, source.size))
    digest = source.sha256
    metadata = _metadata(source, head, to, digest)
    renamed = {trunk_names[key]: entry for key, entry in trunk.items()}
    heads = {head_names[key]: entry for key, entry in head.items()}
    if output.suffix == SAFETENSORS:
        prefixes = ("trunk.", "heads.") if to == "vissl" else ("", "")
        flat = {prefixes[0] + key: entry for key, entry in renamed.items()}
        flat |= {prefixes[1] + key: entry for key, entry in heads.items()}
        written = write_safetensors(output, flat, metadata, progress)
    else:
        written = _write_torch(output, renamed, heads, to, progress)
    return Converted(
        input=str(source.path),
        layout=source.layout,
        family=family_of(source.size),
        size=name_of(source.size),
        widths=source.size.widths,
        depths=source.size.depths,
        group_widths=source.size.group_widths,
        parameters=_parameters(trunk) + _parameters(head),
        head=_kind(head),
        output=str(output),
        to=to,
        tensors=len(renamed) + len(heads),
        bytes=output.stat().st_size,
        source_sha256=digest,
        sha256=written,
    )


def _layout(to: Target, size: Size) -> Layout:
    return next(layout for layout in TARGETS[to] if layout.family == family_of(size))


def _metadata(source: Source, head: Mapping[str, Entry], to: Target, digest: str) -> dict[str, str]:
    facts = {
        **(source.metadata if to == "seerctl" else {}),
        "size": name_of(source.size),
        "head": _kind(head),
        "source": source.path.name,
        "source_layout": source.layout,
        "source_sha256": digest,
    }
    # "pt" is what transformers asks of a file before it loads it.
    return {**facts, "converted_by": f"seerctl {__version__}", "format": FORMAT if to == "seerctl" else "pt"}


def _kind(head: Mapping[str, Entry]) -> str:
    if "prototypes.weight" in head:
        return "swav"
    return "classifier" if "clf.0.weight" in head else "other" if head else "none"


def _parameters(part: Mapping[str, Entry]) -> int:
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    return sum(entry.nbytes // entry.dtype.itemsize for key, entry in part.items() if not key.endswith(buffers))


def write_safetensors(
    path: Path, entries: Mapping[str, Entry], metadata: Mapping[str, str], progress: Callable[[int], None] | None = None
) -> str:
    """Write `entries` to a safetensors file, piece by piece, atomically; the SHA-256 of its bytes.

    The same bytes as safetensors' own writer makes: wide dtypes first, then by name, metadata sorted.

    Raises:
        InputError: a dtype that safetensors does not have.
        EnvironmentFault: it could not be written.
    """
    strange = next((key for key, entry in entries.items() if entry.dtype not in _DTYPES), None)
    if strange:
        raise InputError(f"{path}: '{strange}' is {entries[strange].dtype}, which safetensors does not have")
    ordered = sorted(entries.items(), key=lambda pair: (-_rank(pair[1].dtype), pair[0]))
    digest = hashlib.sha256()
    with atomic_write(path) as file:

        def put(data: Any) -> None:
            file.write(data)
            digest.update(data)

        put(_header(ordered, metadata))
        for key, entry in ordered:
            written = 0
            for piece in entry.pieces():
                put(piece.contiguous().view(torch.uint8).numpy().data)
                written += piece.numel() * entry.dtype.itemsize
                if progress is not None:
                    progress(piece.numel() * entry.dtype.itemsize)
            if written != entry.nbytes:
                raise InputError(f"{path}: '{key}' has {written:,} bytes, {entry.nbytes:,} were promised")
    return digest.hexdigest()


def _rank(dtype: torch.dtype) -> int:
    order = ("BOOL", "U8", "I8", "I16", "F16", "BF16", "I32", "F32", "F64", "I64")
    return order.index(_DTYPES[dtype])


def _header(ordered: list[tuple[str, Entry]], metadata: Mapping[str, str]) -> bytes:
    table: dict[str, Any] = {"__metadata__": dict(metadata)}
    start = 0
    for key, entry in ordered:
        end = start + entry.nbytes
        table[key] = {"dtype": _DTYPES[entry.dtype], "shape": list(entry.shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(table, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def _write_torch(
    path: Path, trunk: Mapping[str, Entry], head: Mapping[str, Entry], to: Target,
    progress: Callable[[int], None] | None,
) -> str:  # fmt: skip
    def read(part: Mapping[str, Entry]) -> dict[str, torch.Tensor]:
        found = {}
        for key, entry in part.items():
            found[key] = entry.tensor()
            if progress is not None:
                progress(entry.nbytes)
        return found

    parts = {"trunk": read(trunk), "heads": read(head)}
    state: dict[str, Any] = parts["trunk"] | parts["heads"]
    if to == "vissl":
        state = {"type": "consolidated", "classy_state_dict": {"base_model": {"model": parts}}}
    with atomic_write(path) as file:
        _save(state, file, path)
    return sha256_file(path)


def _save(state: dict[str, Any], file: IO[bytes], path: Path) -> None:
    with blame(path):
        try:
            torch.save(state, file)
        except RuntimeError as error:  # torch hides the system's errors in its own
            if isinstance(error.__context__, OSError):
                raise error.__context__ from None
            raise
