"""Imports optional libraries where they are used, and says which extra brings one that is missing."""

from __future__ import annotations

import importlib
from typing import Any

from bag.errors import MissingExtraError


def need(module: str, extra: str, what: str) -> Any:
    """The imported module.

    Args:
        module: its name.
        extra: the extra of `cortex-bag` that brings it.
        what: the ability that needs it, as the start of a sentence.

    Raises:
        MissingExtraError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(what, extra) from error
