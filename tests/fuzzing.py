"""Damaged bags, and commands run on bags nobody vouches for in a child process whose time and memory are limited.

A case passes when every command ends by itself with an exit code of its own and, if that is 1, one sentence on standard
error; when the bag is still byte for byte what it was; and when nothing but the named output appeared beside it.

`run_many` is `run_all` for thousands of cases: one child works through many of them, and in it the commands do without
the child processes of their own that HDF5 usually meets a file in first. Only a case on which that child dies is run
anew, as it is run for a user, and only what that shows counts.
"""

from __future__ import annotations

import mmap
import random
import shutil
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from click.testing import CliRunner

from bag.cli import bag as group
from bag.storage import probe
from bag.storage import recover as recovery
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


# of one case within many; one that hangs is looked at again with the command's own limits, only stricter
CPU_S = 0.5
PROBE_CPU_S = 0.0
WALL_S = 60
LONGEST_SENTENCE = 1000


@dataclass(frozen=True)
class Case:
    """A bag to make at a path, and the commands to run on it."""

    name: str
    make: Callable[[Path], object]
    commands: tuple[str, ...]


def run_all(path: Path, commands: tuple[str, ...] = COMMANDS) -> list[str]:
    """Complaints about how the commands took the bag at `path`; none when all is well."""
    complaints: Any = ask(lambda: _run_here(path, commands), timeout_s=TIMEOUT_S)
    if complaints is None:
        place = path.parent / "out"
        complaints = [f"a command crashed, hung or took too much memory: {_culprit(path, place, commands)}"]
        shutil.rmtree(place, ignore_errors=True)
    return complaints


def run_many(cases: Sequence[Case], directory: Path) -> list[str]:
    """Complaints about all of the cases; their bags come and go in `directory`."""
    complaints = directory / "complaints.txt"
    complaints.touch()
    place = directory / "case"
    first = 0
    with mmap.mmap(-1, 8) as at:
        while first < len(cases):
            if ask(lambda: _work_through(cases[first:], place, complaints, at), timeout_s=600) is not None:
                break
            first += int.from_bytes(at[:], "little")
            with complaints.open("a") as file:
                found = _run_strictly(_fresh(cases[first], place), cases[first].commands)
                file.writelines(f"{cases[first].name}: {text}\n" for text in found)
            first += 1
    shutil.rmtree(place, ignore_errors=True)
    found = complaints.read_text().splitlines()
    complaints.unlink()
    return found


def _run_strictly(path: Path, commands: tuple[str, ...]) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        for module, name in ((probe, "CPU_S"), (probe, "ROLL_FORWARD_CPU_S"), (recovery, "ROLL_FORWARD_CPU_S")):
            patch.setattr(module, name, PROBE_CPU_S)
        return run_all(path, commands)


def _fresh(case: Case, place: Path) -> Path:
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    case.make(place / "x.h5")
    return place / "x.h5"


def _work_through(cases: Sequence[Case], place: Path, complaints: Path, at: mmap.mmap) -> bool:
    probe.ask = recovery.ask = _answer_here
    # pytest has handlers of its own, which a process that hangs in HDF5 never comes to
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.signal(signal.SIGPROF, signal.SIG_DFL)
    for number, case in enumerate(cases):
        at[:] = number.to_bytes(8, "little")
        bag = _fresh(case, place)
        signal.setitimer(signal.ITIMER_PROF, CPU_S * len(case.commands))
        signal.alarm(WALL_S)
        found = _run_here(bag, case.commands)
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        if found:
            with complaints.open("a") as file:
                file.writelines(f"{case.name}: {text}\n" for text in found)
    return True


def _answer_here(question: Callable[[], Any], **_: object) -> Any:
    try:
        return question()
    except Exception:
        return None


def _run_here(path: Path, commands: tuple[str, ...]) -> list[str]:
    place = path.parent / "out"
    place.mkdir(exist_ok=True)
    before = {item: _content(item) for item in path.parent.rglob("*")}
    complaints = [complaint for command in commands for complaint in _run(command, path, place / "new.h5")]
    (place / "new.h5").unlink(missing_ok=True)
    after = {item: _content(item) for item in path.parent.rglob("*")}
    complaints += [f"{item.name} was left behind" for item in after.keys() - before.keys()]
    if not _died(path):
        complaints += [f"{item.name} was changed" for item in before if before[item] != after.get(item)]
    shutil.rmtree(place)
    return complaints


# a bag whose recorder died is brought to its last message by whoever opens it
def _died(path: Path) -> bool:
    return path.with_name(f"{path.name}.died").exists()


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


def _run(command: str, path: Path, output: Path) -> list[str]:
    result = CliRunner().invoke(group, command.format(bag=path, out=output).split())
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        return [f"{command}: {type(result.exception).__name__}: {result.exception}"]
    if result.exit_code not in (0, 1, 2, 3):
        return [f"{command}: exit code {result.exit_code}"]
    sentences = result.stderr.strip().splitlines()
    if result.exit_code == 1 and not command.startswith("verify --json") and len(sentences) != 1:
        return [f"{command}: not one sentence but {sentences}"]
    if any(len(sentence) > LONGEST_SENTENCE or "Traceback" in sentence for sentence in sentences):
        return [f"{command}: no sentence for people: {sentences}"]
    return []


# which command it was that took the child down
def _culprit(path: Path, place: Path, commands: tuple[str, ...]) -> str:
    place.mkdir(exist_ok=True)
    found = [command for command in commands if ask(lambda: _run(command, path, place / "new.h5")) is None]
    return ", ".join(found) or "all of them together"


# --- damage


def mutate(data: bytes, chance: random.Random) -> tuple[str, bytes]:
    """(kind, the bytes with something wrong)."""
    kind = chance.choice(("flip", "flips", "zeros", "noise", "cut", "swap", "insert", "number"))
    out = bytearray(data)
    # much of a small HDF5 file is room nobody uses yet: most damage goes where something is
    used = np.flatnonzero(np.frombuffer(data, np.uint8))
    at = int(used[chance.randrange(len(used))]) if chance.random() < 0.8 else chance.randrange(len(out))
    if kind == "flip":
        out[at] ^= 1 << chance.randrange(8)
    elif kind == "flips":
        for _ in range(chance.randint(2, 60)):
            out[int(used[chance.randrange(len(used))])] = chance.randrange(256)
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
