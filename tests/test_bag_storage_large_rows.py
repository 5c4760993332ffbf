"""Large rows that come several at once, alike or ragged, one a chunk or many: they are what was sent."""

import numpy as np
import pytest
from storage_kit import channel_on, contents, frames_of, memory_directory, rows_of

from bag.records import Schema, SchemaField
from bag.storage.checksums import Checksums
from bag.storage.column import Column, create_dataset
from bag.storage.layout import FIRST_COLUMN, LARGE_ROW
from bag.storage.verify import verify
from bag.storage.writer import BagWriter

SCHEMA = Schema(0x1122334455667788, "Type", "my.msgs", "Type", (SchemaField("data", "np.ndarray"),))
SHAPES = {
    "a chunk of its own": lambda number: (400, 200),
    "several in a chunk": lambda number: (9, 1000),
    "ragged, several in a chunk": lambda number: (9 + number % 4, 1000),
    "ragged, each row a chunk": lambda number: (1 + number // 4 % 3, 150_000),
}


@pytest.fixture
def directory():
    yield from memory_directory()


def message(kind, number):
    shape = SHAPES[kind](number)
    return frames_of([np.arange(number, number + np.prod(shape), dtype=np.float64).reshape(shape)], number)


# how many come first says how large chunks are worth it
@pytest.mark.parametrize("first", [1, 6])
@pytest.mark.parametrize("ends", ["closed", "dies", "dies before a commit"])
@pytest.mark.parametrize("kind", SHAPES)
def test_large_rows_of_a_batch_are_what_was_sent(kind, ends, first, directory):
    path = directory / "run.h5"
    messages = [message(kind, number) for number in range(24)]
    assert all(len(frames[-1]) >= LARGE_ROW for frames in messages)
    writer = BagWriter(path)
    channel = writer.add_channel(channel_on("/t"), SCHEMA).id
    for start, stop in ((0, first), (first, 8), (8, 9), (9, 20), (20, 24)):
        writer.append(channel, rows_of("/t", messages[start:stop], start))
        if ends != "dies before a commit" and stop in (first, 9):
            writer.commit()
    if ends == "closed":
        writer.close()
    else:
        writer.abort()
    assert contents(path) == {"/t": messages}
    assert verify(path).whole


def test_rows_that_share_a_chunk_are_placed_one_by_one(directory):
    with BagWriter(directory / "run.h5") as writer:
        dataset = create_dataset(writer.h5, "x", np.dtype("<f8"), (), 4)
        column = Column(writer.file, dataset, FIRST_COLUMN, Checksums())
        rows = np.arange(10, dtype="<f8")
        places = column.place_all([row.tobytes() for row in rows])
        column.settle()
        assert column.dataset[()].tolist() == rows.tolist()
        read = writer.file.data.read_at
        assert [b"".join(read(*piece) for piece in place.pieces) for place in places] == [row.tobytes() for row in rows]
        del writer.h5["x"]
