"""A control socket for a running recorder, which only the same user can open: one JSON line asked, one answered.

It stands at a place derived from the bag's path, in a directory of its own with mode 0700, and not beside the bag:
socket paths must be short, and not every file system of a robot can hold a socket.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from bag.errors import BagBusyError, BagError
from cortex.errors import CortexError
from cortex.paths import base_dir, ensure_private_dir

COMMANDS = ("pause", "resume", "split", "snapshot", "mark", "stop")
MAX_LINE = 64 << 10
# for a whole question or answer
TIMEOUT_S = 5.0
# pid, uid, gid of the peer (SO_PEERCRED, unix(7))
PEER = struct.Struct("3i")
GONE = (FileNotFoundError, ConnectionRefusedError)


def control_path(bag: Path) -> Path:
    """Where the control socket of the recorder of `bag` stands; users do not get in each other's way."""
    absolute = Path(os.path.realpath(bag.parent)) / bag.name
    name = hashlib.sha256(os.fsencode(absolute)).hexdigest()[:24]
    return base_dir() / f"control-{os.getuid()}" / f"{name}.sock"


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
        self._peer: socket.socket | None = None
        self._thread = threading.Thread(target=self._serve, name="bag control", daemon=True)

    def start(self) -> None:
        """Open the socket.

        Raises:
            BagBusyError: another recorder has the same output.
            BagError: there can be no socket.
        """
        try:
            self._bind()
        except BaseException:
            self._socket.close()
            raise
        self._thread.start()

    def _bind(self) -> None:
        directory = self._path.parent
        try:
            ensure_private_dir(directory)
            if directory.is_symlink() or directory.stat().st_uid != os.getuid():
                raise BagError(f"the directory for control sockets {directory} belongs to somebody else; remove it")
            directory.chmod(0o700)
            if _answers(self._path):
                raise BagBusyError(f"{self._bag} is being recorded by another process")
            self._path.unlink(missing_ok=True)
            self._socket.bind(str(self._path))
            self._path.chmod(0o600)
            self._socket.listen()
        except (OSError, CortexError) as error:
            raise BagError(
                f"there can be no control socket at {self._path} ({error}); choose another CORTEX_DIR, or record "
                f"without one"
            ) from error

    def stop(self) -> None:
        """Close and remove the socket."""
        self._stopping = True
        # closing alone would not wake a thread that waits in accept() or recv()
        for one in (self._socket, self._peer):
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
        if self._thread.is_alive():
            self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _serve(self) -> None:
        while not self._stopping:
            try:
                self._peer, _address = self._socket.accept()
            except OSError:
                # shut down, or out of file descriptors for a moment
                continue
            # whoever asks nonsense or goes away gets no answer; the recording goes on
            with self._peer, contextlib.suppress(OSError, ValueError, KeyError, TypeError, RecursionError):
                self._answer(self._peer)

    def _answer(self, connection: socket.socket) -> None:
        _pid, uid, _gid = PEER.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, PEER.size))
        if uid not in (os.getuid(), 0):
            return
        request = json.loads(_line(connection))
        reason = self._obey(str(request["command"]), str(request.get("text", "")))
        connection.sendall(json.dumps({"ok": not reason, "reason": reason}).encode() + b"\n")


def command(bag: Path, name: str, text: str = "") -> None:
    """Ask the recorder of `bag` for something; the current file of a series will do as well.

    Raises:
        BagError: nobody records this bag, or it cannot be done.
    """
    answer = _ask(_listening(bag), bag, {"command": name, "text": text})
    if not answer.get("ok"):
        raise BagError(f"{bag}: {answer.get('reason') or 'the recorder refused'}")


def _ask(path: Path, bag: Path, request: dict[str, str]) -> dict[str, object]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(TIMEOUT_S)
        try:
            connection.connect(str(path))
            connection.sendall(json.dumps(request).encode() + b"\n")
            return dict(json.loads(_line(connection) or b"{}"))
        except GONE:
            raise BagError(f"nobody is recording {bag}; name the output exactly as the recorder was given it") from None
        except (OSError, ValueError) as error:
            raise BagError(f"the recorder of {bag} did not answer ({error})") from error


def _listening(bag: Path) -> Path:
    series = re.sub(r"_\d+$", "", bag.stem)
    candidates = [control_path(bag), control_path(bag.with_name(series + bag.suffix))]
    return next((path for path in candidates if path.exists()), candidates[0])


def _line(connection: socket.socket) -> bytes:
    data = b""
    deadline = time.monotonic() + TIMEOUT_S
    while not data.endswith(b"\n") and len(data) < MAX_LINE:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        more = connection.recv(4096)
        if not more:
            break
        data += more
    return data


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(str(path))
        except GONE:
            return False
        return True
