"""Makes the commits of a bag: at once, or a little at a time, so that what arrives meanwhile reaches the tail soon."""

from __future__ import annotations

import time
from collections.abc import Generator, Mapping

import numpy as np
from numpy.typing import NDArray

from bag.storage.bagfile import BagFile
from bag.storage.batch import MESSAGE_OVERHEAD, Batch
from bag.storage.layout import TOPIC_DTYPE
from bag.storage.live import ChunkQueue
from bag.storage.tail import Tail
from bag.storage.topic import TopicWriter

# with fewer topics a commit takes no longer than one of its parts would
MANY_TOPICS = 32
# when so much memory is held for the next commit while one is under way, that one is finished at once
MOST_BEHIND = 32 << 20


class Commits:
    """Brings everything that was appended to the file. From where a commit begins, what is appended is the next one's.

    Args:
        bag: the open bag.
        tail: logs what the last commit does not hold.
        topics: all topics of the bag, by name; the caller adds to it, but not while a commit is under way.
        queue: chunks that are being packed.
    """

    def __init__(self, bag: BagFile, tail: Tail, topics: Mapping[str, TopicWriter], queue: ChunkQueue | None) -> None:
        self._bag, self._tail, self._topics, self._queue = bag, tail, topics, queue
        # what is left to do for a commit that is under way
        self._steps: Generator[None] | None = None
        self._behind = 0

    @property
    def underway(self) -> bool:
        """Whether a commit has begun that is not through."""
        return self._steps is not None

    @property
    def dirty(self) -> bool:
        """Whether there is anything to commit."""
        book = self._bag.book
        return book.dirty or book.checksums.dirty or any(topic.dirty for topic in self._topics.values())

    def make(self, *, sync: bool = False) -> None:
        """Commit everything appended so far; with `sync` also against a power cut."""
        self.finish()
        self._begin(at_once=True, sync=sync)
        self.finish()

    def make_some(self, seconds: float) -> bool:
        """Do a part of a commit for about so long; True when it is through. Few topics are committed at once."""
        if self._steps is None:
            if sum(topic.dirty for topic in self._topics.values()) < MANY_TOPICS:
                self.make()
                return True
            self._begin(at_once=False, sync=False)
            self._tail.turn()
        deadline = time.monotonic() + seconds
        for _step in self._steps or ():
            if time.monotonic() > deadline:
                return False
        self.finish()
        return True

    def appended(self, batch: Batch) -> None:
        """Be told of a batch that was appended."""
        if self._steps is not None:
            self._behind += batch.nbytes + len(batch) * MESSAGE_OVERHEAD
            if self._behind > MOST_BEHIND:
                self.finish()

    def finish(self) -> None:
        """Bring a commit that is under way to its end.

        Raises:
            OSError: the disk failed.
        """
        for _step in self._steps or ():
            pass
        self._steps, self._behind = None, 0

    def _begin(self, *, at_once: bool, sync: bool) -> None:
        for topic in self._topics.values():
            topic.freeze()
        self._bag.book.freeze()
        rows = [topic.account.summary() for topic in self._topics.values()]
        self._steps = self._all_steps(np.array(rows, TOPIC_DTYPE), at_once=at_once, sync=sync)

    def _all_steps(self, summaries: NDArray[np.void], *, at_once: bool, sync: bool) -> Generator[None]:
        # first what is created: so HDF5's own pages lie together, and a commit changes them with few writes
        for topic in self._topics.values():
            topic.release()
            yield
        for topic in self._topics.values():
            topic.settle()
            # in all it takes longer than one flush at the end, but that would take long without a break
            if not at_once:
                topic.flush()
            yield
        if self._queue is not None:
            self._queue.drain()
            yield
        self._bag.settle(summaries)
        yield
        self._bag.flush()
        yield
        yield from self._bag.commit_parts(sync=sync)
        for topic in self._topics.values():
            topic.thaw()
        self._tail.restart(self._bag.commits, self._bag.file.committed)
