"""Whatever a parser is given, it understands it or says in one sentence why not: nothing else is ever raised."""

import contextlib
import json
import os
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from storage_kit import Disk

from bag import render
from bag.errors import BagError, BagFormatError, UsageError
from bag.expression import FUNCTIONS, Expression, parse_where
from bag.storage.chunks import chunks_of
from bag.storage.complete import completed
from bag.storage.damage import reading
from bag.storage.definitions import parse_definitions
from bag.storage.filters import decoder_of, parse_compression
from bag.storage.layout import CHECKSUM_DTYPE, path_component, topic_path
from bag.storage.redo import apply_journal
from bag.storage.tail import decode_batch
from bag.units import parse_duration, parse_rate, parse_size
from bag.when import Timeline, parse_moment
from cortex.codec import decode_values, encode_values
from cortex.errors import CodecError

MORE = int(os.environ.get("CORTEX_BAG_FUZZ", "1"))
EXAMPLES = {
    "definitions": 500,
    "checksums": 300,
    "batches": 600,
    "journals": 300,
    "metadata": 800,
    "expressions": 1500,
    "moments": 1000,
    "numbers": 800,
    "names": 200,
    "packed": 200,
}
PARSED = sum(EXAMPLES.values()) * MORE


def examples(kind):
    return settings(max_examples=EXAMPLES[kind] * MORE, derandomize=MORE == 1)


json_values = st.sampled_from(
    [None, True, -1, 0, 3, 2**40, 2**70, 1.5, "", "/a", "0x7", "zz", [], [1], [[]], [-1, 2**62], ["a"], {}, {"a": 1}]
)
GOOD = (
    {"topic": {"id": 0, "name": "/a", "path": "/a"}},
    {"channel": {"id": 0, "topic": "/a", "type": "A", "fingerprint": "0x7", "node": "n", "address": "ipc:///a"}},
    {"schema": {"fingerprint": "0x7", "type": "A", "module": "m", "qualname": "A", "fields": [["x", "int"]]}},
    {"column": {"id": 16, "topic": 0, "path": "/a/_index", "kind": "index"}},
    {"column": {"id": 18, "topic": 0, "path": "/a/x", "kind": "fixed", "name": "x", "dtype": "<f8", "shape": [3]}},
    {"layout": {"id": 19, "topic": 0, "fingerprint": "0x7", "columns": [18]}},
    {"mark": {"text": "here", "log_time_ns": 1}},
    {"expected": {"topic": 0, "channel": 0, "sequence": 7}},
)
KEYS = sorted({key for line in GOOD for values in line.values() for key in values})
DTYPES = st.sampled_from(["<f8", "|O", "|S0", "|V8", "<M8[ns]", "i", "f8,i4", "__import__('os')", "<U3", ">c32", ""])


@st.composite
def _definition_lines(draw):
    lines = []
    for good in draw(st.lists(st.sampled_from(GOOD), max_size=6)):
        ((kind, values),) = good.items()
        changes = draw(st.dictionaries(st.sampled_from(KEYS), json_values | DTYPES, max_size=2))
        lines.append(json.dumps({kind: {**values, **changes}}).encode())
    lines += draw(
        st.lists(json_values.map(lambda value: json.dumps(value).encode()) | st.binary(max_size=30), max_size=2)
    )
    return lines


@examples("definitions")
@given(lines=_definition_lines())
def test_definitions_are_understood_or_refused(lines):
    with contextlib.suppress(BagFormatError):
        parse_definitions(b"\n".join(lines), "x.h5")
    # what recover makes of them can always be read, or is refused alike
    with contextlib.suppress(BagFormatError):
        parse_definitions(b"".join(completed(lines)), "x.h5")


