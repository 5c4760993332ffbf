"""Cortex: typed publish and subscribe over ZeroMQ; this is the face that users import."""

import logging

__version__ = "0.1.0"

from cortex.core import Node, Publisher, Subscriber
from cortex.messages.base import Message, MessageType
from cortex.utils.loop import run

__all__ = ["Message", "MessageType", "Node", "Publisher", "Subscriber", "__version__", "run"]

# A library stays silent until an application configures logging.
logging.getLogger("cortex").addHandler(logging.NullHandler())
