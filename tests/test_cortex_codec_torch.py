"""Tensors, where torch is installed; and the plain refusal where it is not."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from helpers import REPOSITORY

from cortex import inline
from cortex.codec import TORCH_AVAILABLE, decode_values, descriptors, encode_values
from cortex.errors import CodecError
from cortex.messages.standard import MultiTensorMessage, TensorMessage

with_torch = pytest.mark.skipif(not TORCH_AVAILABLE, reason="needs torch")


@pytest.fixture
def torch() -> Any:
    return pytest.importorskip("torch")


def test_importing_cortex_does_not_import_torch() -> None:
    code = "import cortex.codec, cortex.messages.standard, sys; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_missing_torch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("cortex.codec_torch.TORCH_AVAILABLE", False)
    metadata, buffers = encode_values([{"__kind__": 0}, np.zeros(2, "<f4")])
    with pytest.raises(CodecError, match="install torch"):
        decode_values(metadata.replace(b"\xa5numpy", b"\xa5torch"), buffers)


@with_torch
@pytest.mark.parametrize("shape", [(), (0, 3), (2, 3), (1,)])
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool", "complex64"])
def test_tensor_survives(torch: Any, shape: tuple[int, ...], dtype: str) -> None:
    tensor = torch.ones(shape, dtype=getattr(torch, dtype))
    metadata, buffers = encode_values([{"t": tensor}])
    received = decode_values(metadata, buffers)[0]["t"]
    assert received.dtype == tensor.dtype
    assert received.shape == tensor.shape
    assert torch.equal(received, tensor)
    assert descriptors(metadata)[0].kind == "torch"


@with_torch
def test_tensor_is_a_copy_and_keeps_requires_grad(torch: Any) -> None:
    tensor = torch.ones(3, requires_grad=True)
    metadata, buffers = encode_values([tensor])
    frame = bytearray(bytes(buffers[0]))
    (received,) = decode_values(metadata, [frame])
    frame[:] = bytes(len(frame))
    assert received.requires_grad
    assert received.tolist() == [1, 1, 1]


@with_torch
def test_message_round_trip_in_both_forms(torch: Any) -> None:
    for message in (TensorMessage(torch.arange(4), "n"), MultiTensorMessage({"a": torch.ones(2), "b": torch.zeros(1)})):
        for received in (
            type(message).from_frames(message.to_frames())[0],
            type(message).from_bytes(message.to_bytes())[0],
        ):
            assert repr(received) == repr(message)


@with_torch
def test_tensor_that_numpy_does_not_know_is_refused(torch: Any) -> None:
    with pytest.raises(CodecError, match="bfloat16"):
        encode_values([torch.ones(2, dtype=torch.bfloat16)])


@with_torch
def test_tensor_message_takes_only_tensors() -> None:
    with pytest.raises(TypeError, match="ndarray where a torch"):
        TensorMessage(np.zeros(2))


@with_torch
def test_serialize_torch(torch: Any) -> None:
    data = inline.serialize_torch(torch.arange(3))
    tensor, used = inline.deserialize_torch(data + b"tail")
    assert (tensor.tolist(), used) == ([0, 1, 2], len(data))


@with_torch
@pytest.mark.parametrize("dtype", ["<U2", "<M8[ns]", ">f4"])
def test_array_that_torch_does_not_know_is_refused(torch: Any, dtype: str) -> None:
    metadata, buffers = encode_values([np.zeros(2, dtype)])
    with pytest.raises(CodecError, match="cannot be rebuilt"):
        decode_values(metadata.replace(b"\xa5numpy", b"\xa5torch"), buffers)
