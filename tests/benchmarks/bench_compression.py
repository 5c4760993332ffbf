"""The robot load recorded raw and with each compression in one run: losses, CPU, size of the file, share left raw.

    python tests/benchmarks/bench_compression.py [none gzip lz4 zstd] [--seconds 8] [--repeat 1] [--directory /tmp]

The load is W3 with cameras that see a scene (smooth shades, a noisy last bit, moving) instead of pure noise, which
nothing makes smaller; `--noise` takes W3 as it is. `packed later` is the size that `cortex bag compress` makes of the
raw bag with the same filter.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
PER_SECOND = 1580
KINDS = ("none", "gzip", "lz4", "zstd")


def publish(directory: Path, count: int, *, noise: bool) -> None:
    """Be the robot."""
    import numpy as np
    import zmq
    from loads import paced, sources

    from cortex.messages.standard import ImageMessage

    context = zmq.Context()
    plan = sources("W3", context, directory)
    if not noise:
        random = np.random.default_rng(0)
        y, x = np.mgrid[0:480, 0:640]
        for source, _hz in plan[:2]:
            source.bodies = []
            for step in range(8):
                shades = np.stack([(x + 3 * step) // 3, (y + step) // 4, (x + y) // 8], -1)
                pixels = (shades + random.integers(0, 2, shades.shape)).astype(np.uint8)
                parts = ImageMessage(pixels).to_frames(sequence=0)[1:]
                source.bodies.append([bytes(memoryview(part).cast("B")) for part in parts])
    print("ready", flush=True)
    sys.stdin.readline()
    paced(plan, 1.0, count)
    print("sent", flush=True)
    sys.stdin.readline()
    context.destroy(0)


def receive(kind: str, out: Path, count: int) -> None:
    """Record until everything has come."""
    import bag

    recorder = bag.Recorder(out, bag.RecordOptions(all_topics=True, compression=None if kind == "none" else kind))
    recorder.start()
    while len(recorder.statistics().topics) < 6 or not all(t.connected for t in recorder.statistics().topics):
        time.sleep(0.01)
    print("ready", flush=True)
    begin, idle, before = os.times(), time.monotonic(), -1
    backlog = 0
    while time.monotonic() - idle < 3:
        found = recorder.statistics()
        backlog = max(backlog, found.backlog_bytes)
        done = found.messages + found.refused + found.lost_before_us
        if done >= count:
            break
        if done != before:
            before, idle = done, time.monotonic()
        time.sleep(0.1)
    recorder.stop()
    end, found = os.times(), recorder.statistics()
    row = {
        "messages": found.messages,
        "lost_by_us": found.refused,
        "lost_before_us": found.lost_before_us,
        "cpu_s_per_GB": (end.user + end.system - begin.user - begin.system) / (found.bytes / 1e9),
        "file_of_payload": out.stat().st_size / found.bytes,
        "rss_MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
        "largest_backlog_MB": backlog / 1e6,
    }
    if found.compression is not None:
        one = found.compression
        total = one.packed + one.no_gain + one.lagged
        row |= {"packed": one.packed / total, "no_gain": one.no_gain / total, "lagged": one.lagged / total}
        row["packed_to"] = one.stored / max(1, one.packed)
    print(json.dumps(row), flush=True)


def run(kind: str, count: int, out: Path, *, noise: bool) -> dict[str, float]:
    """One recording in a fresh Cortex directory."""
    home = Path(tempfile.mkdtemp(prefix="cxb", dir="/tmp"))
    (home / "topics").mkdir()
    env = os.environ | {"CORTEX_DIR": str(home), "PYTHONPATH": f"{HERE.parent.parent}:{HERE}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    children = [subprocess.Popen([sys.executable, "-m", "cortex.discovery.daemon", "--log-level", "ERROR"], env=env)]
    try:
        while not (home / "discovery.sock").exists():
            time.sleep(0.01)
        me = [sys.executable, __file__]
        robot = [*me, "--publish", str(home / "topics"), str(count), *["--noise"] * noise]
        for arguments in (robot, [*me, "--receive", kind, str(out), str(count)]):
            children.append(subprocess.Popen(arguments, **pipes))
            assert children[-1].stdout.readline() == "ready\n"
        time.sleep(0.5)
        children[1].stdin.write("go\n")
        children[1].stdin.flush()
        return json.loads(children[2].stdout.readline())
    finally:
        for child in children:
            child.kill()
            child.wait()
        shutil.rmtree(home)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    parser.add_argument("--seconds", type=int, default=8)
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--directory", type=Path, default=Path("/tmp"))
    parser.add_argument("--noise", action="store_true")
    parser.add_argument("--publish", nargs=2)
    parser.add_argument("--receive", nargs=3)
    options = parser.parse_args()
    if options.publish:
        publish(Path(options.publish[0]), int(options.publish[1]), noise=options.noise)
        return
    if options.receive:
        kind, out, count = options.receive
        receive(kind, Path(out), int(count))
        return
    from bag.edit import FilterOptions, filter_bag

    place = Path(tempfile.mkdtemp(prefix="bench_compression_", dir=options.directory))
    try:
        for _ in range(options.repeat):
            for kind in options.kinds:
                out = place / f"{kind.replace(':', '_')}.h5"
                out.unlink(missing_ok=True)
                row = run(kind, PER_SECOND * options.seconds, out, noise=options.noise)
                print(kind, {name: round(value, 3) for name, value in row.items()}, flush=True)
                if kind != "none" and (place / "none.h5").exists():
                    later = place / "later.h5"
                    filter_bag(place / "none.h5", later, FilterOptions(compression=kind), force=True)
                    ratio = later.stat().st_size / (place / "none.h5").stat().st_size
                    print(kind, f"packed later: {ratio:.3f} of the raw bag", flush=True)
    finally:
        shutil.rmtree(place)


if __name__ == "__main__":
    main()
