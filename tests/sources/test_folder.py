"""Folders and lists: every file once, in one order, whatever it is called and wherever links lead."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from seerctl.errors import InputError
from seerctl.sources.folder import file_item, folder_items
from seerctl.sources.listing import list_items
from seerctl.sources.reasons import Reason


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name in ("b/2.jpg", "a/x/1.jpg", "a.jpg", "B/3.PNG", "a/readme.txt", "c/noext"):
        path = tmp_path / "root" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())
    return tmp_path / "root"


def test_files_come_sorted_by_bytes_with_labels(root: Path) -> None:
    items = list(folder_items(root, True))
    assert [(item.source, item.columns, item.named) for item in items] == [
        ("B/3.PNG", {"label": "B"}, True),
        ("a/readme.txt", {"label": "a"}, False),
        ("a/x/1.jpg", {"label": "x"}, True),
        ("a.jpg", {}, True),
        ("b/2.jpg", {"label": "b"}, True),
        ("c/noext", {"label": "c"}, False),
    ]
    assert [Path(item.path).read_bytes().decode() for item in items] == [item.source for item in items]
    assert [item.size for item in items] == [len(item.source) for item in items]
    assert not any(item.columns for item in folder_items(root, False))


def test_links_are_followed_but_not_in_circles(root: Path) -> None:
    (root / "a" / "up").symlink_to(root)
    (root / "a" / "self").symlink_to(root / "a")
    (root / "b" / "other").symlink_to(root / "c")
    (root / "b" / "file.jpg").symlink_to(root / "a.jpg")
    (root / "b" / "gone.jpg").symlink_to(root / "nowhere")
    (root / "b" / "loop.jpg").symlink_to(root / "b" / "loop.jpg")
    found = {item.source: item.verdict for item in folder_items(root, True)}
    assert not [source for source in found if "up/" in source or "self/" in source]
    assert found["b/other/noext"] is None
    assert found["b/file.jpg"] is None
    for name in ("b/gone.jpg", "b/loop.jpg"):
        assert found[name] is not None
        assert found[name][0] == Reason.UNREADABLE  # type: ignore[index]


def test_odd_names_are_encoded(root: Path) -> None:
    odd = os.fsencode(root) + b"/b/\xff\n%.jpg"
    with open(odd, "wb") as file:  # noqa: PTH123
        file.write(b"odd")
    item = next(item for item in folder_items(root, True) if item.size == 3)
    assert item.source == "b/%FF%0A%25.jpg"
    with open(item.path, "rb") as file:  # noqa: PTH123
        assert file.read() == b"odd"


def test_a_file_by_itself_is_called_by_its_name(root: Path) -> None:
    assert file_item(root / "a" / "x" / "1.jpg").source == "1.jpg"
    with pytest.raises(InputError, match="No such file"):
        file_item(root / "nothing")


@pytest.mark.parametrize("null", [False, True])
def test_lists_keep_their_order(root: Path, null: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(root)
    names = ["b/2.jpg", "./a//x/1.jpg", "a.jpg", str(root / "B" / "3.PNG"), "missing.jpg", "a"]
    text = ("\0".join(names) if null else "\n".join(names) + "\n\r\n").encode()
    items = list(list_items(io.BytesIO(text), True, null=null))
    assert [item.source for item in items[:3]] == ["b/2.jpg", "a/x/1.jpg", "a.jpg"]
    assert [item.columns.get("label") for item in items] == ["b", "x", None, "B", None, None]
    assert items[4].verdict == (Reason.MISSING, "no such file")
    assert Path(items[1].path).read_bytes() == b"a/x/1.jpg"


def test_a_list_with_odd_bytes(tmp_path: Path) -> None:
    names = [b"\xff.jpg", b"new\nline.jpg", b" spaced .jpg"]
    for name in names:
        Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name)).write_bytes(name)
    items = list(list_items(io.BytesIO(b"\0".join(names) + b"\0"), True, null=True, base=str(tmp_path)))
    assert [item.source for item in items] == ["%FF.jpg", "new%0Aline.jpg", " spaced .jpg"]
    assert [item.verdict for item in items] == [None] * 3
