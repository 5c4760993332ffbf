"""A control socket for a running recorder, which only the same user can open: one JSON line asked, one answered.

It stands at a place derived from the bag's path, in a directory of its own with mode 0700, and not beside the bag:
socket paths must be short, and not every file system of a robot can hold a socket.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from bag.errors import BagBusyError, BagError
from cortex.paths import base_dir, ensure_private_dir

COMMANDS = ("pause", "resume", "split", "snapshot", "mark", "stop")
MAX_LINE = 64 << 10
TIMEOUT_S = 5.0
# pid, uid, gid of the peer (SO_PEERCRED, unix(7))
PEER = struct.Struct("3i")


def control_path(bag: Path) -> Path:
    """Where the control socket of the recorder of `bag` stands."""
    name = hashlib.sha256(os.fsencode(bag.absolute())).hexdigest()[:24]
    return base_dir() / "control" / f"{name}.sock"


class ControlServer:
    """Listens in a thread of its own.

    Args:
        bag: the bag being recorded.
        obey: takes a command and its text; returns "" or why it cannot be done.
    """

    def __init__(self, bag: Path, obey: Callable[[str, str], str]) -> None:
        self._bag = bag
        self._path = control_path(bag)
        self._obey = obey
        self._stopping = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._thread = threading.Thread(target=self._serve, name="bag control", daemon=True)

    def start(self) -> None:
        """Open the socket.

        Raises:
            BagBusyError: another recorder has the same output.
        """
        ensure_private_dir(self._path.parent)
        os.chmod(self._path.parent, 0o700)
        if _answers(self._path):
            self._socket.close()
            raise BagBusyError(f"{self._bag} is being recorded by another process")
        self._path.unlink(missing_ok=True)
        self._socket.bind(str(self._path))
        os.chmod(self._path, 0o600)
        self._socket.listen()
        self._thread.start()

    def stop(self) -> None:
        """Close and remove the socket."""
        if self._thread.is_alive():
            # accept() does not end by closing the socket in another thread
            with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as bell:
                self._stopping = True
                bell.connect(str(self._path))
            self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while True:
            connection, _address = self._socket.accept()
            with connection:
                if self._stopping:
                    return
                connection.settimeout(TIMEOUT_S)
                try:
                    self._answer(connection)
                except (OSError, ValueError, KeyError, TypeError):
                    # whoever asked nonsense or went away gets no answer; the recording goes on
                    continue

    def _answer(self, connection: socket.socket) -> None:
        _pid, uid, _gid = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        if uid not in (os.getuid(), 0):
            return
        request = json.loads(_line(connection))
        reason = self._obey(str(request["command"]), str(request.get("text", "")))
        connection.sendall(json.dumps({"ok": not reason, "reason": reason}).encode() + b"\n")


def command(bag: Path, name: str, text: str = "") -> None:
    """Ask the recorder of `bag` for something.

    Raises:
        BagError: nobody records this bag, or it cannot be done.
    """
    path = control_path(bag)
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps({"command": name, "text": text}).encode() + b"\n")
            answer = json.loads(_line(connection) or b"{}")
        except (FileNotFoundError, ConnectionRefusedError):
            raise BagError(
                f"nobody is recording {bag}; name the output exactly as the recorder was given it"
            ) from None
        except (OSError, ValueError) as error:
            raise BagError(f"the recorder of {bag} did not answer ({error})") from error
    if not answer.get("ok"):
        raise BagError(f"{bag}: {answer.get('reason') or 'the recorder refused'}")


def _line(connection: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < MAX_LINE:
        more = connection.recv(4096)
        if not more:
            break
        data += more
    return data


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        return True
