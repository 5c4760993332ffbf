"""Commits that are made a little at a time, while messages go on to arrive: what they hold, and what a crash leaves."""

import gc
import json
import sys

import h5py
import pytest
from storage_kit import MONO, WALL, Disk, channel_on, contents, images, lay_out, memory_directory, row_of, stored
from test_bag_storage_crash import NAME, Run, at, changing, check_opens, cloud, crash_points, large, small, words

from bag.storage import commits, new_topics
from bag.storage import layout as names
from bag.storage.batch import MESSAGE_OVERHEAD
from bag.storage.compressor import Compressor
from bag.storage.disk import RawFile, try_shared_lock
from bag.storage.journal import CommitFile
from bag.storage.reader import BagReader
from bag.storage.resume import roll_forward
from bag.storage.tail import Tail, read_tail
from bag.storage.topic import HOLD_SMALL, TopicWriter
from bag.storage.verify import verify
from bag.storage.writer import BagWriter


def points(k):
    return cloud(k, k % 4 * 900)


TOPICS = {"/imu": small, "/camera/image": large, "/log": words, "/lidar": points, "/odd": changing}
SLICES = 4
KINDS = (None, "gzip")


@pytest.fixture
def tmp_path():
    yield from memory_directory()


@pytest.fixture(autouse=True)
def few_topics_are_many(monkeypatch):
    monkeypatch.setattr(commits, "MANY_TOPICS", 1)


class Slow(Run):
    """A run whose commits are made step by step."""

    def __init__(self, directory, kind=None):
        disk = Disk()
        compressor = Compressor(f"{kind}:1") if kind else None
        super().__init__(BagWriter(directory / NAME, opener=disk, compressor=compressor), disk)
        self.start = len(disk.operations)
        self.numbers = dict.fromkeys(TOPICS, 0)

    def send(self, topic, count):
        first = self.numbers[topic]
        self.append(topic, *[TOPICS[topic](k) for k in range(first, first + count)])
        self.numbers[topic] = first + count

    def commit_slowly(self, meanwhile):
        """Make a commit in as many parts as there can be; returns how many, after `meanwhile` was called after each."""
        self.writer.note_clock(WALL + self.clock, MONO + self.clock)
        held = {topic: len(messages) for topic, messages in self.sent.items()}
        parts = 1
        while not self.writer.commit_some(0):
            self.promise()
            meanwhile(parts)
            parts += 1
        self.promise()
        self.committed.append((len(self.disk.operations), held))
        return parts


def record(directory, kind):
    """The run: four commits, between whose parts come small messages, large ones, marks, losses and restarts."""
    run = Slow(directory, kind)
    for topic in TOPICS:
        run.add(topic)

    def meanwhile(part):
        run.send("/imu", 1)
        if part == 3:
            run.send("/camera/image", 1)
            run.send("/lidar", 2)
        elif part == 5:
            run.writer.mark(f"part {part}", run.clock)
            run.note("/imu", run.numbers["/imu"], run.numbers["/imu"] + 1)
            run.numbers["/imu"] += 2
            run.writer.note_clock(WALL + run.clock, MONO + run.clock)
        elif part == 6:
            run.send("/odd", 2)

    for step in range(4):
        run.send("/imu", 30)
        run.send("/log", 2)
        run.send("/camera/image", 2)
        run.send("/lidar", 3)
        run.send("/odd", 2)
        assert run.commit_slowly(meanwhile) > len(TOPICS)
        if step == 1:
            run.add("/imu", node="restarted")
            run.numbers["/imu"] = 0
    run.writer.commit_some(0)
    meanwhile(3)
    return run


@pytest.fixture(scope="module", params=KINDS, ids=str)
def recorded(request):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(commits, "MANY_TOPICS", 1)
        for directory in memory_directory():
            run = record(directory, request.param)
            yield run
            run.writer.abort()


@pytest.mark.parametrize("part", range(SLICES))
def test_no_crash_point_of_commits_in_parts_loses_anything(recorded, tmp_path, part):
    points = 0
    for _point in crash_points(recorded, recorded.start, tmp_path, lambda number: number % (2 * SLICES) == part):
        points += 1
        if points % 3 == 0:
            check_told_once(tmp_path / NAME)
    assert points > 50


def check_told_once(path):
    """Nothing stands twice in the tables, and the ledger is what the sequence numbers say."""
    assert verify(path).whole
    with h5py.File(path, "r") as file:
        tables = [file["_bag"][name][()].tolist() for name in (names.RUNS, names.LEDGER, names.CLOCK)]
    assert [len(set(rows)) for rows in tables] == [len(rows) for rows in tables]
    with BagReader(path) as reader:
        assert len(set(reader.marks)) == len(reader.marks)


