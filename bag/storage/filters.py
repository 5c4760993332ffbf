"""Compression of chunks, byte for byte as HDF5's own filters write it, but outside HDF5 and with bounded output.

A compressed column passes `shuffle` (for items above one byte) and then `gzip`, `lz4` or `zstd`. gzip is in every HDF5;
the others need the plugins of the extra `cortex-bag[compression]`, here and for every other reader.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from collections.abc import Callable
from typing import Any

import h5py
import numpy as np

from bag.errors import IntegrityError, MissingExtraError, UsageError

GZIP, LZ4, ZSTD = "gzip", "lz4", "zstd"
NAMES = (GZIP, LZ4, ZSTD)
# the numbers under which The HDF Group registers them
NUMBERS = {GZIP: h5py.h5z.FILTER_DEFLATE, LZ4: 32004, ZSTD: 32015}
# every level packs and unpacks to the same bytes; these are where more time buys little
LEVELS = {GZIP: 4, LZ4: 0, ZSTD: 3}
LZ4_SIZE = struct.Struct(">Q")

Encoder = Callable[[bytes], bytes]


def parse_compression(text: str) -> tuple[str, int]:
    """(filter, level) of `gzip`, `zstd:9`...

    Raises:
        UsageError: there is no such compression.
    """
    name, _colon, level = text.partition(":")
    if name not in NAMES or (level and not level.isdigit()):
        raise UsageError(f"there is no compression {text!r}; it can be gzip, lz4 or zstd, with a level as in zstd:9")
    return name, int(level) if level else LEVELS[name]


def require(name: str) -> None:
    """Load the plugins for a filter.

    Raises:
        MissingExtraError: they are not installed.
    """
    if name != GZIP and not h5py.h5z.filter_avail(NUMBERS[name]):
        try:
            import hdf5plugin  # noqa: F401  registers its filters with HDF5
        except ImportError as error:
            raise MissingExtraError(f"Compression {name}", "compression") from error


def set_filters(plist: Any, name: str, level: int, itemsize: int) -> None:
    """Put the filters into the creation properties of a dataset."""
    if itemsize > 1:
        plist.set_shuffle()
    if name == GZIP:
        plist.set_deflate(level)
    else:
        plist.set_filter(NUMBERS[name], h5py.h5z.FLAG_MANDATORY, (level,))


def encoder_of(name: str, level: int, itemsize: int) -> Encoder:
    """What turns the bytes of a whole chunk into the bytes to store."""
    require(name)
    if name == GZIP:
        return lambda data: zlib.compress(_shuffled(data, itemsize), level)
    return lambda data: _through_hdf5(name, level).encode(_shuffled(data, itemsize))


def decoder_of(name: str, itemsize: int) -> Callable[[bytes, int], bytes]:
    """What turns the stored bytes of a chunk into so many bytes, and refuses to make more of them.

    Raises:
        UsageError: there is no such filter.
        MissingExtraError: its plugin is not installed.
    """
    if name not in NAMES:
        raise UsageError(f"the bag uses compression {name!r}, which this version does not know")
    require(name)

    def decode(data: bytes, size: int) -> bytes:
        if name == GZIP:
            unpacker = zlib.decompressobj()
            out = unpacker.decompress(data, size)
            fits = len(out) == size and not unpacker.decompress(unpacker.unconsumed_tail, 1)
        else:
            fits = _stated_size(name, data) == size
            out = _through_hdf5(name, 0).decode(data, size) if fits else b""
        if not fits:
            raise IntegrityError(f"a {name} chunk does not unpack to the {size} bytes it should")
        return _unshuffled(out, itemsize)

    return decode


def _shuffled(data: bytes, itemsize: int) -> bytes:
    if itemsize <= 1:
        return bytes(data)
    return bytes(np.frombuffer(data, np.uint8).reshape(-1, itemsize).T.tobytes())


def _unshuffled(data: bytes, itemsize: int) -> bytes:
    if itemsize <= 1:
        return data
    return bytes(np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes())


def _stated_size(name: str, data: bytes) -> int:
    if name == LZ4:
        return int(LZ4_SIZE.unpack_from(data)[0]) if len(data) >= LZ4_SIZE.size else -1
    return _zstd_size(data)


# the content size that a zstd frame states (RFC 8878, 3.1.1.1)
def _zstd_size(data: bytes) -> int:
    if len(data) < 14 or data[:4] != b"\x28\xb5\x2f\xfd":
        return -1
    descriptor = data[4]
    single, flag = descriptor >> 5 & 1, descriptor >> 6
    at = 5 + (0 if single else 1) + (0, 1, 2, 4)[descriptor & 3]
    width = (1 if single else 0, 2, 4, 8)[flag]
    if not width:
        return -1
    return int.from_bytes(data[at : at + width], "little") + (256 if flag == 1 else 0)


# HDF5 knows files by their names, also those that are on no disk
def _memory_file() -> h5py.File:
    return h5py.File(f"chunk-{uuid.uuid4().hex}", "w", driver="core", backing_store=False)


class _through_hdf5:  # noqa: N801  reads as a word
    """Runs one chunk through a plugin, in a file that exists in memory only."""

    def __init__(self, name: str, level: int) -> None:
        self._name = name
        self._level = level

    def _dataset(self, file: h5py.File, size: int) -> h5py.Dataset:
        filters = {"compression": NUMBERS[self._name], "compression_opts": (self._level,)}
        return file.create_dataset("chunk", (size,), "u1", chunks=(size,), **filters)

    def encode(self, data: bytes) -> bytes:
        """Stored bytes of the chunk."""
        with _memory_file() as file:
            dataset = self._dataset(file, len(data))
            dataset[...] = np.frombuffer(data, np.uint8)
            file.flush()
            _mask, stored = dataset.id.read_direct_chunk((0,))
            return bytes(stored)

    def decode(self, data: bytes, size: int) -> bytes:
        """Bytes of the stored chunk."""
        with _memory_file() as file:
            dataset = self._dataset(file, size)
            dataset.id.write_direct_chunk((0,), data)
            return bytes(dataset[...])
