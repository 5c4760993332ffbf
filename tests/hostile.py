"""Bags that only an attacker would write: one thing in each is not as HDF5, numpy or the reader expects it."""

from __future__ import annotations

import json
import os
import shutil
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np


def _replaced(file: h5py.File, path: str, **options: Any) -> h5py.Dataset:
    del file[path]
    return file.create_dataset(path, **options)


def _definition(file: h5py.File, kind: str, change: Callable[[dict[str, Any]], Any]) -> None:
    dataset = file["/_bag/definitions"]
    lines = [json.loads(line) for line in dataset[()].tobytes().splitlines()]
    for line in lines:
        if kind in line:
            change(line[kind])
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    dataset.resize((len(data),))
    dataset[...] = np.frombuffer(data, np.uint8)


def _summary(file: h5py.File, **values: int) -> None:
    rows = file["/_bag/topics"][()]
    for name, value in values.items():
        rows[name] = value
    file["/_bag/topics"][...] = rows


def _table(file: h5py.File, name: str, **values: int) -> None:
    rows = file[f"/_bag/{name}"][()]
    for field, value in values.items():
        rows[field] = value
    file[f"/_bag/{name}"][...] = rows


def _bomb(file: h5py.File, path: str) -> None:
    shape = (1 << 28,)
    del file[path]
    dataset = file.create_dataset(path, shape, "u1", chunks=shape, maxshape=(None,), compression="gzip")
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(bytes(1 << 20)) for _ in range(1 << 8)) + packer.flush()
    dataset.id.write_direct_chunk((0,), data)


def _external(file: h5py.File, path: str) -> None:
    del file[path]
    # to open this would block for ever
    file[path] = h5py.ExternalLink(str(Path(file.filename).parent / "trap.h5"), "/data")


def _stored_elsewhere(file: h5py.File, path: str) -> None:
    del file[path]
    trap = str(Path(file.filename).parent / "trap.h5")
    file.create_dataset(path, (100,), "u1", external=[(trap, 0, 100)])


def _virtual(file: h5py.File, path: str) -> None:
    del file[path]
    layout = h5py.VirtualLayout((100,), "u1")
    layout[:] = h5py.VirtualSource(str(Path(file.filename).parent / "trap.h5"), "/data", (100,))
    file.create_virtual_dataset(path, layout)


def _soft(file: h5py.File, path: str) -> None:
    del file[path]
    file[path] = h5py.SoftLink(path)


def _loop(file: h5py.File) -> None:
    file["/imu/loop"] = file["/"]
    file["/_bag/loop"] = file["/_bag"]


def _huge_attribute(file: h5py.File) -> None:
    file.attrs["format_version"] = np.zeros(8000, np.uint64)
    file.attrs["host"] = np.zeros((10, 10))


PARTS = ("/_bag/definitions", "/_bag/runs", "/_bag/topics", "/_bag/checksums", "/imu/_index", "/imu/orientation")

