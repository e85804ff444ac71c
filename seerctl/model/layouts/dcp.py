"""torch's distributed checkpoints (`RUN/checkpoints/step-*`) read tensor by tensor, without a process group.

`.metadata` is a pickle: its records are read as plain data by an unpickler that knows their names and calls nothing.
Each tensor lies in chunks, each chunk a small zip of `torch.save` inside a `.distcp` file, whose values are read in
pieces straight from where they stand: a tensor larger than memory can be copied.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import IO, Any, ClassVar

import torch
from torch import Tensor

from seerctl.errors import InputError
from seerctl.files import blame, read_json, sha256_file
from seerctl.model.layouts.entries import PIECE_BYTES, Entry, flat_pieces
from seerctl.model.layouts.torchfile import check_zip

METADATA = ".metadata"
_RECORDS = {
    "torch.distributed.checkpoint.metadata": {
        "Metadata", "TensorStorageMetadata", "BytesStorageMetadata", "TensorProperties", "ChunkStorageMetadata",
        "MetadataIndex", "StorageMeta", "_MEM_FORMAT_ENCODING",
    },
    "torch.distributed.checkpoint.filesystem": {"_StorageInfo"},
    "torch.serialization": {"_get_layout"},
    "pathlib": {"Path", "PosixPath", "PurePosixPath", "WindowsPath", "PureWindowsPath"},
}  # fmt: skip
_NEVER = {*pickle.BYTEARRAY8, *pickle.EXT1, *pickle.EXT2, *pickle.EXT4, *pickle.INST, *pickle.OBJ, *pickle.NEXT_BUFFER}
_FAULTS = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
           OverflowError, MemoryError, AssertionError, struct.error)  # fmt: skip


class _Record:
    """One pickled record: what it was called with, and its state."""

    def __init__(self, *arguments: object) -> None:
        self.arguments = arguments
        self.state: Any = {}

    def __setstate__(self, state: object) -> None:
        self.state = state


class _Names(pickle._Unpickler):
    """Reads `.metadata`; Python's own unpickler, since C's allocates whatever a file claims."""

    dispatch: ClassVar[dict[int, Callable[..., None]]] = {
        code: step for code, step in pickle._Unpickler.dispatch.items() if code not in _NEVER
    }

    def find_class(self, module: str, name: str) -> Any:
        if name in _RECORDS.get(module, ()):
            return type(name, (_Record,), {})
        if (module, name) == ("torch", "Size"):
            return tuple
        dtype = getattr(torch, name, None) if module == "torch" else None
        if isinstance(dtype, torch.dtype):
            return dtype
        raise pickle.UnpicklingError(f"it wants to run '{module}.{name}'; nothing was run")

    stack: list[Any]

    def load_build(self) -> None:
        if not isinstance(self.stack[-2], _Record):
            raise pickle.UnpicklingError("it sets attributes of something that is no record")
        pickle._Unpickler.load_build(self)  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build


@dataclass(frozen=True, slots=True)
class _Chunk:
    """Where a part of a tensor stands: its corner and shape, and the bytes that hold it."""

    corner: tuple[int, ...]
    shape: tuple[int, ...]
    file: Path
    offset: int
    length: int


def is_checkpoint(path: Path) -> bool:
    """Whether `path` is the directory of one distributed checkpoint."""
    return (path / METADATA).is_file()


def read_checkpoint(path: Path) -> dict[str, Entry]:
    """Every tensor of the checkpoint at `path`, unread.

    Raises:
        InputError: damaged, incomplete, or naming code.
    """
    with blame(path):
        try:
            listed = _Names(io.BytesIO((path / METADATA).read_bytes())).load().state
            places = _places(listed["storage_data"], path)
            return {
                str(name): _entry(str(name), record.state, places, path)
                for name, record in listed["state_dict_metadata"].items()
                if type(record).__name__ == "TensorStorageMetadata"
            }
        except _FAULTS as error:
            reason = str(error) or type(error).__name__
            raise InputError(f"{path / METADATA}: is no list of a distributed checkpoint ({reason[:200]})") from None


def _places(storage: Mapping[Any, Any], path: Path) -> dict[tuple[str, tuple[int, ...]], tuple[Path, int, int]]:
    places = {}
    for index, record in storage.items():
        if record.state.get("transform_descriptors"):
            raise InputError(f"{path}: its files are compressed or encrypted ({record.state['transform_descriptors']})")
        file = path / PurePath(record.state["relative_path"]).name
        where = file, int(record.state["offset"]), int(record.state["length"])
        places[str(index.state["fqn"]), tuple(index.state.get("offset") or ())] = where
    return places


def _entry(
    name: str, state: Mapping[str, Any], places: Mapping[tuple[str, tuple[int, ...]], tuple[Path, int, int]], path: Path
) -> Entry:
    dtype, shape = state["properties"].state[0], tuple(int(side) for side in state["size"])
    chunks = []
    for record in state["chunks"]:
        corner, size = tuple(record.state["offsets"]), tuple(int(side) for side in record.state["sizes"])
        chunks.append(_Chunk(corner, size, *places[name, corner]))
    chunks = sorted((chunk for chunk in chunks if math.prod(chunk.shape)), key=lambda chunk: chunk.corner)
    if not isinstance(dtype, torch.dtype) or sum(math.prod(chunk.shape) for chunk in chunks) != math.prod(shape):
        raise InputError(f"{path}: the chunks of '{name}' are not the whole tensor {list(shape)}")
    # A tensor larger than the files that hold it is a claim, not a tensor.
    if any(math.prod(chunk.shape) * dtype.itemsize > chunk.length for chunk in chunks):
        raise InputError(f"{path}: '{name}' claims more than its files hold")
    return Entry(shape, dtype, lambda: _pieces(chunks, shape, dtype))


def _pieces(chunks: list[_Chunk], shape: tuple[int, ...], dtype: torch.dtype) -> Iterator[Tensor]:
    row = 0
    for chunk in chunks:  # rows on end, as FSDP cuts them: each chunk goes out as it comes in
        if chunk.shape[1:] != shape[1:] or (shape and chunk.corner != (row, *[0] * (len(shape) - 1))):
            yield from flat_pieces(_assembled(chunks, shape, dtype))
            return
        row += chunk.shape[0] if shape else 0
    for chunk in chunks:
        yield from _values(chunk, dtype)


def _assembled(chunks: list[_Chunk], shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    whole, filled = torch.empty(shape, dtype=dtype), torch.zeros(shape, dtype=torch.bool)
    for chunk in chunks:
        region = tuple(slice(low, low + side) for low, side in zip(chunk.corner, chunk.shape, strict=True))
        values = torch.cat(list(_values(chunk, dtype)))
        try:
            whole[region] = values.view(chunk.shape)
        except RuntimeError:
            raise InputError(f"{chunk.file}: a chunk lies outside its tensor") from None
        filled[region] = True
    if not filled.all():
        raise InputError(f"{chunks[0].file}: chunks of a tensor overlap")
    return whole


def _values(chunk: _Chunk, dtype: torch.dtype) -> Iterator[Tensor]:
    """The values of one chunk, flat, in pieces."""
    where = f"{chunk.file}: the tensor at byte {chunk.offset:,}"
    with blame(chunk.file):
        try:
            with chunk.file.open("rb") as file:
                view = _View(file, chunk.offset, chunk.length)
                archive = check_zip(view, chunk.length, where)
                view.seek(0)
                like = torch.load(view, map_location="meta", weights_only=True)
                if type(like) is not Tensor or tuple(like.shape) != chunk.shape or like.dtype != dtype:
                    raise InputError(f"{where} is not the one that the checkpoint's list describes")
                (data,) = [entry for entry in archive.infolist() if entry.filename.endswith("/data/0")]
                if like.is_contiguous() and like.storage_offset() == 0:
                    yield from _stream(view, data.header_offset, like.numel(), dtype)
                    return
                view.seek(0)
                yield from flat_pieces(torch.load(view, map_location="cpu", weights_only=True))
        except FileNotFoundError:
            raise InputError(f"{chunk.file}: no such file, the checkpoint is not whole") from None
        except _FAULTS as error:
            raise InputError(f"{where} is damaged ({(str(error) or type(error).__name__).splitlines()[0]})") from None


def _stream(view: IO[bytes], header: int, count: int, dtype: torch.dtype) -> Iterator[Tensor]:
    view.seek(header)
    name, extra = struct.unpack("<26x2H", view.read(30))  # a zip member's local header: its name and padding follow
    view.seek(header + 30 + name + extra)
    while count > 0:
        part = min(count, PIECE_BYTES // dtype.itemsize)
        values = torch.empty(part, dtype=dtype)
        if view.readinto(values.view(torch.uint8).numpy().data) != part * dtype.itemsize:  # type: ignore[attr-defined]
            raise EOFError("it ends early")
        yield values
        count -= part


class _View(io.RawIOBase, IO[bytes]):
    """A stretch of a file, as a file."""

    def __init__(self, file: IO[bytes], offset: int, length: int) -> None:
        super().__init__()
        self._file, self._offset, self._length, self._at = file, offset, length, 0

    def seekable(self) -> bool:
        return True

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        if start + offset < 0:
            raise ValueError("before the start of the file")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._offset + self._at)
        view = memoryview(buffer).cast("B")
        got: int = self._file.readinto(view[: max(0, self._length - self._at)])  # type: ignore[attr-defined]
        self._at += got
        return got


def sums_of(path: Path) -> dict[str, str]:
    """SHA-256 of every file of the checkpoint at `path`, checked against the sums that it was written with.

    Raises:
        InputError: a file is not what was written.
    """
    files = sorted(file for file in path.iterdir() if file.is_file() and file.name != "sums.json")
    sums = {file.name: sha256_file(file) for file in files}
    if (path / "sums.json").is_file():
        written = read_json(path / "sums.json")
        for name, digest in written.items() if isinstance(written, dict) else ():
            if sums.get(name) != digest:
                raise InputError(f"{path / name}: is {'not what was written' if name in sums else 'missing'}")
    return sums
