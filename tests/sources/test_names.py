"""Sources as text."""

from __future__ import annotations

import os
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerctl.sources.names import clean, label_of, normal


@given(st.binary(max_size=40))
def test_clean_names_are_printable_and_can_be_undone(raw: bytes) -> None:
    text = clean(os.fsdecode(raw))
    assert text.isprintable()
    text.encode()
    assert unquote_to_bytes(text) == raw


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ("a/b c.jpg", "a/b c.jpg"),
        ("Bär/日本.png", "Bär/日本.png"),
        ("100%.jpg", "100%25.jpg"),
        ("a\nb\x1b[31m", "a%0Ab%1B[31m"),
        ("\udcff.jpg", "%FF.jpg"),
        ("a\u202eb", "a%E2%80%AEb"),
    ],
)
def test_only_odd_bytes_are_encoded(raw: str, text: str) -> None:
    assert clean(raw) == text


@pytest.mark.parametrize(
    ("path", "same"),
    [
        ("./a//b/./c.jpg", "a/b/c.jpg"),
        ("/x/./y", "/x/y"),
        ("../a", "../a"),
        ("a", "a"),
        ("a/..b", "a/..b"),
        ("a/", "a"),
    ],
)
def test_normal_paths(path: str, same: str) -> None:
    assert normal(path) == same


@pytest.mark.parametrize(
    ("source", "label"), [("a.jpg", None), ("cat/a.jpg", "cat"), ("train/cat/a.jpg", "cat"), ("../a.jpg", None)]
)
def test_labels_are_the_last_directory(source: str, label: str | None) -> None:
    assert label_of(source) == label
