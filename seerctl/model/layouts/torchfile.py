"""Files of `torch.save` from strangers: nothing in them is run, nothing larger than the file is allocated.

torch's `weights_only` loader builds tensors and plain containers alone. Checkpoints of training frameworks also hold
configurations, counters and NumPy scalars: of a few frameworks these become empty containers, unread, so that their
tensors can be had without trusting them. A file that names anything else is refused with that name.
"""

from __future__ import annotations

import pickle
import re
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from seerctl.errors import InputError
from seerctl.files import blame

_MOST_PICKLE = 1 << 26  # bytes of names and shapes: SEER's 10B has a fifth of a megabyte
_ZIP, _HINT = b"PK\x03\x04", "Ask for safetensors, or save its tensors alone"
_SILENT = re.compile(
    r"(numpy|vissl|classy_vision|fvcore|iopath|omegaconf|yacs|timm|fairscale)\.|pathlib\.\w*Path$|argparse\.Namespace$"
    r"|collections\.defaultdict$|builtins\.(list|dict|int|float|str|bool|tuple|object|slice)$"
)
_FAULTS = (pickle.UnpicklingError, RuntimeError, EOFError, ValueError, TypeError, KeyError, IndexError, AttributeError,
           OverflowError, AssertionError, UnicodeError, MemoryError, ImportError)  # fmt: skip


class _Empty:
    """Stands for an object that is not built: called with anything, it is an empty mapping."""

    def __new__(cls, *_: object, **__: object) -> Any:
        return OrderedDict()


class _Blank:
    """Stands for a NumPy object: it takes any state and keeps none."""

    def __init__(self, *_: object) -> None: ...

    def __setstate__(self, _: object) -> None: ...


def load_torch(path: Path) -> Any:
    """What `torch.save` wrote to `path`: tensors memory-mapped, other objects of known frameworks empty.

    Raises:
        InputError: damaged, compressed (a zip bomb), claiming more than it holds, or naming code.
    """
    with blame(path):
        try:
            zipped = _checked_zip(path)
            names = torch.serialization.get_unsafe_globals_in_checkpoint(path) if zipped else []
            _refuse(path, [name for name in names if not _SILENT.match(name)])
            inert = [(_Blank if name.startswith("numpy.") else _Empty, name) for name in names]
            with torch.serialization.safe_globals(inert), warnings.catch_warnings():  # type: ignore[arg-type]
                warnings.filterwarnings("ignore", message="Detected pickle protocol")
                return torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
        except _FAULTS as error:
            wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
            _refuse(path, [wanted[1]] if wanted else [])
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise InputError(f"{path}: not a file of plain tensors ({reason[:200]})", _HINT) from None


def _refuse(path: Path, names: Iterable[str]) -> None:
    for name in sorted(names):
        raise InputError(f"{path}: not a file of plain tensors, it wants to run '{name}'; nothing was run", _HINT)


def _checked_zip(path: Path) -> bool:
    """Whether the file is a zip; one whose members are compressed, overlap or are longer than it is refused."""
    with path.open("rb") as file:
        if file.read(4) != _ZIP:
            return False
        check_zip(file, path.stat().st_size, str(path))
        return True


def check_zip(file: IO[bytes], size: int, where: str) -> zipfile.ZipFile:
    """The zip in `file` of `size` bytes, if nothing in it is compressed and all of it can be there.

    Raises:
        InputError: otherwise.
    """
    try:
        archive = zipfile.ZipFile(file)
        members = archive.infolist()
    except (zipfile.BadZipFile, ValueError, OverflowError, NotImplementedError, EOFError, UnicodeError) as error:
        raise InputError(f"{where}: not a file of plain tensors (not a whole zip: {error})") from None
    if any(member.compress_type != zipfile.ZIP_STORED or member.flag_bits & 1 for member in members):
        raise InputError(f"{where}: its tensors are compressed or encrypted, which torch.save never does")
    if sum(member.file_size for member in members) > size or len({member.filename for member in members}) < len(
        members
    ):
        raise InputError(f"{where}: claims to hold more than its {size:,} bytes")
    if any(member.filename.endswith(".pkl") and member.file_size > _MOST_PICKLE for member in members):
        raise InputError(f"{where}: its list of tensors is too long ({_MOST_PICKLE:,} bytes are allowed)")
    return archive


def tensors_in(state: object, where: str) -> dict[str, Tensor]:
    """The tensors of a mapping by name, dense ones in values of their own.

    Raises:
        InputError: no mapping, or a tensor that claims more values than its storage has.
    """
    if not isinstance(state, dict):
        raise InputError(f"{where}: holds {type(state).__name__} where tensors by name are expected")
    found = {str(key): value for key, value in state.items() if isinstance(value, Tensor)}
    for key, value in found.items():
        if value.layout != torch.strided or value.is_quantized or type(value) not in (Tensor, torch.nn.Parameter):
            raise InputError(f"{where}: '{key}' is no plain dense tensor")
        if value.numel() * value.element_size() > value.untyped_storage().nbytes():
            raise InputError(f"{where}: '{key}' claims more values than its storage holds")
    return found
