"""The format on paper and on disk: FORMAT.md names what layout.py names; foreign tools see names, units and arrays."""

import re
import shutil
import subprocess

import h5py
import numpy as np
import pytest
from storage_kit import channel_on, frames_of, row_of, rows_of

from bag.records import Schema, SchemaField
from bag.storage import layout as names
from bag.storage import tail
from bag.storage.checksums import CHECKSUM_DTYPE
from bag.storage.disk import PAGE, crc32
from bag.storage.reader import BagReader
from bag.storage.redo import COMMIT, SYNC
from bag.storage.tree import MAX_TEXT
from bag.storage.writer import BagWriter

FORMAT = (names.__spec__.origin or "").replace("layout.py", "FORMAT.md")
TEXT = open(FORMAT, encoding="utf-8").read()
SCHEMA = Schema(
    0x1122334455667788, "Type", "m", "Type", (SchemaField("stamp", "float"), SchemaField("data", "ndarray"))
)


def section(title):
    return re.split(r"^## ", TEXT, flags=re.MULTILINE | re.DOTALL)[
        1 + [part.splitlines()[0] for part in re.split(r"^## ", TEXT, flags=re.MULTILINE)[1:]].index(title)
    ]


def first_cells(text):
    return re.findall(r"^\| `([^`]+)`", text, flags=re.MULTILINE)


def test_the_table_of_names_is_that_of_layout():
    fixed = [names.FORMAT_NAME, names.BOOK, names.DEFINITIONS, names.RUNS, names.LEDGER, names.CLOCK, names.CHECKSUMS]
    fixed += [names.OPEN_CHUNKS, names.TOPICS, names.INDEX, names.METADATA, names.FRAMES, names.OFFSETS_SUFFIX]
    assert sorted(first_cells(section("Names"))) == sorted(fixed)


def test_the_kinds_of_the_ledger_and_of_columns_are_those_of_layout():
    kinds = dict(re.findall(r"^\| (\d+) \| `(\w+)`", section("The book"), flags=re.MULTILINE))
    assert {name: int(number) for number, name in kinds.items()} == names.LEDGER_KINDS
    assert set(names.COLUMN_KINDS) <= set(first_cells(section("A topic")))


def test_every_field_of_every_table_is_told_of():
    for field in names.INDEX_DTYPE.names:
        assert f"`{field}`" in section("A topic")
    for dtype in (names.RUN_DTYPE, names.LEDGER_DTYPE, names.CLOCK_DTYPE, CHECKSUM_DTYPE):
        for field in dtype.names:
            assert re.search(rf"\b{field}\b", section("The book")), field


def test_the_numbers_on_paper_are_those_in_the_code():
    assert COMMIT.decode() in TEXT
    assert SYNC.decode() in TEXT
    assert tail.MAGIC.decode() in TEXT
    assert f"pages of {PAGE} bytes" in TEXT
    assert f"{MAX_TEXT:,} characters" in TEXT
    assert f"{names.MAX_LAYOUTS} layouts or {names.MAX_COLUMNS} columns" in TEXT
    assert f"above {names.MAX_LINK_BYTES} bytes" in TEXT
    assert f"from the {names.MAX_DEPTH}nd part on" in TEXT
    assert f"one count from {names.FIRST_COLUMN} on" in TEXT
    assert all(f"{name} {number}" in TEXT for name, number in names.BOOK_COLUMNS.items())
    assert f"version {names.FORMAT_MAJOR}" in TEXT.splitlines()[0]


IMAGES = [np.full((6, 8, 3), k, np.uint8) for k in range(5)]
CLOUDS = [np.full((k, 4), k, np.float32) for k in range(5)]


@pytest.fixture
def bag(tmp_path):
    path = tmp_path / "run.h5"
    with BagWriter(path) as writer:
        camera = writer.add_channel(channel_on("/camera/image", node="camera"), SCHEMA)
        lidar = writer.add_channel(channel_on("/lidar/points", fingerprint=9))
        times = writer.add_channel(channel_on("/times", fingerprint=9))
        writer.append(
            camera.id, rows_of("/camera/image", [frames_of([1.0, image], k) for k, image in enumerate(IMAGES)])
        )
        writer.append(
            lidar.id, rows_of("/lidar/points", [frames_of([cloud], k, fingerprint=9) for k, cloud in enumerate(CLOUDS)])
        )
        writer.append(times.id, [row_of("/times", frames_of([np.array(5, "M8[ms]")], 0, fingerprint=9))])
    return path


def test_plain_h5py_reads_arrays_times_and_what_they_are(bag):
    with h5py.File(bag) as file:
        group = file["camera/image"]
        assert np.array_equal(group["data"], IMAGES)
        assert group["data"].dtype == np.uint8
        assert group["_index"]["sequence"].tolist() == [0, 1, 2, 3, 4]
        assert group["_index"].attrs["units"] == names.INDEX_UNITS
        assert {name: group.attrs[name] for name in ("topic", "node", "type", "fingerprint", "fields")} == {
            "topic": "/camera/image",
            "node": "camera",
            "type": "Type",
            "fingerprint": "0x1122334455667788",
            "fields": "stamp: float, data: ndarray",
        }
        ends, rows = file["lidar/points/field0.offsets"], file["lidar/points/field0"]
        assert (ends.attrs["units"], rows.attrs["kind"]) == ("rows", "ragged")
        assert all(np.array_equal(rows[ends[k] : ends[k + 1]], CLOUDS[k]) for k in range(5))
        assert (file["times/field0"][0], file["times/field0"].attrs["numpy_dtype"]) == (5, "<M8[ms]")


@pytest.mark.skipif(shutil.which("h5dump") is None, reason="h5dump is not installed")
def test_h5dump_shows_names_types_units_and_attributes(bag):
    shown = subprocess.run(["h5dump", "-A", str(bag)], capture_output=True, text=True, check=True).stdout
    for text in ('DATASET "_index"', 'GROUP "camera"', '"log_time_ns"', 'ATTRIBUTE "units"', "ns since 1970-01-01 UTC"):
        assert text in shown
    for text in ('(0): "/camera/image"', 'ATTRIBUTE "address"', "( 5, 6, 8, 3 ) / ( H5S_UNLIMITED, 6, 8, 3 )"):
        assert text in shown


def test_every_chunk_has_a_checksum_that_holds(tmp_path):
    path = tmp_path / "run.h5"
    with BagWriter(path) as writer:
        known = writer.add_channel(channel_on("/t"))
        for at in range(0, 600, 60):
            writer.append(
                known.id, rows_of("/t", [frames_of([np.arange(k, k + 40)], k) for k in range(at, at + 60)], at)
            )
            if at % 180 == 0:
                writer.commit()
    data = path.read_bytes()
    with h5py.File(path) as file, BagReader(path) as reader:
        rows = [*file["_bag/checksums"][()].tolist(), *file["_bag/open_chunks"][()].tolist()]
        for column, crc, size, _chunk, offset, _packed in rows:
            assert crc32(data[offset : offset + size]) == crc, column
        covered = {(column, chunk): size for column, _crc, size, chunk, _offset, _packed in rows}
        paths = {column.number: column.path for column in reader._definitions.columns[0]}
        paths |= {number: f"/_bag/{name}" for name, number in names.BOOK_COLUMNS.items()}
        for number, where in paths.items():
            dataset = file[where]
            sizes = sum(size for (column, _chunk), size in covered.items() if column == number)
            assert sizes == dataset.nbytes, where
