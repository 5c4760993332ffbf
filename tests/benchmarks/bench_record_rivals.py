"""`lcm-logger` and ROS 1 `rosbag record` on the loads of bench_record.py, for its table: received, CPU, losses.

Debian: apt-get install --no-install-recommends liblcm-bin python3-rosbag python3-rospy python3-rosmaster rosbag
python3-std-msgs. What is not installed is left out. Messages are as large as ours, with the sequence in the first
eight bytes. LCM is sent to as packets of its protocol, ROS from rospy: each publisher a process of its own.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench_play_rivals import LCM_URL, SYSTEM_PYTHON, _wait_port

ROSBAG_RECORD = "/usr/lib/rosbag/record"
Plan = list[tuple[str, int, float]]

# the pacing is that of loads.py; `send(topic number, sequence)` is the rival's
PACED = """
import heapq, json, struct, sys, time
plan, rate, count = json.loads(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3])
def paced(send):
    print("ready", flush=True); sys.stdin.readline()
    sequence = [0] * len(plan)
    begin = time.monotonic()
    due = [(begin + k / len(plan) / (hz * (rate or 1)), k) for k, (_name, _size, hz) in enumerate(plan)]
    heapq.heapify(due)
    for _ in range(count):
        at, k = due[0]
        if rate:
            wait = at - time.monotonic()
            if wait > 0.001: time.sleep(wait)
        send(k, sequence[k]); sequence[k] += 1
        heapq.heapreplace(due, (at + 1 / (plan[k][2] * (rate or 1)), k))
    print(json.dumps({"sent": count, "seconds": time.monotonic() - begin}), flush=True); sys.stdin.readline()
"""

SEND_LCM = """
import socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.setsockopt(socket.IPPROTO_IP, socket.IP_MULTICAST_TTL, 0)
sock.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)
to = ("239.255.76.67", 7667)
number = 0
FRAGMENT = 65487
bodies = [bytes(size) for _name, size, _hz in plan]
def send(k, sequence):
    global number
    name, size, _hz = plan[k]
    channel = name.encode() + b"\\0"
    body = struct.pack("<Q", sequence) + bodies[k][8:]
    number += 1
    if len(body) + len(channel) + 8 <= 65499:
        sock.sendto(struct.pack(">II", 0x4C433032, number) + channel + body, to)
        return
    first = FRAGMENT - len(channel)
    pieces, at = [channel + body[:first]], first
    while at < len(body):
        pieces.append(body[at:at + FRAGMENT]); at += FRAGMENT
    offset = 0
    for index, piece in enumerate(pieces):
        head = struct.pack(">IIIIHH", 0x4C433033, number, len(body), offset, index, len(pieces))
        sock.sendto(head + piece, to)
        offset += len(piece) - (len(channel) if index == 0 else 0)
paced(send)
"""

SEND_ROS = """
import rospy
from std_msgs.msg import UInt8MultiArray
rospy.init_node("talker", disable_signals=True)
outs = [rospy.Publisher(name, UInt8MultiArray, queue_size=100000) for name, _size, _hz in plan]
bodies = [bytes(size) for _name, size, _hz in plan]
while any(out.get_num_connections() == 0 for out in outs): time.sleep(0.05)
def send(k, sequence):
    outs[k].publish(UInt8MultiArray(data=struct.pack("<Q", sequence) + bodies[k][8:]))
paced(send)
"""


def rivals(directory: Path) -> dict[str, Callable[[Plan, float, int], dict[str, float]]]:
    """What can be measured here: a name, and a function that records a load once."""
    out: dict[str, Callable[[Plan, float, int], dict[str, float]]] = {}
    if shutil.which("lcm-logger"):
        out["lcm-logger"] = lambda plan, rate, count: _lcm(directory, plan, rate, count)
    if Path(ROSBAG_RECORD).exists() and shutil.which("rosmaster"):
        out["rosbag record"] = lambda plan, rate, count: _ros(directory, plan, rate, count)
    return out


def _record(
    recorder: list[str], talker: list[str], found: Callable[[], tuple[int, int]], env: dict[str, str] | None = None
) -> dict[str, float]:
    quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": env}
    logger = subprocess.Popen(recorder, **quiet)
    try:
        sender = subprocess.Popen(
            talker, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=env
        )
        assert sender.stdin is not None and sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        time.sleep(1)
        before = _cpu(logger.pid)
        sender.stdin.write("go\n")
        sender.stdin.flush()
        sent = json.loads(sender.stdout.readline())
        time.sleep(2)
        logger.send_signal(signal.SIGINT)
        _pid, _status, usage = os.wait4(logger.pid, 0)
        sender.kill()
        sender.wait()
    finally:
        logger.kill()
    return _result(usage, before, found(), sent)


def _result(
    usage: resource.struct_rusage, before: float, found: tuple[int, int], sent: dict[str, float]
) -> dict[str, float]:
    return {
        "received": found[0],
        "file_bytes": found[1],
        "cpu": usage.ru_utime + usage.ru_stime - before,
        "rss_mb": usage.ru_maxrss / 1024,
        "sent": sent["sent"],
        "sent_per_s": sent["sent"] / sent["seconds"],
    }


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _lcm(directory: Path, plan: Plan, rate: float, count: int) -> dict[str, float]:
    log = directory / f"rival_{os.getpid()}.lcm"

    def found() -> tuple[int, int]:
        events, at, size = 0, 0, log.stat().st_size
        with log.open("rb") as file:
            while at + 28 <= size:
                file.seek(at)
                head = file.read(28)
                at += 28 + int.from_bytes(head[20:24], "big") + int.from_bytes(head[24:28], "big")
                events += at <= size
        log.unlink()
        return events, size

    talker = [sys.executable, "-c", PACED + SEND_LCM, json.dumps(plan), str(rate), str(count)]
    return _record(["lcm-logger", "-q", "-f", "-m", "2000", f"--lcm-url={LCM_URL}", str(log)], talker, found)


def _ros(directory: Path, plan: Plan, rate: float, count: int) -> dict[str, float]:
    bag = directory / f"rival_{os.getpid()}.bag"
    env = os.environ | {
        "ROS_MASTER_URI": "http://127.0.0.1:11398",
        "ROS_IP": "127.0.0.1",
        "ROS_HOME": str(directory / "ros"),
    }

    def found() -> tuple[int, int]:
        code = "import sys, rosbag; print(rosbag.Bag(sys.argv[1]).get_message_count())"
        done = subprocess.run([SYSTEM_PYTHON, "-c", code, str(bag)], capture_output=True, text=True, check=False)
        size = bag.stat().st_size
        bag.unlink(missing_ok=True)
        bag.with_suffix(".bag.active").unlink(missing_ok=True)
        return int(done.stdout or 0), size

    master = subprocess.Popen(
        ["rosmaster", "--core", "-p", "11398"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _wait_port(11398)
        names = [name for name, _size, _hz in plan]
        talker = [SYSTEM_PYTHON, "-c", PACED + SEND_ROS, json.dumps(plan), str(rate), str(count)]
        return _record([ROSBAG_RECORD, "-q", "-b", "2000", "-O", str(bag), *names], talker, found, env)
    finally:
        master.send_signal(signal.SIGINT)
        master.wait(30)
        shutil.rmtree(directory / "ros", ignore_errors=True)
