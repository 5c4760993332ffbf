"""Turns whatever HDF5, numpy and json raise on a damaged or hostile file into one sentence about the file."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from bag.errors import IntegrityError

# what the libraries below raise when bytes do not mean what they should; a programming error looks the same, so the
# cause is always kept
SYMPTOMS = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    MemoryError,
    NotImplementedError,
    RuntimeError,
    StopIteration,
    TypeError,
    ValueError,
    struct.error,
    zlib.error,
)


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Raise IntegrityError for what goes wrong while `path` is read; errors of the operating system pass.

    Raises:
        IntegrityError: the file is damaged.
    """
    try:
        yield
    except OSError as error:
        # HDF5 raises OSError, too, but without a number of the system
        if error.errno is not None or isinstance(error, FileNotFoundError):
            raise
        raise _damaged(path, error) from error
    except SYMPTOMS as error:
        raise _damaged(path, error) from error


def _damaged(path: Path | str, error: BaseException) -> IntegrityError:
    text = " ".join(str(error).split()) or type(error).__name__
    return IntegrityError(f"{path} is damaged ({text[:160]}); save what is whole with: cortex bag recover {path}")
