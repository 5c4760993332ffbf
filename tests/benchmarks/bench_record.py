"""Recording beside a bare receive loop, on the same load in the same run: what the recorder costs, as ratios.

    python tests/benchmarks/bench_record.py [W1 W2 W3 W4] [--rates 0 120] [--repeat 3] [--receive-interval 20]
        [--rivals] [--directory /tmp]

For every load and rate it runs, in turn, a bare ZeroMQ loop that appends what it receives to a plain file, and the
recorder, once as it is and once for each receive interval (ms) that is given. It prints messages received of sent, CPU
seconds of the receiving process, its peak memory, how long after the last send everything had been received and written
("behind"), and for how long commits kept the writer. With --rivals also what `lcm-logger` and `rosbag record` make of
the same load, where they are installed (see bench_record_rivals.py).
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from bench_record_rivals import rivals

HERE = Path(__file__).resolve().parent
# topics of a load for the rivals: name, bytes, Hz
PLANS = {
    "W1": [("/camera", 6_220_880, 1)],
    "W2": [("/small", 155, 1)],
    "W3": [
        ("/camera/left", 921_680, 30),
        ("/camera/right", 921_680, 30),
        ("/lidar", 1_600_080, 10),
        ("/imu", 155, 1000),
        ("/joints", 300, 500),
        ("/state", 100, 10),
    ],
    "W4": [(f"/t/{number:03d}", 155, 50) for number in range(200)],
}
RUNS: dict[str, list[tuple[float, int]]] = {
    "W1": [(0, 300), (30, 90), (60, 180), (90, 270), (120, 360), (180, 360)],
    "W2": [
        (0, 600_000),
        (10_000, 50_000),
        (50_000, 250_000),
        (100_000, 400_000),
        (150_000, 500_000),
        (200_000, 500_000),
    ],
    "W3": [(1, 1580 * 10)],
    "W4": [(1, 10_000 * 8)],
}


def cpu_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def let_go() -> float:
    """Let the publisher begin; from now on CPU time counts."""
    print("ready", flush=True)
    return cpu_seconds()


def bare(out: Path, count: int) -> dict[str, float]:
    """Receive everything with recv_multipart and append it to a plain file."""
    import zmq

    from cortex.discovery.client import DiscoveryClient

    context = zmq.Context()
    poller = zmq.Poller()
    for info in DiscoveryClient().list_topics():
        socket = context.socket(zmq.SUB)
        socket.set(zmq.RCVHWM, 0)
        socket.subscribe(info.name.encode())
        socket.connect(info.address)
        poller.register(socket, zmq.POLLIN)
    begin = let_go()
    received, last = 0, time.time()
    with out.open("wb", buffering=1 << 20) as file:
        while received < count:
            ready = poller.poll(3000)
            if not ready:
                break
            for socket, _event in ready:
                for _ in range(500):
                    try:
                        parts = socket.recv_multipart(zmq.NOBLOCK)
                    except zmq.Again:
                        break
                    file.write(b"".join(parts))
                    received += 1
            last = time.time()
    return {"received": received, "end": last, "cpu": cpu_seconds() - begin}


def ours(out: Path, count: int, interval_ms: float = 0) -> dict[str, float]:
    """Record with bag.Recorder until everything has come."""
    import bag

    pauses = watch_commits()
    options = bag.RecordOptions(
        all_topics=True, max_cache_bytes=2 << 30, receive_interval_ns=round(interval_ms * 1_000_000)
    )
    recorder = bag.Recorder(out, options)
    recorder.start()
    while not recorder.statistics().topics or not all(t.connected for t in recorder.statistics().topics):
        time.sleep(0.01)
    # as the command does
    gc.freeze()
    begin = let_go()
    # joining the topics is over, what is recorded begins
    pauses.clear()
    before, last, idle = -1, time.time(), time.monotonic()
    while True:
        statistics = recorder.statistics()
        done = statistics.messages + statistics.refused + statistics.lost_before_us
        if done != before:
            before, last, idle = done, time.time(), time.monotonic()
        if done >= count or time.monotonic() - idle > 3:
            break
        # asking costs time too: as often as a live display does, until the end comes near
        time.sleep(0.25 if done < count * 0.9 else 0.02)
    running = sorted(pauses) or [0.0]
    recorder.stop()
    cpu = cpu_seconds() - begin
    statistics = recorder.statistics()
    size = os.path.getsize(out)
    return {
        "received": statistics.messages,
        "refused": statistics.refused,
        "before_us": statistics.lost_before_us,
        "end": last,
        "cpu": cpu,
        "overhead_per_message": (size - sum(t.bytes for t in statistics.topics)) / max(1, statistics.messages),
        "bytes": statistics.bytes,
        "commits": len(running),
        "pause_p50_ms": running[len(running) // 2] * 1e3,
        "pause_p99_ms": running[int(len(running) * 0.99)] * 1e3,
        "pause_max_ms": running[-1] * 1e3,
    }


def watch_commits() -> list[float]:
    """Seconds for which each commit from now on keeps the writer at once, and nothing reaches the tail; grows."""
    from bag.bagset import BagSet

    pauses: list[float] = []
    commit, go_on = BagSet.commit, BagSet.go_on

    def timed_commit(files: BagSet, wall_ns: int, mono_ns: int) -> None:
        begin = time.perf_counter()
        commit(files, wall_ns, mono_ns)
        pauses.append(time.perf_counter() - begin)

    # the longest part of one that is made a little at a time
    def timed_go_on(files: BagSet, mono_ns: int) -> None:
        begin, committing = time.perf_counter(), files.committing
        go_on(files, mono_ns)
        if committing:
            pauses[-1] = max(pauses[-1], time.perf_counter() - begin)

    BagSet.commit, BagSet.go_on = timed_commit, timed_go_on  # type: ignore[method-assign]
    return pauses


def receive(kind: str, out: Path, count: int) -> None:
    result = bare(out, count) if kind == "bare" else ours(out, count, float(kind.partition("@")[2] or 0))
    result["rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps(result), flush=True)


def run(load: str, rate: float, count: int, kind: str, directory: Path) -> dict[str, float]:
    """One receiver on one load, in a fresh Cortex directory."""
    home = Path(tempfile.mkdtemp(prefix="cxb", dir="/tmp"))
    (home / "topics").mkdir()
    out = directory / f"bench_{os.getpid()}.h5"
    env = os.environ | {"CORTEX_DIR": str(home), "PYTHONPATH": str(HERE.parent.parent)}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, "env": env}
    daemon = subprocess.Popen([sys.executable, "-m", "cortex.discovery.daemon", "--log-level", "ERROR"], env=env)
    children = [daemon]
    try:
        while not (home / "discovery.sock").exists():
            time.sleep(0.01)
        arguments = [str(HERE / "loads.py"), load, str(home / "topics"), str(rate), str(count)]
        publisher = subprocess.Popen([sys.executable, *arguments], **pipes)
        children.append(publisher)
        assert publisher.stdout.readline() == "ready\n"
        receiver = subprocess.Popen([sys.executable, __file__, "--receive", kind, str(out), str(count)], **pipes)
        children.append(receiver)
        assert receiver.stdout.readline() == "ready\n"
        time.sleep(0.5)
        sent: dict[str, float] = {}

        def follow() -> None:
            sent.update(json.loads(publisher.stdout.readline()), end=time.time())

        follower = threading.Thread(target=follow)
        begin = time.time()
        publisher.stdin.write("go\n")
        publisher.stdin.flush()
        follower.start()
        result = json.loads(receiver.stdout.readline())
        follower.join(60)
        return result | {
            "sent": sent.get("sent", 0),
            "sent_per_s": sent.get("sent", 0) / sent.get("seconds", 1),
            "received_per_s": result["received"] / (result["end"] - begin),
            "behind": result["end"] - sent.get("end", result["end"]),
        }
    finally:
        for child in children:
            child.kill()
            child.wait()
        shutil.rmtree(home)
        for leftover in directory.glob(out.name + "*"):
            leftover.unlink()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("loads", nargs="*", default=list(RUNS))
    parser.add_argument("--repeat", type=int, default=1)
    parser.add_argument("--seconds", type=float, help="of W3 and W4 instead of 10 and 8")
    parser.add_argument("--rates", type=float, nargs="*")
    parser.add_argument("--receive-interval", type=float, nargs="*", default=[])
    parser.add_argument("--rivals", action="store_true")
    parser.add_argument("--directory", type=Path, default=Path("/tmp"))
    parser.add_argument("--receive", nargs=3)
    options = parser.parse_args()
    if options.receive:
        kind, out, count = options.receive
        receive(kind, Path(out), int(count))
        return
    for load in options.loads:
        for rate, count in RUNS[load]:
            if options.rates and rate not in options.rates:
                continue
            if options.seconds and load in ("W3", "W4"):
                count = round(options.seconds * (1580 if load == "W3" else 10_000))
            for _ in range(options.repeat):
                kinds = ["bare", "ours", *(f"ours@{interval:g}" for interval in options.receive_interval)]
                rows = {kind: run(load, rate, count, kind, options.directory) for kind in kinds}
                for kind, row in rows.items():
                    print(
                        load, f"{rate:g}", kind, {name: round(value, 2) for name, value in row.items() if name != "end"}
                    )
                for kind in kinds[1:]:
                    ratio = rows[kind]["received_per_s"] / rows["bare"]["received_per_s"]
                    cpu = rows[kind]["cpu"] / rows["bare"]["cpu"]
                    print(load, f"{rate:g}", f"{kind}/bare received per second {ratio:.2f}, CPU {cpu:.2f}", flush=True)
                for name, record in rivals(options.directory).items() if options.rivals else ():
                    row = record(PLANS[load], rate, count)
                    print(load, f"{rate:g}", name, {key: round(value, 2) for key, value in row.items()}, flush=True)


if __name__ == "__main__":
    main()
