"""Where sockets live, and under which file names."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from cortex import paths
from cortex.errors import CortexError


def test_one_variable_moves_everything(cortex_dir: Path) -> None:
    assert paths.base_dir() == cortex_dir
    assert paths.topics_dir() == cortex_dir / "topics"
    assert paths.default_discovery_address() == f"ipc://{cortex_dir}/discovery.sock"
    assert paths.ipc_address("/a/b", "n") == f"ipc://{cortex_dir}/topics/n__a_b.sock"


@pytest.mark.usefixtures("cortex_dir")
def test_the_discovery_address_has_a_variable_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORTEX_DISCOVERY_ADDRESS", "tcp://127.0.0.1:1")
    assert paths.default_discovery_address() == "tcp://127.0.0.1:1"


def test_default_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CORTEX_DIR", raising=False)
    monkeypatch.delenv("CORTEX_DISCOVERY_ADDRESS", raising=False)
    assert paths.default_discovery_address() == "ipc:///tmp/cortex/discovery.sock"
    monkeypatch.setenv("CORTEX_DIR", "")
    assert paths.base_dir() == Path("/tmp/cortex")


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "inproc://x", "ipc://", "ipc://*", "ipc://@abstract", "/x"])
def test_address_without_a_file(address: str) -> None:
    assert paths.ipc_path(address) is None


def test_plain_names_stay_plain(cortex_dir: Path) -> None:
    for topic, node in [
        ("/camera/image", "cam_front"),
        ("/t", "anonymous"),
        ("/a.b-c d", "my node"),
        ("/é/画", "nœud"),
    ]:
        assert paths.bindable_ipc_address(topic, node) == paths.ipc_address(topic, node)


def test_hashed_names_stay_readable(cortex_dir: Path) -> None:
    address = paths.bindable_ipc_address("/joint_states", "arm")
    assert address.startswith(f"ipc://{cortex_dir}/topics/arm__joint_states~")
    assert address == paths.bindable_ipc_address("/joint_states", "arm")


names = st.text(st.sampled_from("/_a.~\n\0é ") | st.characters(), max_size=120)


@given(st.tuples(names, names), st.tuples(names, names))
@example(("/a_b", "n"), ("/a/b", "n"))
@example(("/b", "a_"), ("/_b", "a"))
@example(("/c", "a__b"), ("/b//c", "a"))
@example(("/a/", "n"), ("/a_", "n"))
@example(("/x", "../.."), ("/x", ".."))
def test_every_name_can_be_bound_in_the_directory_and_no_two_share_a_file(
    one: tuple[str, str], other: tuple[str, str]
) -> None:
    for topic, node in (one, other):
        path = paths.ipc_path(paths.bindable_ipc_address(topic, node))
        assert path is not None
        assert path.parent == paths.topics_dir()
        assert path.name not in (".", "..")
        assert len(str(path).encode("utf-8")) <= paths.MAX_IPC_PATH
        assert "\0" not in str(path)
    if one != other:
        assert paths.bindable_ipc_address(*one) != paths.bindable_ipc_address(*other)


def test_the_longest_name_is_one_the_kernel_takes(cortex_dir: Path) -> None:
    path = paths.ipc_path(paths.bindable_ipc_address("/" + "x" * 500, "n"))
    assert path is not None
    assert len(str(path)) == paths.MAX_IPC_PATH
    paths.ensure_private_dir(path.parent)
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def test_a_directory_too_long_for_sockets_is_said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CORTEX_DIR", "/tmp/" + "d" * 100)
    with pytest.raises(CortexError, match="shorter CORTEX_DIR"):
        paths.bindable_ipc_address("/t", "n")


def test_directories_are_private(cortex_dir: Path) -> None:
    path = paths.ensure_private_dir(cortex_dir / "a" / "b")
    assert [stat.S_IMODE(p.stat().st_mode) for p in (path, path.parent)] == [0o700, 0o700]
    assert paths.ensure_private_dir(path) == path


def test_an_existing_directory_keeps_its_mode(cortex_dir: Path) -> None:
    cortex_dir.chmod(0o755)
    paths.ensure_private_dir(cortex_dir)
    assert stat.S_IMODE(cortex_dir.stat().st_mode) == 0o755


def test_a_file_in_the_way_of_a_directory_is_named(cortex_dir: Path) -> None:
    (cortex_dir / "file").touch()
    with pytest.raises(CortexError, match=r"file.*CORTEX_DIR"):
        paths.ensure_private_dir(cortex_dir / "file")
    with pytest.raises(CortexError, match=r"file/x.*CORTEX_DIR"):
        paths.ensure_private_dir(cortex_dir / "file" / "x")
