"""The only door to torch, which need not be installed and is imported when the first tensor is rebuilt."""

from __future__ import annotations

import importlib.util
import sys
from typing import Any

from cortex.arrays import Array
from cortex.errors import CodecError

TORCH_AVAILABLE: bool = importlib.util.find_spec("torch") is not None


def is_tensor(obj: object) -> bool:
    """Tell whether `obj` is a torch tensor, without importing torch: it cannot be one before somebody did."""
    kind = getattr(sys.modules.get("torch"), "Tensor", None)
    return kind is not None and isinstance(obj, kind)


def tensor_parts(tensor: Any) -> tuple[str, bool, Array]:
    """Split a tensor into (device, requires_grad, its values as an array on the CPU).

    Raises:
        CodecError: numpy has no such values (bfloat16, sparse).
    """
    try:
        return str(tensor.device), bool(tensor.requires_grad), tensor.detach().cpu().numpy()
    except (TypeError, RuntimeError, ValueError) as err:
        raise CodecError(f"A tensor of type {tensor.dtype} cannot be sent, convert it first: {err}.") from err


def tensor_from_array(array: Array, device: object = "cpu", requires_grad: object = False) -> Any:
    """Copy an array into a tensor, on `device` if that is a CUDA device and CUDA is there.

    Raises:
        CodecError: torch is missing, or has no such values.
    """
    if not TORCH_AVAILABLE:
        raise CodecError("The message holds a torch tensor: install torch to decode it.")
    import torch

    try:
        tensor = torch.from_numpy(array.copy())
        if isinstance(device, str) and device.startswith("cuda") and torch.cuda.is_available():
            tensor = tensor.to(device)
        return tensor.requires_grad_(True) if requires_grad else tensor
    except (TypeError, RuntimeError, ValueError) as err:
        raise CodecError(
            f"A tensor of dtype {array.dtype.str} and shape {array.shape} cannot be rebuilt: {err}."
        ) from err
