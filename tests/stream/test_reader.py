"""Streams: whole ones come through, anything less is noticed, wherever it was cut or changed."""

from __future__ import annotations

import io
import json
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from seerctl.errors import ExitCode, InputError
from seerctl.stream import ustar
from seerctl.stream.reader import IncompleteStreamError, read_streams
from seerctl.stream.records import FINISH, START, Record, StreamEnd, compact, encode_sample
from tests.streams import meta_of, numbered, stream_of


def read(data: bytes) -> list[Record | StreamEnd]:
    return list(read_streams(io.BytesIO(data), "s.tar"))


COLUMNS = st.dictionaries(
    st.text(min_size=1, max_size=8), st.none() | st.booleans() | st.integers(-9, 9) | st.text(max_size=9), max_size=3
)


@given(st.lists(st.tuples(st.binary(max_size=1100), st.text(max_size=12), COLUMNS), max_size=5))
def test_samples_come_back_as_they_went(samples: list[tuple[bytes, str, dict[str, object]]]) -> None:
    made = [(data, meta_of(data, source, columns)) for data, source, columns in samples]
    *records, end = read(stream_of(made, rejects={"damaged": 2, "ignored": 3}, over_limit=True))
    assert [(record.image, record.meta, record.ext) for record in records] == [(*sample, "jpg") for sample in made]  # type: ignore[union-attr]
    assert isinstance(end, StreamEnd)
    assert (end.samples, end.rejects, end.rejected, end.over_limit) == (
        len(made),
        {"damaged": 2, "ignored": 3},
        2,
        True,
    )
    assert end.stored == sum(len(record.raw) for record in records)  # type: ignore[union-attr]


def test_a_cut_at_any_block_and_anywhere_is_noticed() -> None:
    whole = stream_of(numbered(range(6)))
    assert len(read(whole)) == 7
    cuts = {*range(0, len(whole), ustar.BLOCK), *random.Random(0).sample(range(len(whole)), 300)}
    for cut in sorted(cuts):
        with pytest.raises(IncompleteStreamError):
            read(whole[:cut])


def test_any_changed_bit_is_noticed() -> None:
    whole = bytearray(stream_of(numbered(range(3))))
    for bit in random.Random(1).sample(range(8 * len(whole)), 3000):
        whole[bit // 8] ^= 1 << bit % 8
        with pytest.raises(InputError) as caught:
            read(bytes(whole))
        assert caught.value.exit_code == ExitCode.INPUT
        whole[bit // 8] ^= 1 << bit % 8
    assert len(read(bytes(whole))) == 4


def test_samples_out_of_order_lost_or_doubled_are_noticed() -> None:
    first, second, third = (encode_sample(data, "jpg", meta)[0] for data, meta in numbered(range(3)))
    whole = stream_of(numbered(range(3)))
    assert whole.count(first + second + third) == 1
    for others in (second + first + third, first + third, first + second + third + third):
        with pytest.raises(InputError, match="changed on its way"):
            read(whole.replace(first + second + third, others))


def test_streams_may_follow_each_other() -> None:
    one, two = stream_of(numbered(range(2))), stream_of(numbered(range(2, 5)))
    kinds = [type(item).__name__ for item in read(one + two)]
    assert kinds == ["Record"] * 2 + ["StreamEnd"] + ["Record"] * 3 + ["StreamEnd"]
    with pytest.raises(IncompleteStreamError, match="ends without its end marker, after 3 samples"):
        read(one + two[: -len(ustar.END) - 2 * ustar.BLOCK])


def test_a_new_start_before_the_end_is_noticed() -> None:
    one = stream_of(numbered(range(2)))
    before_end = one.index(FINISH.encode())
    with pytest.raises(IncompleteStreamError, match="a new stream starts before the end marker of the one before"):
        read(one[:before_end] + one)


@pytest.mark.parametrize(
    "data", [b"", b"x", b"<html>nothing here</html>" * 100, ustar.END, ustar.member("picture.jpg", b"1") + ustar.END]
)
def test_what_is_no_stream_is_refused(data: bytes) -> None:
    with pytest.raises(InputError, match=r"start marker|not a stream"):
        read(data)


def test_another_schema_is_refused() -> None:
    start = ustar.member(START, compact({"schema": "seer-stream-9", "version": "9", "options": {}}))
    with pytest.raises(InputError, match="seer-stream-9"):
        read(start + ustar.END)


def test_an_end_marker_cannot_be_rewritten() -> None:
    whole = stream_of(numbered(range(2)), rejects={"damaged": 5}, over_limit=True)
    at = whole.index(FINISH.encode())
    name, text, _ = ustar.MemberReader(io.BytesIO(whole[at:]), "s.tar").read_member()  # type: ignore[misc]
    claims = json.loads(text)
    for change in ({"over_limit": False}, {"rejects": {}}, {"samples": 3}, {"sha256": "0" * 64}, {"extra": 1}):
        forged = whole[:at] + ustar.member(name, compact(claims | change)) + ustar.END
        with pytest.raises(InputError):
            read(forged)
    with pytest.raises(InputError, match="changed on its way"):
        read(whole[:at] + ustar.member(name, json.dumps(claims).encode()) + ustar.END)


@pytest.mark.parametrize(
    "change",
    [{"sha256": 5}, {"columns": []}, {"width": "8"}, {"width": True}, {"format": None}, {"source": 1}],
)
def test_a_description_of_wrong_types_is_refused(change: dict[str, object]) -> None:
    data = b"picture"
    meta = meta_of(data, "a.jpg")
    name = encode_sample(data, "jpg", meta)[0][:25].decode()
    raw = ustar.member(f"{name}.jpg", data) + ustar.member(f"{name}.json", compact(meta | change))
    start = stream_of([])[: 2 * ustar.BLOCK]
    with pytest.raises(InputError, match="wrong type"):
        read(start + raw)


@pytest.mark.parametrize("second", ["0123456789abcdef-01234567.json", None])
def test_a_picture_without_its_json_is_refused(second: str | None) -> None:
    start = stream_of([])[: 2 * ustar.BLOCK]
    raw = encode_sample(b"picture", "jpg", meta_of(b"picture", "a.jpg"))[0][: 2 * ustar.BLOCK]
    with pytest.raises(InputError, match="followed by" if second else "ends without"):
        read(start + raw + (ustar.member(second, b"{}") if second else b""))
