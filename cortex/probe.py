"""Is somebody listening on this address?  Asked of the kernel, because socket files outlive their processes.

Also the two acts that need the answer to be right: binding without stealing, and removing only one's own file.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import socket
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from cortex.errors import AddressInUseError, CortexError
from cortex.paths import ensure_private_dir, ipc_path

_DEAD = frozenset({errno.ECONNREFUSED, errno.ENOENT, errno.ENOTDIR})


def is_live(address: str) -> bool | None:
    """Tell whether a process listens on `address`; takes some 30 microseconds and sends nothing.

    Returns:
        True when somebody accepts connections, False for a dead file or none, None when that cannot be told (not an
        ``ipc://`` address, no permission).
    """
    path = ipc_path(address)
    if path is None:
        return None
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)
        try:
            probe.connect(os.fsencode(path))
        except BlockingIOError:
            return True  # the backlog is full, so there is one
        except (OSError, ValueError) as err:
            return False if getattr(err, "errno", None) in _DEAD else None
    return True


def socket_inode(path: Path) -> int | None:
    """Return the inode number of a socket file, or None when there is no file; remember it after binding."""
    try:
        return path.stat().st_ino
    except OSError:
        return None


def remove_own_socket(path: Path, inode: int | None) -> bool:
    """Remove a socket file if it is still the one with this inode; say whether that was so.

    Call it *before* closing the socket: only an open socket keeps its inode number from being used again.
    """
    if inode is None or socket_inode(path) != inode:
        return False
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
    return True


@contextlib.contextmanager
def exclusive(directory: Path) -> Iterator[None]:
    """Hold the lock of a socket directory, so that probing and binding are one step among processes of ours.

    The lock is on the directory itself and leaves no file behind; keep it for milliseconds.

    Raises:
        CortexError: the directory cannot be opened.
    """
    try:
        handle = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as err:
        raise CortexError(f"Cannot use the socket directory {directory} ({err.strerror}): choose another one.") from err
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)


@contextlib.contextmanager
def claimed(address: str, *, advice: str = "stop it, or choose another address") -> Iterator[None]:
    """Make sure that `address` may be bound, and keep others of ours from binding it until the block ends.

    A dead socket file is left for the bind to replace.  Addresses other than ``ipc://`` files pass unchecked: the
    kernel guards those.

    Args:
        address: ZeroMQ address; its directory is created if need be.
        advice: what the person in front of the error may do, in the imperative.

    Raises:
        AddressInUseError: somebody listens there.
        CortexError: the path holds something that is no socket (binding would delete it), or cannot be used.
    """
    path = ipc_path(address)
    if path is None:
        yield
        return
    with exclusive(ensure_private_dir(path.absolute().parent)):
        if path.exists() and not path.is_socket():
            raise CortexError(f"{path} is not a socket and would be overwritten: {advice}.")
        if is_live(address):
            raise AddressInUseError(f"Somebody already listens on {address}: {advice}.")
        yield


class LivenessCache:
    """Answers of `is_live` for many addresses, with bounded work per question.

    Only good news is kept, for `max_age` seconds: a publisher that comes back is alive at the next question.

    Args:
        max_age: seconds after which a living address is asked again.
        budget: seconds that one call may spend on asking; the rest keeps its last answer and comes first next time.
        probe: how to ask.
    """

    def __init__(
        self, *, max_age: float = 1.0, budget: float = 0.005, probe: Callable[[str], bool | None] = is_live
    ) -> None:
        self._max_age = max_age
        self._budget = budget
        self._probe = probe
        self._answers: dict[str, tuple[float, bool | None]] = {}

    def dead(self, addresses: Iterable[str]) -> frozenset[str]:
        """Return those addresses on which nobody listens; an address not asked yet is not called dead."""
        wanted = set(addresses)
        self._answers = {address: answer for address, answer in self._answers.items() if address in wanted}
        start = time.monotonic()
        for address in sorted(filter(self._outdated, wanted), key=self._asked_at):
            live = self._probe(address)
            self._answers[address] = (time.monotonic(), live)
            if time.monotonic() - start > self._budget:
                break
        return frozenset(address for address, (_, live) in self._answers.items() if live is False)

    def _asked_at(self, address: str) -> float:
        answer = self._answers.get(address)
        return answer[0] if answer else float("-inf")

    def _outdated(self, address: str) -> bool:
        answer = self._answers.get(address)
        return answer is None or answer[1] is False or time.monotonic() - answer[0] > self._max_age
