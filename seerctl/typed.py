"""TOML from strangers into frozen dataclasses: unknown keys and wrong types are errors that name the key."""

from __future__ import annotations

import dataclasses
import tomllib
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union, get_args, get_origin

from seerctl.errors import UsageError, did_you_mean
from seerctl.files import blame

T = TypeVar("T")


def read_toml(path: Path) -> dict[str, Any]:
    """The table in `path`.

    Raises:
        UsageError: no such file, not UTF-8, or not TOML (the message holds line and column).
    """
    with blame(path):
        try:
            return tomllib.loads(path.read_text(encoding="utf-8"))
        except (FileNotFoundError, IsADirectoryError):
            raise UsageError(f"{path}: no such file") from None
        except (UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as error:
            raise UsageError(f"{path}: not valid TOML: {error}") from None


def build(cls: type[T], table: Mapping[str, Any], where: str, prefix: str = "") -> T:
    """An instance of the dataclass `cls` from `table`; absent keys take the field's default.

    `where` names the source in messages; `prefix` is the dotted path of `table` inside it.

    Raises:
        UsageError: an unknown key (with the closest known one), a wrong type, a missing key, or what `cls` refuses.
    """
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    values: dict[str, Any] = {}
    for key, value in table.items():
        if key not in fields:
            raise UsageError(f"{where}: unknown key '{prefix}{key}'", did_you_mean(key, fields))
        values[key] = convert(hints[key], value, where, prefix + key)
    for name, field in fields.items():
        no_default = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        if no_default and name not in values:
            raise UsageError(f"{where}: '{prefix}{name}' is missing", "Add it to the file or pass it with --set")
    try:
        return cls(**values)
    except ValueError as error:  # what a dataclass says in __post_init__
        raise UsageError(f"{where}: {prefix.rstrip('.') + ': ' if prefix else ''}{error}") from None


def convert(hint: Any, value: Any, where: str, key: str) -> Any:
    """`value` checked against the type `hint`; lists become tuples, tables dataclasses, integers floats where asked."""
    origin, args = get_origin(hint), get_args(hint)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if isinstance(value, hint):  # built already
            return value
        if not isinstance(value, Mapping):
            raise _wrong(where, key, "a table", value)
        return build(hint, value, where, key + ".")
    if origin is Literal:
        if value not in args or isinstance(value, bool) != any(isinstance(arg, bool) and arg == value for arg in args):
            names = [str(arg) for arg in args]
            raise UsageError(f"{where}: '{key}' is {value!r}", did_you_mean(str(value), names))
        return value
    if origin in (Union, types.UnionType):
        return _convert_union(args, value, where, key)
    if origin is tuple:
        return _convert_tuple(args, value, where, key)
    if origin in (dict, Mapping) or (isinstance(origin, type) and issubclass(origin, Mapping)):
        if not isinstance(value, Mapping):
            raise _wrong(where, key, "a table", value)
        return {str(name): convert(args[1], item, where, f"{key}.{name}") for name, item in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint:
        raise _wrong(where, key, hint.__name__, value)
    return value


def _convert_union(args: tuple[Any, ...], value: Any, where: str, key: str) -> Any:
    failure: UsageError | None = None
    for arg in args:
        if arg is type(None):
            if value is None:
                return None
            continue
        try:
            return convert(arg, value, where, key)
        except UsageError as error:
            failure = error
    raise failure or _wrong(where, key, " or ".join(str(arg) for arg in args), value)


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str, key: str) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise _wrong(where, key, "a list", value)
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(convert(args[0], item, where, f"{key}[{index}]") for index, item in enumerate(value))
    if len(args) != len(value):
        raise UsageError(f"{where}: '{key}' needs {len(args)} values, not {len(value)}")
    return tuple(
        convert(arg, item, where, f"{key}[{index}]") for index, (arg, item) in enumerate(zip(args, value, strict=True))
    )


def _wrong(where: str, key: str, wanted: str, value: Any) -> UsageError:
    return UsageError(f"{where}: '{key}' is {value!r}", f"It must be {wanted}")


def plain(value: Any) -> Any:
    """A dataclass as nested dicts and lists, without keys that are None: what TOML and JSON can hold."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        items = {field.name: plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return {name: item for name, item in items.items() if item is not None}
    if isinstance(value, Mapping):
        return {str(name): plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    return value
