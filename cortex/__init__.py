"""Cortex: typed publish and subscribe over ZeroMQ; this is the face that users import.

Names are fetched when they are first used: a program that only reads bags does not wait for sockets and event loops.
"""

import logging
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from cortex.core import Node, Publisher, Subscriber
    from cortex.messages.base import Message, MessageType
    from cortex.utils.loop import run

__all__ = ["Message", "MessageType", "Node", "Publisher", "Subscriber", "__version__", "run"]

# A library stays silent until an application configures logging.
logging.getLogger("cortex").addHandler(logging.NullHandler())

_HOMES = {
    "Message": "cortex.messages.base",
    "MessageType": "cortex.messages.base",
    "Node": "cortex.core",
    "Publisher": "cortex.core",
    "Subscriber": "cortex.core",
    "run": "cortex.utils.loop",
}
_PACKAGES = ("core", "messages", "utils")

# hidden from type checkers, which would take any misspelt name for one of these
if not TYPE_CHECKING:

    def __getattr__(name):
        """Fetch a name of this face, or a package that `import cortex` has always brought along."""
        from importlib import import_module

        if name in _HOMES:
            return globals().setdefault(name, getattr(import_module(_HOMES[name]), name))
        if name in _PACKAGES:
            return import_module(f"cortex.{name}")
        raise AttributeError(f"module 'cortex' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