HOSTILE: dict[str, Callable[[h5py.File], None]] = {
    "cyclic hard links": _loop,
    "huge attributes": _huge_attribute,
    "format_version is text": lambda file: file.attrs.__setitem__("format_version", "new"),
    "format_version is huge": lambda file: file.attrs.__setitem__("format_version", np.uint64(2**64 - 1)),
    "no attributes": lambda file: [file.attrs.__delitem__(name) for name in list(file.attrs)],
    "attributes of another type": lambda file: [
        file.attrs.__setitem__(name, np.void(b"x")) for name in list(file.attrs)
    ],
    "huge counts": lambda file: _summary(file, messages=2**60, bytes=2**63),
    "no bytes": lambda file: _summary(file, bytes=0),
    "times beyond all": lambda file: _summary(file, first_mono_ns=-(2**62), last_mono_ns=2**62),
    "endless duration": lambda file: _summary(file, first_log_ns=2**63 - 1, last_log_ns=-(2**63)),
    "runs of no channel": lambda file: _table(file, "runs", channel=2**31),
    "runs of no layout": lambda file: _table(file, "runs", layout=2**31),
    "runs that begin nowhere": lambda file: _table(file, "runs", first=2**63),
    "runs of no topic": lambda file: _table(file, "runs", topic=2**31),
    "checksums of far away": lambda file: _table(file, "open_chunks", offset=2**63),
    "checksums of everything": lambda file: _table(file, "open_chunks", size=2**32 - 1, offset=0),
    "checksums of no column": lambda file: _table(file, "open_chunks", column=2**32 - 1),
    "checksums of a far chunk": lambda file: _table(file, "open_chunks", chunk=2**50),
    "shape of a column is huge": lambda file: _definition(file, "column", lambda c: c.update(shape=[2**62])),
    "shape of a column is negative": lambda file: _definition(file, "column", lambda c: c.update(shape=[-4])),
    "shape of a column is no list": lambda file: _definition(file, "column", lambda c: c.update(shape=None)),
    "dtype of objects": lambda file: _definition(file, "column", lambda c: c.update(dtype="|O")),
    "dtype is code": lambda file: _definition(file, "column", lambda c: c.update(dtype="__import__('os')")),
    "dtype is enormous": lambda file: _definition(file, "column", lambda c: c.update(dtype="|S2147483647")),
    "column leads outside": lambda file: _definition(file, "column", lambda c: c.update(path="/../../etc/passwd")),
    "column is a group": lambda file: _definition(file, "column", lambda c: c.update(path="/imu")),
    "columns of one number": lambda file: _definition(file, "column", lambda c: c.update(id=17)),
    "kind of a column": lambda file: _definition(file, "column", lambda c: c.update(kind="exec")),
    "filter of a column": lambda file: _definition(
        file, "column", lambda c: c.update(filter="gzip", chunk_bytes=2**40, itemsize=3)
    ),
    "layout of itself": lambda file: _definition(file, "layout", lambda c: c.update(columns=[c["id"]])),
    "layout of nothing": lambda file: _definition(file, "layout", lambda c: c.update(columns=[])),
    "topic with escapes": lambda file: _definition(file, "topic", lambda c: c.update(name="\x1b[2J/../x\0")),
    "topic is a number": lambda file: _definition(file, "topic", lambda c: c.update(name=7, path=7)),
    "channel is a list": lambda file: _definition(file, "channel", lambda c: c.update(topic=[1])),
    "fingerprint is no number": lambda file: _definition(file, "channel", lambda c: c.update(fingerprint="zz")),
    "schema of 10000 fields": lambda file: _definition(file, "schema", lambda c: c.update(fields=[["x", ""]] * 10_000)),
    "index of another dtype": lambda file: _replaced(file, "/imu/_index", shape=(50,), dtype="f4", maxshape=(None,)),
    "index of strings": lambda file: _replaced(
        file, "/imu/_index", shape=(50,), dtype=h5py.string_dtype(), chunks=(5,)
    ),
    "index of two dimensions": lambda file: _replaced(file, "/imu/_index", shape=(50, 50), dtype="i8", chunks=(5, 5)),
    "index claims 2^40 rows": lambda file: file["/imu/_index"].resize((2**40,)),
    "array claims 2^40 rows": lambda file: file["/imu/orientation"].resize((2**40, 4)),
    "definitions claim 2^40 bytes": lambda file: file["/_bag/definitions"].resize((2**40,)),
    "runs claim 2^40 rows": lambda file: file["/_bag/runs"].resize((2**40,)),
    "no definitions": lambda file: file["/_bag/definitions"].resize((0,)),
    "definitions are deep": lambda file: _replaced(
        file, "/_bag/definitions", data=np.frombuffer(b'{"topic":' + b"[" * 100_000, np.uint8)
    ),
    "definitions are scalar": lambda file: _replaced(file, "/_bag/definitions", data=np.uint8(3)),
    "the book is a dataset": lambda file: _replaced(file, "/_bag", data=np.zeros(3)),
    **{f"{path} is a bomb": lambda file, path=path: _bomb(file, path) for path in PARTS},
    **{f"{path} is an external link": lambda file, path=path: _external(file, path) for path in PARTS},
    **{f"{path} is stored elsewhere": lambda file, path=path: _stored_elsewhere(file, path) for path in PARTS},
    **{f"{path} is virtual": lambda file, path=path: _virtual(file, path) for path in PARTS},
    **{f"{path} is a soft link to itself": lambda file, path=path: _soft(file, path) for path in PARTS},
}


