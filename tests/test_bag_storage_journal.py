"""The file object below HDF5 by itself: pages that are kept in memory, and which of them a sync takes along."""

from bag.storage.disk import PAGE, RawFile
from bag.storage.journal import CommitFile
from bag.storage.redo import SYNC


class Journal(RawFile):
    """Remembers everything that was written to it."""

    def __init__(self, path):
        super().__init__(path, create=True)
        self.written = []

    def write_at(self, offset, data):
        self.written.append(bytes(data))
        super().write_at(offset, data)


def committed(tmp_path, pages):
    """A file of so many pages that are committed and synced."""
    data, journal = RawFile(tmp_path / "data", create=True), Journal(tmp_path / "journal")
    file = CommitFile(data, journal)
    put(file, 0, bytes(pages * PAGE))
    file.commit(sync=True)
    return file


def put(file, offset, data):
    file.seek(offset)
    file.write(data)


def page(file, number):
    return file.data.read_at(number * PAGE, PAGE)


def synced(file):
    """What stands in the journal while the last commit is brought to the device; all of it, joined."""
    file.journal.written.clear()
    file.sync_behind()
    file.finish_sync()
    return b"".join(blob for blob in file.journal.written if blob.startswith(SYNC))


def test_a_page_that_was_changed_past_the_overlay_is_not_taken_from_memory(tmp_path):
    file = committed(tmp_path, 4)
    put(file, PAGE, b"first")
    file.commit()
    # rows behind the committed ones, on the same page
    file.fill(PAGE + 100, b"rows")
    put(file, PAGE + 200, b"second")
    file.commit()
    found = page(file, 1)
    assert (found[:5], found[100:104], found[200:206]) == (b"first", b"rows", b"second")


def test_a_page_is_read_as_the_last_commit_left_it(tmp_path):
    file = committed(tmp_path, 4)
    for number in range(3):
        put(file, 2 * PAGE + number, bytes([number + 1]))
        file.commit()
    assert page(file, 2)[:4] == bytes([1, 2, 3, 0])


def test_a_sync_takes_along_every_page_of_the_commits_since_the_last(tmp_path):
    file = committed(tmp_path, 4)
    put(file, 0, b"one")
    file.commit()
    put(file, PAGE, b"two")
    file.commit()
    blob = synced(file)
    assert b"one" in blob
    assert b"two" in blob
    assert synced(file) == b""


def test_what_is_written_before_a_sync_and_committed_after_it_is_of_the_next_one(tmp_path):
    file = committed(tmp_path, 4)
    put(file, 0, b"overlaid")
    put(file, 4 * PAGE, b"appended".ljust(PAGE))
    assert b"overlaid" not in synced(file)
    file.commit()
    blob = synced(file)
    assert b"overlaid" in blob
    assert b"appended" in blob
