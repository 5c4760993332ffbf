"""Compression of chunks, byte for byte as HDF5's own filters write it, but outside HDF5 and with bounded output.

A compressed column passes `shuffle` (for items above one byte) and then `gzip`, `lz4` or `zstd`. gzip is in every HDF5;
the others need the plugins of the extra `cortex-bag[compression]`, here and for every other reader. The libraries that
do the work here let go of Python's lock meanwhile, so that several threads can pack.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from bag.errors import IntegrityError, MissingExtraError, UsageError
from bag.storage.disk import Buffer

GZIP, LZ4, ZSTD = "gzip", "lz4", "zstd"
NAMES = (GZIP, LZ4, ZSTD)
# the numbers under which The HDF Group registers them
NUMBERS = {GZIP: h5py.h5z.FILTER_DEFLATE, LZ4: 32004, ZSTD: 32015}
# every level packs and unpacks to the same bytes; these are where more time buys little
LEVELS: Mapping[str, int] = {GZIP: 4, LZ4: 0, ZSTD: 3}
HIGHEST = {GZIP: 9, LZ4: 12, ZSTD: 22}
# up to this level gzip is made by the quick library, where there is one
QUICK_GZIP = 3
# of a chunk, big-endian: its bytes, bytes of a block but the last; then before each block: its stored bytes
LZ4_HEAD = struct.Struct(">QI")
LZ4_SIZE = struct.Struct(">I")
LZ4_BLOCK = 1 << 30

Encoder = Callable[[Buffer], bytes]


def parse_compression(text: str, levels: Mapping[str, int] = LEVELS) -> tuple[str, int]:
    """(filter, level) of `gzip`, `zstd:9`...; without a level that of `levels`.

    Raises:
        UsageError: there is no such compression.
    """
    name, colon, level = text.partition(":")
    if name not in NAMES or (colon and not (level.isascii() and level.isdecimal())):
        raise UsageError(f"there is no compression {text!r}; it can be gzip, lz4 or zstd, with a level as in zstd:9")
    if colon and int(level) > HIGHEST[name]:
        raise UsageError(f"{name} has no level {level}; it can be at most {HIGHEST[name]}")
    return name, int(level) if colon else levels[name]


def require(name: str) -> None:
    """Load the plugins for a filter, so that HDF5 can read it.

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
        # what lz4 takes here is the size of its blocks: 0 leaves it to the filter
        plist.set_filter(NUMBERS[name], h5py.h5z.FLAG_MANDATORY, (0 if name == LZ4 else level,))


def encoder_of(name: str, level: int, itemsize: int) -> Encoder:
    """What turns the bytes of a whole chunk into the bytes to store; fit for several threads.

    Raises:
        MissingExtraError: its library is not installed.
    """
    pack = _packer(name, level)
    if itemsize <= 1:
        return pack
    return lambda data: pack(_shuffled(data, itemsize).data)


def _packer(name: str, level: int) -> Encoder:
    if name == GZIP:
        gzip = _quick_zlib() if 0 < level <= QUICK_GZIP else zlib
        return lambda data: bytes(gzip.compress(data, level))
    library = _library(name)
    if name == LZ4:
        how = {"mode": "high_compression", "compression": level} if level else {}
        return lambda data: _lz4_packed(library, data, how)
    # a compressor is for one thread at a time, and quickly made
    return lambda data: bytes(library.ZstdCompressor(level).compress(data))


def decoder_of(name: str, itemsize: int) -> Callable[[bytes, int], bytes]:
    """What turns the stored bytes of a chunk into so many bytes, and refuses to make more of them.

    Raises:
        UsageError: there is no such filter.
        MissingExtraError: its library is not installed.
    """
    if name not in NAMES:
        raise UsageError(f"the bag uses compression {name!r}, which this version does not know")
    unpack: Callable[[bytes, int], bytes | None] = _gzip_unpacked
    if name != GZIP:
        library = _library(name)
        plain = _lz4_unpacked if name == LZ4 else _zstd_unpacked

        def unpack(data: bytes, size: int) -> bytes | None:
            return plain(library, data, size)

    def decode(data: bytes, size: int) -> bytes:
        out = unpack(data, size)
        if out is None or len(out) != size:
            raise IntegrityError(f"a {name} chunk does not unpack to the {size} bytes it should")
        return _unshuffled(out, itemsize)

    return decode


def _quick_zlib() -> Any:
    try:
        from isal import isal_zlib
    except ImportError:
        return zlib
    return isal_zlib


def _library(name: str) -> Any:
    try:
        if name == LZ4:
            import lz4.block

            return lz4.block
        import zstandard
    except ImportError as error:
        raise MissingExtraError(f"Compression {name}", "compression") from error
    return zstandard


# numpy lets go of Python's lock while it copies
def _shuffled(data: Buffer, itemsize: int) -> NDArray[np.uint8]:
    return np.ascontiguousarray(np.frombuffer(data, np.uint8).reshape(-1, itemsize).T)


def _unshuffled(data: bytes, itemsize: int) -> bytes:
    if itemsize <= 1:
        return data
    return bytes(np.frombuffer(data, np.uint8).reshape(itemsize, -1).T.tobytes())


# --- the formats; None stands for what does not fit


def _gzip_unpacked(data: bytes, size: int) -> bytes | None:
    unpacker = zlib.decompressobj()
    try:
        out = unpacker.decompress(data, size)
        return None if unpacker.decompress(unpacker.unconsumed_tail, 1) else out
    except zlib.error:
        return None


def _lz4_packed(library: Any, data: Buffer, how: dict[str, Any]) -> bytes:
    view = memoryview(data).cast("B")
    pieces: list[Buffer] = [LZ4_HEAD.pack(view.nbytes, min(view.nbytes, LZ4_BLOCK))]
    for at in range(0, view.nbytes, LZ4_BLOCK):
        block = view[at : at + LZ4_BLOCK]
        packed = library.compress(block, store_size=False, **how)
        # a block as large as it was is taken as it is
        pieces += (LZ4_SIZE.pack(min(len(packed), block.nbytes)), packed if len(packed) < block.nbytes else block)
    return b"".join(pieces)


def _lz4_unpacked(library: Any, data: bytes, size: int) -> bytes | None:
    if len(data) < LZ4_HEAD.size or LZ4_HEAD.unpack_from(data)[0] != size:
        return None
    step, at, left = LZ4_HEAD.unpack_from(data)[1], LZ4_HEAD.size, size
    out = []
    while left and step and at + LZ4_SIZE.size <= len(data):
        (stored,) = LZ4_SIZE.unpack_from(data, at)
        at += LZ4_SIZE.size
        block, wanted = data[at : at + stored], min(step, left)
        if len(block) < stored:
            return None
        try:
            out.append(block if stored == wanted else library.decompress(block, uncompressed_size=wanted))
        except library.LZ4BlockError:
            return None
        if len(out[-1]) != wanted:
            return None
        at, left = at + stored, left - wanted
    return None if left else b"".join(out)


def _zstd_unpacked(library: Any, data: bytes, size: int) -> bytes | None:
    try:
        if library.frame_content_size(data) != size:
            return None
        return bytes(library.ZstdDecompressor().decompress(data, max_output_size=size))
    except library.ZstdError:
        return None