@pytest.mark.parametrize("part", range(SLICES))
def test_no_crash_point_of_a_recovery_from_commits_in_parts_loses_or_doubles_anything(recorded, tmp_path, part):
    states = [
        (done, {name: bytes(content) for name, content in files.items()})
        for number, (done, files) in enumerate(images(recorded.disk.operations))
        if done >= recorded.start and number % 41 == 0 and files.get(f"{NAME}.tail")
    ]
    points = 0
    for done, files in states[part::SLICES]:
        lay_out(files, tmp_path)
        disk = Disk()
        roll_forward(tmp_path / NAME, disk)
        with BagReader(tmp_path / NAME) as reader:
            whole = {topic: stored(reader, topic) for topic in reader.topics}
        for number, (_done, again) in enumerate(images(disk.operations, files)):
            if number % 7 == part:
                points += 1
                lay_out(again, tmp_path)
                check_opens(tmp_path, recorded, at(recorded.promised, done))
                assert contents(tmp_path / NAME) == whole
    assert points > 10


def test_a_commit_holds_what_came_before_it_began_and_the_next_one_the_rest(tmp_path):
    run = Slow(tmp_path)
    for topic in TOPICS:
        run.add(topic)
        run.send(topic, 2)
    lengths = []

    def meanwhile(_part):
        run.send("/imu", 1)
        run.send("/camera/image", 1)
        with h5py.File(tmp_path / NAME, "r") as file:
            lengths.append({topic: len(file[topic]["_index"]) for topic in TOPICS if topic in file})

    parts = run.commit_slowly(meanwhile)
    assert parts > len(TOPICS)
    # the last part only lets go of the journal
    assert lengths == [{}] * (parts - 2) + [dict.fromkeys(TOPICS, 2)]
    with h5py.File(tmp_path / NAME, "r") as file:
        assert {topic: len(file[topic]["_index"]) for topic in TOPICS} == dict.fromkeys(TOPICS, 2)
        assert len(file["_bag/topics"]) == len(TOPICS)
        assert file["_bag/topics"]["messages"].tolist() == [2] * len(TOPICS)
    run.writer.close()
    assert contents(tmp_path / NAME) == run.sent
    assert verify(tmp_path / NAME).whole


def test_a_commit_that_is_under_way_comes_to_its_end_before_another_or_the_close(tmp_path):
    run = Slow(tmp_path)
    run.add("/imu")
    run.send("/imu", 3)
    assert not run.writer.commit_some(0)
    parts, count = 1, 3
    while run.writer.committing:
        run.writer.commit()
        assert not run.writer.committing
        with h5py.File(tmp_path / NAME, "r") as file:
            assert len(file["/imu/_index"]) == count
        # now a part more of the next one
        run.send("/imu", 1)
        parts, count = parts + 1, count + 1
        for _ in range(parts):
            run.writer.commit_some(0)
    assert parts > 3
    run.send("/imu", 1)
    assert not run.writer.commit_some(0)
    run.writer.close()
    assert contents(tmp_path / NAME) == run.sent
    assert verify(tmp_path / NAME).whole
    with BagReader(tmp_path / NAME) as reader:
        assert reader.closed_cleanly


def test_little_of_a_topic_is_held_in_memory(tmp_path, monkeypatch):
    stored = []
    store = TopicWriter._store

    def told(topic, channel, schema, batch):
        stored.append(len(batch))
        return store(topic, channel, schema, batch)

    monkeypatch.setattr(TopicWriter, "_store", told)
    run = Slow(tmp_path)
    run.add("/imu")
    run.send("/imu", 1)
    run.writer.commit()
    stored.clear()
    for _ in range(500):
        run.send("/imu", 1)
    assert len(stored) > 1
    assert 50 < max(stored) < HOLD_SMALL / MESSAGE_OVERHEAD
    run.writer.close()
    assert contents(tmp_path / NAME) == run.sent


def test_a_topic_that_comes_while_a_commit_is_under_way_ends_it_first(tmp_path):
    run = Slow(tmp_path)
    run.add("/imu")
    run.send("/imu", 3)
    assert not run.writer.commit_some(0)
    run.add("/log")
    assert not run.writer.committing
    run.send("/log", 1)
    run.writer.abort()
    assert contents(tmp_path / NAME) == run.sent


def test_columns_that_are_prepared_while_a_commit_is_under_way_end_it_first(tmp_path, monkeypatch):
    monkeypatch.setattr(new_topics, "HOLD_S", 0.0)
    run = Slow(tmp_path)
    run.add("/imu")
    run.send("/imu", 3)
    assert not run.writer.commit_some(0)
    run.writer.prepare(10)
    assert not run.writer.committing
    with h5py.File(tmp_path / NAME, "r") as file:
        assert len(file["imu/_index"]) == 3
    run.writer.abort()
    assert contents(tmp_path / NAME) == run.sent


def test_a_commit_does_not_wait_while_much_comes(tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "MOST_BEHIND", 100_000)
    run = Slow(tmp_path)
    run.add("/camera/image")
    run.send("/camera/image", 2)
    assert not run.writer.commit_some(0)
    run.send("/camera/image", 1)
    assert run.writer.committing
    run.send("/camera/image", 1)
    assert not run.writer.committing
    # the next one is not hurried by what came before it
    assert not run.writer.commit_some(0)
    run.send("/camera/image", 1)
    assert run.writer.committing
    run.writer.abort()
    assert contents(tmp_path / NAME) == run.sent