def make_hostile(sample: Path, path: Path, name: str) -> None:
    """A copy of a bag with one hostile thing in it, and a pipe beside it that nobody should open."""
    shutil.copyfile(sample, path)
    with h5py.File(path, "r+") as file:
        HOSTILE[name](file)
    trap = path.parent / "trap.h5"
    if not trap.exists():
        os.mkfifo(trap)


# --- lies: what a table or the definitions say is changed, and all checksums are made right again


BOUNDARIES = (0, 1, 2, 3, 7, 16, 17, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1, 2**40, 2**62, 2**63 - 1, 2**63, 2**64 - 1)
TABLES = ("runs", "ledger", "topics", "clock", "open_chunks", "checksums")
VALUES: tuple[Any, ...] = (
    None,
    True,
    -1,
    0,
    1,
    16,
    17,
    99,
    2**40,
    2**70,
    1.5,
    "",
    "/imu",
    "|O",
    "<f8",
    "0x0",
    "\0",
    [],
    [-1],
)
VALUES += ({}, [[]], [2**62], ["a"], "fixed", "ragged", "bytes", "index", "../..", "zstd")


def tell_lie(path: Path, lie: tuple[int, ...]) -> None:
    """Change one thing that a bag says of itself, chosen by four numbers, and reseal it."""
    what, where, which, value = lie
    with h5py.File(path, "r+") as file:
        if what % 3 == 0:
            _lie_in_definitions(file, where, which, VALUES[value % len(VALUES)])
        elif what % 3 == 1:
            _lie_in_rows(file[f"/_bag/{TABLES[where % len(TABLES)]}"], which, BOUNDARIES[value % len(BOUNDARIES)])
        else:
            found = sorted(_columns(file), key=lambda dataset: str(dataset.name))
            _lie_in_rows(found[where % len(found)], which, BOUNDARIES[value % len(BOUNDARIES)])
    reseal(path)


# datasets that say where the bytes of messages are
def _columns(file: h5py.File) -> Iterator[h5py.Dataset]:
    found: list[h5py.Dataset] = []
    file.visititems(
        lambda name, node: (
            found.append(node) if isinstance(node, h5py.Dataset) and name.endswith(("_index", ".offsets")) else None
        )
    )
    yield from found


def _lie_in_rows(dataset: h5py.Dataset, which: int, value: int) -> None:
    rows = dataset[()]
    if not len(rows):
        return
    field = rows if rows.dtype.names is None else rows[rows.dtype.names[which % len(rows.dtype.names)]]
    field[which // 32 % len(rows)] = np.array(value % 2 ** (8 * field.dtype.itemsize), "u8").astype(field.dtype)
    dataset[...] = rows


def _lie_in_definitions(file: h5py.File, where: int, which: int, value: Any) -> None:
    dataset = file["/_bag/definitions"]
    lines = [json.loads(line) for line in dataset[()].tobytes().splitlines()]
    line = lines[where % len(lines)]
    (values,) = line.values()
    key = list(values)[which % len(values)]
    if which % 7 == 0:
        del values[key]
    elif which % 7 == 1:
        lines.remove(line)
    elif which % 7 == 2:
        lines.append(line)
    else:
        values[key] = value
    data = "".join(json.dumps(line) + "\n" for line in lines).encode()
    dataset.resize((len(data),))
    dataset[...] = np.frombuffer(data, np.uint8)


def reseal(path: Path) -> None:
    """Make the checksums of a bag fit its bytes."""
    data = path.read_bytes()
    with h5py.File(path, "r+") as file:
        length = len(file["/_bag/definitions"])
        for own in (False, True):
            for name in ("checksums", "open_chunks"):
                table = file["/_bag"][name]
                rows = table[()]
                for row in rows:
                    if row["column"] == 0:
                        row["size"] = length
                    # the table of checksums has checksums, too; they come last
                    if (row["column"] == 4) == own:
                        start = int(row["offset"])
                        row["crc"] = zlib.crc32(data[start : start + int(row["size"])])
                table[...] = rows
            file.flush()
            data = path.read_bytes()
