"""A disk that refuses: at every write of a run, for good (full) or once (faulty), and what is in the bag afterwards."""

import errno

import numpy as np
import pytest
from storage_kit import Disk, channel_on, contents, frames_of, memory_directory, plain, refusing, rows_of

from bag.errors import BagError
from bag.storage.reader import BagReader
from bag.storage.writer import BagWriter


@pytest.fixture
def tmp_path():
    yield from memory_directory()


NAME = "run.h5"


def small(k):
    return frames_of([np.arange(k, k + 10, dtype=np.float64)], k)


def large(k):
    return frames_of([np.full((100, 700), k, np.uint8)], k)


def words(k):
    return frames_of([{"k": k, "text": "x" * k}], k)


def steps(path, disk):
    """A run as a list of calls, in which `sent` grows by what is appended and `safe` is what was promised."""
    sent: dict[str, list] = {}
    state = {"writer": None, "committed": {}}

    def create():
        state["writer"] = BagWriter(path, opener=disk)

    def add(topic):
        def call():
            state[topic] = state["writer"].add_channel(channel_on(topic)).id
            sent[topic] = []

        return call

    def append(topic, make, count):
        def call():
            first = len(sent[topic])
            messages = [make(k) for k in range(first, first + count)]
            state["writer"].append(state[topic], rows_of(topic, messages, first))
            sent[topic] += messages

        return call

    def commit():
        state["writer"].commit(sync=True)
        state["committed"] = {topic: len(messages) for topic, messages in sent.items()}

    calls = [create, add("/small"), add("/large")]
    for step in range(4):
        calls += [append("/small", small, 30), append("/large", large, 2)]
        if step == 1:
            calls += [add("/words")]
        if step > 1:
            calls += [append("/words", words, 5)]
        if step != 3:
            calls += [commit]
    calls += [lambda: state["writer"].close()]
    return calls, sent, state


def run(path, disk):
    """Run until the disk refuses; returns what was promised, what was committed, and the writer."""
    calls, sent, state = steps(path, disk)
    for call in calls:
        try:
            call()
        except OSError:
            return sent, state["committed"], state["writer"], True
    return sent, state["committed"], state["writer"], False


def check_dead(writer):
    # the error was told once; what comes later says that nothing can be written any more
    for attempt in (lambda: writer.append(0, [(0, 0, [b"/small", bytes(24), b"\x90"])]), writer.commit, writer.close):
        with pytest.raises(BagError, match="abort it"):
            attempt()
    writer.abort()
    writer.abort()


def check_committed(path, sent, committed, **options):
    with BagReader(path, **options) as reader:
        for topic, count in committed.items():
            messages = [plain(m.frames) for m in reader.raw(topic, 0, len(reader.topics[topic]))]
            assert len(messages) >= count
            assert messages[: len(sent[topic])] == sent[topic][: len(messages)]
        return reader.rolled_forward


def writes_of_a_run(tmp_path, **options):
    disk, count = refusing(1 << 30, code=errno.EIO, **options)
    run(tmp_path / NAME, disk)
    (tmp_path / NAME).unlink()
    return count[0]


@pytest.mark.parametrize("part", range(3))
def test_a_full_disk_at_any_write_costs_nothing_that_was_stored(tmp_path, part):
    total = writes_of_a_run(tmp_path, only_growing=True)
    assert total > 60
    for number in range(part, total, 3):
        path = tmp_path / f"{number}.h5"
        disk, _count = refusing(number, code=errno.ENOSPC, only_growing=True)
        sent, committed, writer, refused = run(path, disk)
        assert refused
        if writer is None:
            assert not path.exists()
            continue
        check_dead(writer)
        # while the disk is still full, the bag opens as of its last commit, and says what waits beside it
        full, _count = refusing(0, code=errno.ENOSPC, only_growing=True)
        outcome = check_committed(path, sent, committed, opener=full)
        assert outcome is None or outcome.problem or outcome.messages == 0
        # with space again, nothing is missing
        check_committed(path, sent, {topic: len(m) for topic, m in sent.items()}, opener=Disk(keep=False))
        assert [p.name for p in tmp_path.glob(f"{number}.h5*")] == [path.name]


@pytest.mark.parametrize("part", range(3))
def test_a_fault_at_any_write_costs_nothing_that_was_stored(tmp_path, part):
    total = writes_of_a_run(tmp_path)
    assert total > 80
    for number in range(part, total, 3):
        path = tmp_path / f"{number}.h5"
        disk, _count = refusing(number, code=errno.EIO, once=True)
        sent, _committed, writer, refused = run(path, disk)
        assert refused
        if writer is None:
            assert not list(tmp_path.glob(f"*{number}.h5*"))
            continue
        check_dead(writer)
        check_committed(path, sent, {topic: len(m) for topic, m in sent.items()}, opener=Disk(keep=False))


def test_a_bag_that_cannot_be_created_leaves_the_old_one_and_no_litter(tmp_path):
    path = tmp_path / NAME
    with BagWriter(path) as writer:
        known = writer.add_channel(channel_on("/t"))
        writer.append(known.id, rows_of("/t", [small(0)]))
    before = path.read_bytes()
    for number in range(5):
        disk, _count = refusing(number, code=errno.ENOSPC)
        with pytest.raises(OSError, match="No space"):
            BagWriter(path, force=True, opener=disk)
        assert path.read_bytes() == before
        assert [p.name for p in tmp_path.iterdir()] == [NAME]


def test_replacing_a_bag_whose_writer_died_keeps_its_tail_until_the_new_one_stands(tmp_path):
    path = tmp_path / NAME
    writer = BagWriter(path)
    known = writer.add_channel(channel_on("/t"))
    writer.append(known.id, rows_of("/t", [small(0)]))
    writer.abort()
    disk, _count = refusing(2, code=errno.ENOSPC)
    with pytest.raises(OSError, match="No space"):
        BagWriter(path, force=True, opener=disk)
    assert contents(path) == {"/t": [small(0)]}


def test_an_interrupt_in_the_middle_of_a_write_is_not_committed(tmp_path):
    path = tmp_path / NAME
    armed = [False]

    def before(name, kind, grows):
        if armed[0] and name.endswith(".tail"):
            raise KeyboardInterrupt

    writer = BagWriter(path, opener=Disk(before, keep=False))
    known = writer.add_channel(channel_on("/t"))
    writer.append(known.id, rows_of("/t", [small(0)]))
    armed[0] = True
    with pytest.raises(KeyboardInterrupt):
        writer.append(known.id, rows_of("/t", [small(1)]))
    with pytest.raises(BagError, match="abort it"):
        writer.commit()
    writer.abort()
    assert contents(path) == {"/t": [small(0)]}


def test_a_bag_beside_which_nothing_may_be_written_says_so(tmp_path):
    path = tmp_path / NAME
    writer = BagWriter(path)
    writer.add_channel(channel_on("/t"))
    writer.abort()

    def opener(path, *, create=False):
        raise PermissionError(errno.EROFS, "Read-only file system", str(path))

    with pytest.raises(BagError, match=r"run\.h5 was not closed.*Read-only"):
        BagReader(path, opener=opener)
