"""ROS 1 `rosbag play` and `lcm-logplayer` on the same messages, for bench_play.py, each with a receiver in Python.

Debian: apt-get install --no-install-recommends python3-rosbag python3-rospy python3-rosmaster python3-roslaunch
python3-std-msgs liblcm-bin. What is not installed is left out. Messages are as large as ours; the sequence stands in
the first eight bytes of each.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Plan = list[tuple[int, int, int]]
SYSTEM_PYTHON = "/usr/bin/python3"
LCM_URL = "udpm://239.255.76.67:7667?ttl=0"
START_S = 1_767_225_600

WRITE_ROS = """
import sys, struct, json, rosbag, genpy
from std_msgs.msg import UInt8MultiArray
out, plan = sys.argv[1], json.load(open(sys.argv[2]))
names, sizes = plan["names"], plan["sizes"]
with rosbag.Bag(out, "w") as bag:
    for at, number, sequence in plan["plan"]:
        data = struct.pack("<Q", sequence) + bytes(max(0, sizes[number] - 8))
        bag.write(names[number], UInt8MultiArray(data=data), genpy.Time(plan["start_s"] + at // 10**9, at % 10**9))
"""

RECEIVE_ROS = """
import sys, json, struct, time, rospy
plan = json.load(open(sys.argv[2])); names, count = plan["names"], len(plan["plan"])
log = []; last = [time.monotonic()]
def take(number):
    def callback(message):
        log.append((number, struct.unpack_from("<Q", message._buff, 12)[0], time.monotonic_ns()))
        last[0] = time.monotonic()
    return callback
rospy.init_node("receiver", disable_signals=True)
for number, name in enumerate(names):
    rospy.Subscriber(name, rospy.AnyMsg, take(number), queue_size=10000, buff_size=1 << 24, tcp_nodelay=True)
print("ready", flush=True)
while len(log) < count and not (log and time.monotonic() - last[0] > 5): time.sleep(0.05)
json.dump(log, open(sys.argv[1], "w")); print("done", flush=True); import os; os._exit(0)
"""


def rivals(directory: Path, plan: Plan, topics: list[Any]) -> dict[str, Callable[[], np.ndarray[Any, Any]]]:
    """What can be measured here: a name, and a function that plays once and returns what arrived."""
    sizes = [max(sum(memoryview(part).nbytes for part in m.to_frames(0)) for m in ms) for _n, _h, ms in topics]
    names = [name for name, _hz, _messages in topics]
    out: dict[str, Callable[[], np.ndarray[Any, Any]]] = {}
    if shutil.which("lcm-logplayer"):
        log = directory / "w3.lcm"
        _write_lcm(log, plan, names, sizes)
        out["lcm-logplayer"] = lambda: _play_lcm(log, names, len(plan))
    if shutil.which("rosbag") and shutil.which("rosmaster"):
        out["rosbag play"] = _ros(directory, plan, names, sizes)
    return out


# --- LCM: its log and its packets are simple enough to be written and read here


def _write_lcm(path: Path, plan: Plan, names: list[str], sizes: list[int]) -> None:
    with path.open("wb") as file:
        for count, (at, number, sequence) in enumerate(plan):
            channel = names[number].encode()
            data = struct.pack("<Q", sequence) + bytes(max(0, sizes[number] - 8))
            stamp = START_S * 1_000_000 + at // 1000
            file.write(struct.pack(">IqqII", 0xEDA1DA01, count, stamp, len(channel), len(data)) + channel + data)


def _play_lcm(path: Path, names: list[str], count: int) -> np.ndarray[Any, Any]:
    receiver = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    receiver.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    # 33 is SO_RCVBUFFORCE: beyond what the system allows to everybody
    receiver.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)
    receiver.bind(("239.255.76.67", 7667))
    group = socket.inet_aton("239.255.76.67")
    receiver.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, group + socket.inet_aton("127.0.0.1"))
    receiver.settimeout(5)
    numbers = {name.encode(): number for number, name in enumerate(names)}
    log: list[tuple[int, int, int]] = []
    parts: dict[int, list[Any]] = {}
    player = subprocess.Popen(
        ["lcm-logplayer", "--lcm-url", LCM_URL, str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    buffer = bytearray(1 << 16)
    while len(log) < count:
        try:
            size = receiver.recv_into(buffer)
        except TimeoutError:
            break
        now = time.monotonic_ns()
        magic, sequence = struct.unpack_from(">II", buffer)
        if magic == 0x4C433032:
            end = buffer.index(0, 8)
            log.append((numbers[bytes(buffer[8:end])], struct.unpack_from("<Q", buffer, end + 1)[0], now))
        elif magic == 0x4C433033:
            _total, _offset, fragment, fragments = struct.unpack_from(">IIHH", buffer, 8)
            state = parts.setdefault(sequence, [0, 0, 0])
            state[0] += 1
            if fragment == 0:
                end = buffer.index(0, 20, size)
                state[1:] = [numbers[bytes(buffer[20:end])], struct.unpack_from("<Q", buffer, end + 1)[0]]
            if state[0] == fragments:
                log.append((state[1], state[2], now))
                del parts[sequence]
    player.wait(30)
    receiver.close()
    return np.array(log, np.int64).reshape(-1, 3)


# --- ROS 1


def _ros(directory: Path, plan: Plan, names: list[str], sizes: list[int]) -> Callable[[], np.ndarray[Any, Any]]:
    described = directory / "plan.json"
    described.write_text(json.dumps({"names": names, "sizes": sizes, "plan": plan, "start_s": START_S}))
    path, got = directory / "w3.bag", directory / "ros.json"
    subprocess.run([SYSTEM_PYTHON, "-c", WRITE_ROS, str(path), str(described)], check=True)
    environment = os.environ | {
        "ROS_MASTER_URI": "http://127.0.0.1:11399",
        "ROS_IP": "127.0.0.1",
        "ROS_HOME": str(directory / "ros"),
    }

    def run() -> np.ndarray[Any, Any]:
        quiet: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "env": environment}
        master = subprocess.Popen(["rosmaster", "--core", "-p", "11399"], start_new_session=True, **quiet)
        try:
            _wait_port(11399)
            receiver = subprocess.Popen(
                [SYSTEM_PYTHON, "-c", RECEIVE_ROS, str(got), str(described)],
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=environment,
                text=True,
            )
            assert receiver.stdout is not None
            receiver.stdout.readline()
            subprocess.run(["rosbag", "play", "-q", "-d", "2", "--queue=10000", str(path)], check=True, **quiet)
            receiver.stdout.readline()
            receiver.wait(30)
        finally:
            master.send_signal(signal.SIGINT)
            master.wait(30)
        return np.array(json.loads(got.read_text()), np.int64).reshape(-1, 3)

    return run


def _wait_port(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            socket.create_connection(("127.0.0.1", port), 0.5).close()
            return
        except OSError:
            time.sleep(0.1)
    raise TimeoutError("rosmaster does not answer")