def test_a_commit_that_is_given_up_after_any_of_its_parts_loses_nothing(tmp_path, monkeypatch):
    through, part = False, 0
    ignored = []
    monkeypatch.setattr(sys, "unraisablehook", ignored.append)
    while not through:
        part += 1
        directory = tmp_path / str(part)
        directory.mkdir()
        run = Slow(directory)
        for topic in TOPICS:
            run.add(topic)
            run.send(topic, 2)
        for _ in range(part):
            through = run.writer.commit_some(0)
            run.send("/imu", 1)
            run.send("/camera/image", 1)
        run.writer.abort()
        # somebody may read it from now on, though the writer was in the midst of it
        with (directory / f"{NAME}.undo").open("rb") as undo:
            assert try_shared_lock(undo)
        assert contents(directory / NAME) == run.sent
        assert verify(directory / NAME).whole
        # what it had begun was ended with it, and not when it is forgotten
        del run
        gc.collect()
        assert ignored == []
    assert part > len(TOPICS)


def test_what_is_made_for_new_topics_is_not_left_to_the_commit(tmp_path, monkeypatch):
    monkeypatch.setattr(new_topics, "HOLD_S", 0.0)
    written = []
    run = Slow(tmp_path)
    write = CommitFile.write
    monkeypatch.setattr(CommitFile, "write", lambda file, data: written.append(len(data)) or write(file, data))
    for topic in TOPICS:
        run.add(topic)
        run.send(topic, 2)
    assert run.writer.prepare(10) == 0
    assert written
    written.clear()
    run.writer.h5.flush()
    assert written == []
    run.writer.close()
    assert contents(tmp_path / NAME) == run.sent


def test_few_topics_are_committed_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr(commits, "MANY_TOPICS", 2)
    run = Slow(tmp_path)
    run.add("/imu")
    run.send("/imu", 3)
    assert run.writer.commit_some(0)
    assert run.writer.commit_some(0)
    with h5py.File(tmp_path / NAME, "r") as file:
        assert len(file["/imu/_index"]) == 3
    run.writer.close()


def test_the_tail_does_not_grow_though_something_always_comes_while_a_commit_is_under_way(tmp_path):
    run = Slow(tmp_path)
    run.add("/imu")
    sizes = []
    for _commit in range(12):
        run.send("/imu", 50)
        run.commit_slowly(lambda _part: run.send("/imu", 1))
        sizes.append((tmp_path / f"{NAME}.tail").stat().st_size)
    assert max(sizes[1:]) == min(sizes[1:]) < 4000
    run.writer.abort()
    assert contents(tmp_path / NAME) == run.sent


@pytest.mark.parametrize("after", [1, 2, 3, 4, 5, 30])
def test_a_tail_is_whole_at_every_moment_of_a_commit_in_parts(tmp_path, after):
    """After fewer records than before they are brought to the front, after more of them they stay where they are."""
    disk = Disk()
    tail = Tail(disk(tmp_path / "tail", create=True), 3, 1000)

    def note(number):
        # all of one size: what is left of the old ones begins where a new one ends; but a fifth one has no room there
        tail.note({"mark": ["a little longer" if number == 24 else "x", number]})

    before = list(range(10, 15))
    for number in before:
        note(number)
    tail.turn()
    later = list(range(20, 20 + after))
    for number in later:
        note(number)
    made, size = len(disk.operations), (tmp_path / "tail").stat().st_size
    tail.restart(4, 2000)
    restarted = len(disk.operations)
    assert ((tmp_path / "tail").stat().st_size < size) == (after < 5)
    note(99)
    (tmp_path / "at").mkdir()
    for done, files in images(disk.operations):
        lay_out(files, tmp_path / "at")
        file = RawFile(tmp_path / "at" / "tail", create=True)
        found = {end: [json.loads(item.payload)["mark"][1] for item in read_tail(file, *end)] for end in ENDS}
        file.close()
        if done <= made:
            # the commit may have been made, or not
            assert found[3, 1000] == (before + later)[: len(found[3, 1000])]
            assert found[4, 2000] == [number for number in found[3, 1000] if number in later]
        else:
            assert found[4, 2000] == (later if done <= restarted else [*later, 99])[: len(found[4, 2000])]
            assert len(found[4, 2000]) >= len(later)


ENDS = ((3, 1000), (4, 2000))


def test_two_writers_of_the_same_messages_make_the_same_bag_whether_in_parts_or_at_once(tmp_path):
    told = []
    for name, parts in (("at_once", False), ("in_parts", True)):
        (tmp_path / name).mkdir()
        with BagWriter(tmp_path / name / NAME) as writer:
            ids = {topic: writer.add_channel(channel_on(topic)).id for topic in TOPICS}
            for k in range(12):
                for topic, make in TOPICS.items():
                    writer.append(ids[topic], [row_of(topic, make(k), k)])
                if k % 4 == 3:
                    while not (writer.commit_some(0) if parts else (writer.commit() or True)):
                        pass
        with BagReader(tmp_path / name / NAME) as reader:
            told.append((contents(tmp_path / name / NAME), reader.info().topics))
    assert told[0] == told[1]
