"""Damaged and hostile bags, and every command run on them in a child process whose time and memory are limited.

A case passes when every command ends by itself with an exit code of its own and, if that is not 0, one sentence on
standard error; when the bag is still byte for byte what it was; and when nothing but the named output appeared
beside it.
"""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from click.testing import CliRunner

from bag.cli import bag as group
from bag.storage.guard import ask

# the bag under test is `{bag}`, what may be written `{out}`
COMMANDS = (
    "info {bag}",
    "info --json {bag} --topic /imu",
    "verify {bag}",
    "verify --json {bag}",
    "cat {bag} --full",
    "cat {bag} --format ndjson --start 0.1 --end -0.1",
    "du --columns {bag}",
    "filter {bag} -o {out} -f -S 0.1 -E -0.1 --sticky .*",
    "merge {bag} {bag} -o {out} -f",
    "compress {bag} -o {out} -f",
    "attach-schema {bag} -o {out} -f",
    "recover {bag} -o {out} -f",
)
TIMEOUT_S = 120.0


def run_all(path: Path, commands: tuple[str, ...] = COMMANDS) -> list[str]:
    """Complaints about how the commands took the bag at `path`; none when all is well."""
    before = path.read_bytes()
    place = path.parent / "out"
    place.mkdir(exist_ok=True)
    listing = sorted(path.parent.rglob("*"))

    def answer() -> list[str]:
        return [complaint for command in commands for complaint in _run(command, path, place / "new.h5")]

    complaints: Any = ask(answer, timeout_s=TIMEOUT_S)
    if complaints is None:
        complaints = [f"a command crashed, hung or took too much memory: {_culprit(path, place, commands)}"]
    (place / "new.h5").unlink(missing_ok=True)
    if path.read_bytes() != before:
        complaints.append("the bag was changed")
    if sorted(path.parent.rglob("*")) != listing:
        complaints.append(f"something was left behind: {sorted(set(path.parent.rglob('*')) - set(listing))}")
    shutil.rmtree(place)
    return complaints


def _run(command: str, path: Path, output: Path) -> list[str]:
    result = CliRunner().invoke(group, command.format(bag=path, out=output).split())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return [f"{command}: {type(result.exception).__name__}: {result.exception}"]
    if result.exit_code not in (0, 1, 2, 3):
        return [f"{command}: exit code {result.exit_code}"]
    sentences = result.stderr.strip().splitlines()
    if result.exit_code == 1 and "verify" not in command and len(sentences) != 1:
        return [f"{command}: not one sentence but {sentences}"]
    return []


# which command it was that took the child down
def _culprit(path: Path, place: Path, commands: tuple[str, ...]) -> str:
    found = [command for command in commands if ask(lambda: _run(command, path, place / "new.h5")) is None]
    return ", ".join(found) or "all of them together"


# --- damage


def mutate(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """(kind, the bytes with something wrong)."""
    kind = chance.choice(("flip", "flips", "zeros", "noise", "cut", "swap", "insert", "number"))
    out = bytearray(data)
    at = chance.randrange(len(out))
    if kind == "flip":
        out[at] ^= 1 << chance.randrange(8)
    elif kind == "flips":
        for _ in range(chance.randint(2, 60)):
            out[chance.randrange(len(out))] = chance.randrange(256)
    elif kind == "zeros":
        end = min(len(out), at + chance.choice((8, 64, 512, 4096)))
        out[at:end] = bytes(end - at)
    elif kind == "noise":
        end = min(len(out), at + chance.choice((8, 64, 512, 4096)))
        out[at:end] = chance.randbytes(end - at)
    elif kind == "cut":
        del out[at:]
    elif kind == "swap":
        size = min(512, len(out) - at)
        other = chance.randrange(len(out) - size)
        out[at : at + size], out[other : other + size] = out[other : other + size], out[at : at + size]
    elif kind == "insert":
        out[at:at] = chance.randbytes(chance.choice((1, 8, 512)))
    else:
        # HDF5's numbers are 8 bytes, aligned: lengths, counts, addresses
        at -= at % 8
        out[at : at + 8] = chance.choice((0, 1, 2**31, 2**40, 2**63, 2**64 - 1, len(out), at)).to_bytes(8, "little")
    return kind, bytes(out[: len(data) + 512])


def borders(path: Path) -> list[int]:
    """Where chunks of the bag begin and end: the places at which a file is cut short in the nastiest way."""
    found: set[int] = set()

    def visit(_name: str, node: Any) -> None:
        if isinstance(node, h5py.Dataset) and node.chunks:
            node.id.chunk_iter(lambda info: found.update((info.byte_offset, info.byte_offset + info.size)))

    with h5py.File(path) as file:
        file.visititems(visit)
    return sorted(found)


# --- hostility: what only an attacker would write


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
    import zlib

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
