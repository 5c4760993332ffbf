"""The writer's side of a recording: takes what was received, brings it to the files, and carries out what is asked for.

It runs in one thread, which alone touches the files. Others ask it through `ask`; it does so at its next turn.
"""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from pathlib import Path

from bag import schemas
from bag.bagset import BagSet, Counts
from bag.buffer import Item, Received, RecordBuffer
from bag.demands import Complaint, Demand
from bag.errors import LossyError
from bag.options import RecordOptions
from bag.records import Channel
from bag.ring import Ring, write
from bag.storage.disk import FileOpener, RawFile

# while little arrives, wait this long for more: one batch instead of many; little is below this part of the cache
COALESCE_NS = 100_000_000
# or so long, when a commit is due
LEAST_NS = 30_000_000
COALESCE_BYTES, COALESCE_PART = 16 << 20, 16
# what is received is surely here so much later
HANDED_ON_NS = 10_000_000
# while new topics lack their columns, look so often at how long they have waited
PREPARE_NS = 30_000_000
# when this part of the cache waits to be written, nothing is compressed any more
HURRY = 4
DEMANDS_EVERY_NS = 200_000_000
# everything that shows that a publisher speaks
HEARD = ("messages", "lost_by_us", "throttled", "paused")


class Writing:
    """Writes until the buffer is closed, which it asks for when the duration or limit is reached, or an error ends it.

    Args:
        output: the bag.
        options: of the recording.
        buffer: what was received.
        wall, mono: clocks in ns.
        due: called when the duration is over, the limit reached or the end has come: is to close the buffer soon.
        opener: how files are opened (for tests).
    """

    def __init__(
        self,
        output: Path,
        options: RecordOptions,
        buffer: RecordBuffer,
        *,
        wall: Callable[[], int],
        mono: Callable[[], int],
        due: Callable[[], None],
        opener: FileOpener = RawFile,
    ) -> None:
        self._due, self._over = due, False
        self.files = BagSet(output, options, numbered=options.snapshot, opener=opener)
        self.ring = Ring(self.files, options) if options.snapshot else None
        self.error: BaseException | None = None
        self.finished = threading.Event()
        self.complaints: list[Complaint] = []
        # when each topic was heard last: wall ns, monotonic ns
        self.heard_ns: dict[str, tuple[int, int]] = {}
        self.began_ns: int | None = None
        self._output = output
        self._options = options
        self._buffer = buffer
        self._wall, self._mono = wall, mono
        self._wishes: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._channels: list[Channel] = []
        self._channel_of: dict[str, int] = {}
        self._demands: list[Demand] = []
        self._demands_due_ns = 0
        # snapshots that were asked for, monotonic ns
        self._triggers: list[int] = []
        self._in_hand = 0
        # so long after it was stamped a message is surely here
        self._late_ns = HANDED_ON_NS + options.receive_interval_ns
        self._little = min(COALESCE_BYTES, options.buffer_bytes // COALESCE_PART)
        self._thread = threading.Thread(target=self._run, name="bag writer", daemon=True)

    def start(self) -> None:
        """Create the bag (a snapshot's when there is one) and begin.

        Raises:
            BagExistsError, BagBusyError, OSError: the bag cannot be created.
        """
        if self.ring is None:
            self.files.open(self._mono())
        self._thread.start()

    def begin(self) -> None:
        """From now on the duration is counted, and demands are made."""
        now = self._mono()
        self._demands = [Demand(topic, hz, now) for topic, hz in self._options.require]
        self.began_ns = now
        self._buffer.wake()

    def join(self) -> None:
        """Wait for the thread."""
        if self._thread.is_alive():
            self._thread.join()

    def ask(self, wish: Callable[[], None]) -> None:
        """Have something done by the writer's thread, in the order of asking."""
        self._wishes.put(wish)
        self._buffer.wake()

    # --- wishes: only to be carried out by the writer's thread

    def enter(self, channel: Channel) -> None:
        """Make a channel known; before the first message of it comes."""
        self._channels.append(channel)
        self._channel_of[channel.topic] = channel.id
        (self.ring or self.files).enter(channel, schemas.schema_of(channel.fingerprint))

    def split(self) -> None:
        """Begin another file."""
        if self.ring is None:
            self.files.split(self._mono())

    def snapshot(self, mono_ns: int) -> None:
        """Write the past, as seen from a moment; what has arrived is part of it."""
        self._triggers.append(mono_ns)

    def mark(self, text: str, wall_ns: int) -> None:
        """Keep a named moment."""
        if self.ring is not None:
            self.ring.mark(text, wall_ns, self._mono())
        else:
            self.files.mark(text, wall_ns)

    # --- the thread

    def _run(self) -> None:
        try:
            self._write_until_enough()
            (self.ring or self.files).close()
        except BaseException as error:  # noqa: BLE001  kept for whoever waits for the recording
            left = self._in_hand + self._buffer.end()
            self.error = self._ended_by(error, left)
            # of what is asked for from now on nothing would come
            self._due()
        finally:
            self._buffer.end()
            self.finished.set()

    # what was committed stays; when the end was ours to choose, the file is even closed properly
    def _ended_by(self, error: BaseException, left: int) -> BaseException:
        if isinstance(error, LossyError):
            try:
                (self.ring or self.files).close()
            except OSError as worse:
                error = worse
        if isinstance(error, LossyError):
            return error
        self.files.abort()
        if isinstance(error, OSError):
            return LossyError(self._why(error, left))
        return error

    def _why(self, error: OSError, left: int) -> str:
        path = self.files.paths[-1] if self.files.paths else self._output
        loss = f"; the last {left} messages that had arrived may be missing" if left else ""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return (
                f"the disk of {path} is full; recording was stopped, everything written up to then is in the bag{loss}"
            )
        return f"{path} could not be written ({error.strerror or error}); recording was stopped{loss}"

    def _write_until_enough(self) -> None:
        commit_due = self._mono() + self._options.flush_interval_ns
        while True:
            # of these, all that came before is surely in the buffer now
            triggers, self._triggers = self._triggers, []
            at_once = self.files.committing or triggers or not self._wishes.empty()
            wait_s = 0.0 if at_once else max(0.0, (self._due_ns(commit_due) - self._mono()) / 1e9)
            items, closed = self._buffer.take(wait_s)
            taken_ns = self._mono()
            received = [item for item in items if isinstance(item, Received)]
            self._in_hand, nbytes = sum(len(item.rows) for item in received), sum(item.nbytes for item in received)
            if self.files.compressor is not None:
                self.files.compressor.pressed = self._buffer.statistics().bytes > self._options.max_cache_bytes // HURRY
            self._carry_out_wishes()
            self._write(items)
            self._tend_snapshots(taken_ns, triggers + self._triggers * closed)
            now = self._mono()
            if closed:
                return
            self._end_when_due(now)
            if self._demands and now >= self._demands_due_ns:
                self._judge(now)
            if now >= commit_due:
                commit_due = now + self._options.flush_interval_ns
                self._commit(now)
            # what has been written takes no memory while more is gathered
            del items, received
            self._buffer.give_back()
            soon = max(taken_ns + LEAST_NS, self._due_ns(commit_due))
            self._let_gather(min(taken_ns + COALESCE_NS, soon) if 0 < nbytes < self._little else now)

    # when something is to be done although nothing comes
    def _due_ns(self, commit_due_ns: int) -> int:
        dues = [commit_due_ns]
        if (end_ns := self._end_ns) is not None:
            dues.append(end_ns)
        if self._demands:
            dues.append(self._demands_due_ns)
        if self.ring is not None and self.ring.until_ns is not None:
            dues.append(self.ring.until_ns + self._late_ns)
        return min(dues)

    # what a commit has to do, or the next one for new topics, is done while more arrives; at least a part of it
    def _let_gather(self, until_ns: int) -> None:
        files, buffer = self.files, self._buffer
        files.go_on(self._mono())
        while (left := until_ns - self._mono()) > 0 and not buffer.holds(self._little) and self._wants_nothing():
            if not files.committing:
                buffer.rest((min(left, PREPARE_NS) if files.new_topics else left) / 1e9, self._little)
                if not files.new_topics:
                    return
            files.go_on(self._mono())

    def _wants_nothing(self) -> bool:
        return self._wishes.empty() and not self._triggers

    def _carry_out_wishes(self) -> None:
        while not self._wishes.empty():
            self._wishes.get()()

    def _commit(self, now: int) -> None:
        if self.ring is None or self.ring.writing:
            self.files.commit(self._wall(), now)

    def _write(self, items: list[Item]) -> None:
        for item in items:
            if not self._is_full:
                self._write_one(self._cut_to_limit(item) if isinstance(item, Received) else item)
            self._in_hand -= len(item.rows) if isinstance(item, Received) else 0

    # a post-roll ends when what was received in it is here
    def _tend_snapshots(self, taken_ns: int, triggers: list[int]) -> None:
        if self.ring is not None:
            for mono_ns in triggers:
                self.ring.trigger(mono_ns)
            self.ring.tick(taken_ns - self._late_ns)

    def _write_one(self, item: Item) -> None:
        if isinstance(item, Received):
            if not item.rows:
                return
            self.heard_ns[self._channels[item.channel].topic] = item.rows[-1][:2]
        if self.ring is not None:
            self.ring.take(item, self._mono())
            return
        self.files.split_when_due(self._mono())
        write(self.files, item)
        if isinstance(item, Received):
            self.files.remember(item.channel, item.rows)

    def _cut_to_limit(self, item: Received) -> Received:
        if self._options.limit is None:
            return item
        return item._replace(rows=item.rows[: self._options.limit - self.files.written])

    # when the duration is over; None: it is already, or there is none
    @property
    def _end_ns(self) -> int | None:
        began, duration = self.began_ns, self._options.duration_ns
        return None if self._over or began is None or duration is None else began + duration

    # what has come until the duration is over is still to be received, and all that was asked for is still to be done:
    # both end with the buffer
    def _end_when_due(self, now: int) -> None:
        end_ns = self._end_ns
        if not self._over and (self._is_full or (end_ns is not None and now >= end_ns)):
            self._over = True
            self._due()

    @property
    def _is_full(self) -> bool:
        return self._options.limit is not None and self.files.written >= self._options.limit

    def _judge(self, now: int) -> None:
        self._demands_due_ns = now + DEMANDS_EVERY_NS
        for demand in self._demands:
            counts = self.counts(demand.topic)
            news = demand.judge(now, sum(counts.get(name, 0) for name in HEARD))
            if news is not None:
                self.complaints.append(news)
                if not news.over and demand.topic in self._channel_of and self.ring is None:
                    self.files.remark(self._channel_of[demand.topic], "silent", self._wall())
                self.mark(f"required: {news}", self._wall())

    def counts(self, topic: str) -> Counts:
        """Messages, bytes and losses of a topic."""
        return (self.ring or self.files).counts(topic)
