"""Message classes: the base to derive from, and the ready-made ones used most."""

from cortex.messages.base import Message, MessageType
from cortex.messages.standard import (
    ArrayMessage,
    DictMessage,
    FloatMessage,
    IntMessage,
    StringMessage,
    TensorMessage,
)

__all__ = [
    "ArrayMessage",
    "DictMessage",
    "FloatMessage",
    "IntMessage",
    "Message",
    "MessageType",
    "StringMessage",
    "TensorMessage",
]