@examples("checksums")
@given(data=st.binary(max_size=10 * CHECKSUM_DTYPE.itemsize), size=st.integers(1, 2**40))
def test_whatever_checksums_say_chunks_begin_inside_the_file(data, size):
    rows = np.frombuffer(data, CHECKSUM_DTYPE, len(data) // CHECKSUM_DTYPE.itemsize)
    for chunks in chunks_of(rows, size).values():
        assert all(chunk.offset < size and chunk.size > 0 for chunk in chunks.values())


@examples("batches")
@given(payload=st.binary(max_size=120), head=st.none() | st.tuples(st.integers(0, 3), st.integers(0, 3)))
def test_a_batch_is_decoded_or_refused(payload, head):
    if head is not None:
        payload = struct.pack("<III", 0, *head) + payload
    with contextlib.suppress(ValueError, struct.error):
        rows = decode_batch(payload, b"/t", lambda _offset, size: bytes(min(size, 100)))
        assert all(frames[0] == b"/t" for _wall, _mono, frames in rows)


@examples("journals")
@given(content=st.binary(max_size=700), magic=st.integers(0, 8))
def test_a_journal_that_is_garbage_changes_nothing(tmp_path_factory, content, magic):
    directory = tmp_path_factory.getbasetemp()
    disk = Disk(keep=False)
    data, journal = disk(directory / "data", create=True), disk(directory / "journal", create=True)
    data.write_at(0, b"data")
    journal.truncate(0)
    journal.write_at(0, b"CXJRNL01"[:magic] + content)
    assert apply_journal(data, journal) is False
    assert (data.read_at(0, 100), journal.size()) == (b"data", 0)
    data.close()
    journal.close()


@examples("metadata")
@given(
    at=st.integers(0, 2**16),
    new=st.binary(max_size=6),
    buffers=st.lists(st.binary(max_size=40), max_size=3),
    whole=st.none() | st.binary(max_size=40),
)
def test_metadata_is_decoded_or_refused(at, new, buffers, whole):
    values = [1.5, np.arange(6.0), {"a": np.zeros((2, 0), "<M8[ns]"), "b": [1, "x"]}, b"bytes", np.array(["a"])]
    metadata, good = encode_values(values)
    at %= len(metadata)
    damaged = bytes(metadata[:at]) + new + bytes(metadata[at + len(new) :]) if whole is None else whole
    for parts in (buffers, good):
        with contextlib.suppress(CodecError):
            decode_values(damaged, parts)


FIELDS = {
    "x": 3.5,
    "n": 7,
    "text": "abc",
    "d": {"x": 1, "y": np.arange(3)},
    "a": np.arange(12.0).reshape(3, 4),
    "e": [],
}
WORDS = [
    *FIELDS,
    *FUNCTIONS,
    "pi",
    "none",
    "and",
    "or",
    "not",
    "in",
    "is",
    "if",
    "else",
    "lambda",
    "import",
    "__class__",
]
WORDS += [
    "+",
    "-",
    "*",
    "/",
    "//",
    "%",
    "**",
    "<",
    "==",
    "!=",
    "(",
    ")",
    "[",
    "]",
    ".",
    ",",
    ":",
    "'a'",
    "1",
    "1e9",
    "2**70",
]
WORDS += [
    "9" * 30,
    "x.__class__",
    "a[0]",
    "a[:,1]",
    "d['x']",
    "norm(a)",
    "()",
    "[]",
    "{}",
    "@",
    "~",
    "&",
    ":=",
    "f'{x}'",
    "\\",
]


@examples("expressions")
@given(text=st.lists(st.sampled_from(WORDS), max_size=12).map(" ".join) | st.text(max_size=40))
def test_an_expression_is_answered_or_refused(text):
    with contextlib.suppress(UsageError):
        parse_where(text)
    with contextlib.suppress(UsageError):
        assert Expression(text).holds(FIELDS) in (True, False)


@pytest.mark.parametrize(
    "text", ["(" * 5000, "-" * 1999 + "1", "x" + ".x" * 900, "[" * 900 + "]" * 900, "9**9**9**9 > 1"]
)
def test_an_expression_cannot_exhaust_the_machine(text):
    with contextlib.suppress(UsageError):
        assert Expression(text).holds(FIELDS) in (True, False)


MOMENTS = [
    "12.5",
    "-5",
    "-",
    "",
    "@",
    "@a",
    "@a+2s",
    "@a-x",
    "@a+",
    "2026-01-31",
    "2026-01-31T12:00:00+01:00",
    "T",
    ":",
    "²",
]
MOMENTS += [
    "1767225600000000000",
    "9" * 400,
    "1e5",
    "nan",
    "-inf",
    "٣",
    "0001-01-01T00:00",
    "9999-12-31T23:59:59-23:59",
    "5m3s",
]


@examples("moments")
@given(
    text=st.sampled_from(MOMENTS) | st.lists(st.sampled_from(MOMENTS), max_size=3).map("".join) | st.text(max_size=20)
)
def test_a_moment_is_found_or_refused(text):
    with contextlib.suppress(UsageError):
        assert isinstance(parse_moment(text, Timeline(10**18, 0, 10**9), [("a", 5)]), int)


@examples("numbers")
@given(text=st.from_regex(r"\A-?[0-9.]{0,8} ?[a-zA-Zµ%]{0,4}\Z") | st.text(max_size=20))
def test_sizes_durations_rates_and_compressions_are_read_or_refused(text):
    for parse in (parse_size, parse_duration, parse_rate):
        with contextlib.suppress(ValueError):
            assert parse(text) >= 0
    with contextlib.suppress(UsageError):
        name, level = parse_compression(text)
        assert name in ("gzip", "lz4", "zstd")
        assert level >= 0


@examples("names")
@given(name=st.text(max_size=400))
def test_every_name_is_a_path_inside_the_bag_and_fit_for_a_terminal(name):
    parts = topic_path(name).split("/")[1:]
    assert all(part not in ("", ".", "..") and len(part.encode()) <= 255 for part in parts)
    assert path_component(name) not in ("", ".", "..")
    assert not any(ord(char) < 32 and char not in "\n\t" for char in render.clean(name))


@examples("packed")
@given(data=st.binary(max_size=60), kind=st.sampled_from(["gzip", "lz4", "zstd"]), size=st.integers(1, 2**20))
def test_a_packed_chunk_gives_as_many_bytes_as_it_should_or_is_refused(data, kind, size):
    if kind != "gzip":
        pytest.importorskip("hdf5plugin")
    with contextlib.suppress(BagError), reading("x.h5"):
        assert len(decoder_of(kind, 1)(data, size)) == size
