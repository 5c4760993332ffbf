"""Threads that compress while a recording goes on, and refuse work when they lag: what is refused is stored raw.

The libraries let go of Python's lock and HDF5 has no part in it, so receiving and writing go on meanwhile. How long
what waits would take is judged by how long chunks took lately.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor

from bag.records import Compression
from bag.storage.disk import Buffer
from bag.storage.filters import LEVELS, Encoder, encoder_of, parse_compression, require

# more work than for so long, or of so many bytes, is refused
LAG_S = 0.3
MAX_WAITING_BYTES = 64 << 20
# before a chunk was measured: seconds a byte, as of gzip
FIRST_GUESS = 1 / 100e6
# weight of the latest chunk in the estimate
LATEST = 0.2
MAX_THREADS = 4
# while a robot waits, more time buys little
QUICK_LEVELS = {**LEVELS, "gzip": 2}


class Compressor:
    """Compresses chunks for any number of files at the same time; every method may be called from any thread.

    Args:
        text: `gzip`, `lz4` or `zstd`, with `:level`.
        encoder: makes what compresses a chunk, by filter, level and bytes of an item (for tests).

    Raises:
        UsageError: there is no such compression.
        MissingExtraError: its libraries are not installed.
    """

    def __init__(self, text: str, *, encoder: Callable[[str, int, int], Encoder] = encoder_of) -> None:
        self.filter = parse_compression(text, QUICK_LEVELS)
        require(self.filter[0])
        self._encoder = encoder
        self.encoder(1)
        # whoever feeds us is behind, too
        self.pressed = False
        self._threads = max(2, min(MAX_THREADS, len(os.sched_getaffinity(0)) - 1))
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._waiting = 0
        self._seconds_per_byte = FIRST_GUESS
        self._counts = dict.fromkeys(("packed", "stored", "no_gain", "lagged"), 0)

    def encoder(self, itemsize: int) -> Encoder:
        """What compresses chunks of items of so many bytes."""
        return self._encoder(*self.filter, itemsize)

    def lags(self, nbytes: int) -> bool:
        """Whether a chunk of so many bytes would be refused."""
        with self._lock:
            after = self._waiting + nbytes
            late = after * self._seconds_per_byte / self._threads > LAG_S or after > MAX_WAITING_BYTES
            return self.pressed or (late and self._waiting > 0)

    def submit(self, encode: Encoder, data: Buffer) -> Future[bytes] | None:
        """Begin to compress a chunk, which must not change meanwhile; None when we lag."""
        size = memoryview(data).nbytes
        if self.lags(size):
            return None
        with self._lock:
            self._waiting += size
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._threads, "bag-compress")
            future = self._pool.submit(self._run, encode, data, size)
        future.add_done_callback(lambda _: self._finished(size))
        return future

    def count(self, what: str, nbytes: int) -> None:
        """Count bytes: `packed`, and as what `stored`; or left raw for `no_gain`, or as we `lagged`."""
        with self._lock:
            self._counts[what] += nbytes

    def statistics(self) -> Compression:
        """What has become of the bytes so far."""
        with self._lock:
            return Compression("{}:{}".format(*self.filter), **self._counts)

    def close(self) -> None:
        """End the threads; more work starts them again."""
        with self._lock:
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(cancel_futures=True)

    def _run(self, encode: Encoder, data: Buffer, size: int) -> bytes:
        begin = time.perf_counter()
        packed = encode(data)
        took = (time.perf_counter() - begin) / max(1, size)
        with self._lock:
            self._seconds_per_byte += LATEST * (took - self._seconds_per_byte)
        return packed

    def _finished(self, size: int) -> None:
        with self._lock:
            self._waiting -= size
