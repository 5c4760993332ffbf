"""Hostile bags, as real files: whatever they claim, play and diff end with one sentence and nothing is touched."""

import shutil
import struct
from pathlib import Path

import h5py
import numpy as np
import pytest
from helpers import spawn_python
from recordings import START_NS, address_of

from bag.records import Channel
from bag.storage import BagWriter
from bag.storage import layout as names
from cortex.messages.standard import ArrayMessage

HUGE = 1 << 50


def _column(file, kind):
    found = []
    file.visititems(lambda _name, node: found.append(node) if isinstance(node, h5py.Dataset) else None)
    return next(node for node in found if node.name.endswith(kind))


def _endless_rows(file):
    _column(file, "/even/field0").resize(HUGE, axis=0)


def _endless_offsets(file):
    offsets = _column(file, names.OFFSETS_SUFFIX)
    offsets[1:] = np.arange(1, len(offsets)) * np.uint64(HUGE)


def _endless_metadata(file):
    index = _column(file, "/_index")
    rows = index[:]
    rows["metadata_size"] = (1 << 32) - 1
    index[:] = rows


def _endless_count(file):
    topics = _column(file, names.TOPICS)
    rows = topics[:]
    rows["messages"] = HUGE
    topics[:] = rows


def _foreign_data(file):
    column = _column(file, "/even/field0")
    name = column.name
    del file[name]
    file[name] = h5py.ExternalLink("/etc/passwd", "/even/field0")


def _soft_link(file):
    name = _column(file, "/_index").name
    del file[name]
    file[name] = h5py.SoftLink("/nowhere")


def _raw_storage_elsewhere(file):
    column = _column(file, "/even/field0")
    name, dtype, shape = column.name, column.dtype, column.shape
    del file[name]
    file.create_dataset(name, shape, dtype, external=[("/etc/passwd", 0, h5py.h5f.UNLIMITED)])


def _everything(directory: Path):
    return {str(path): (path.lstat().st_mode, path.lstat().st_ino) for path in sorted(directory.rglob("*"))}


@pytest.fixture
def bag_path(tmp_path, cortex_dir):
    """A bag of arrays of one shape, and of arrays of many lengths."""
    path, fingerprint = tmp_path / "run.h5", ArrayMessage.fingerprint()
    with BagWriter(path) as writer:
        for topic, lengths in (("/even", [8] * 40), ("/odd", range(40))):
            channel = Channel(0, topic, "ArrayMessage", fingerprint, "n", address_of(cortex_dir, topic))
            number = writer.add_channel(channel).id
            for sequence, length in enumerate(lengths):
                body = ArrayMessage(np.arange(float(length))).to_frames(0)[1:]
                header = struct.pack(">QQQ", fingerprint, START_NS + sequence, sequence)
                frames = [topic.encode(), header, *(bytes(memoryview(part).cast("B")) for part in body)]
                writer.append(number, [(START_NS + sequence, sequence, frames)])
    return path


def _refused(command, cortex_dir, *words):
    before = _everything(cortex_dir)
    with spawn_python(["-m", "bag.cli", command, *map(str, words)]) as process:
        output, errors = process.communicate(timeout=120)
    assert process.returncode == 1, (output, errors)
    assert "Traceback" not in errors
    assert len(errors.strip().splitlines()) == 1, errors
    assert _everything(cortex_dir) == before
    return errors


@pytest.mark.parametrize(
    "harm",
    [
        _endless_rows,
        _endless_offsets,
        _endless_metadata,
        _endless_count,
        _foreign_data,
        _soft_link,
        _raw_storage_elsewhere,
    ],
)
def test_what_cannot_be_is_refused_in_one_sentence(harm, bag_path, tmp_path, cortex_dir, discovery):
    sound = shutil.copy(bag_path, tmp_path / "sound.h5")
    with h5py.File(bag_path, "r+") as file:
        harm(file)
    assert str(bag_path) in _refused("play", cortex_dir, bag_path, "--immediate", "--delay", "0s")
    assert str(bag_path) in _refused("diff", cortex_dir, sound, bag_path)
