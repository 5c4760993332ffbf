"""The errors of Cortex, so that one ``except CortexError`` catches whatever can go wrong here.

::

    CortexError
    ├── CodecError               (also ValueError)    a value cannot be sent, or bytes are not what they should be
    ├── WireError                (also ValueError)    a message's frames or its header are malformed
    ├── AddressInUseError                             a live socket owns this address
    ├── DiscoveryUnavailableError                     no discovery daemon answers
    ├── TopicOwnedError                               another node publishes this topic
    └── MessageFingerprintError  (also RuntimeError)  a topic carries another message type than expected
"""

from __future__ import annotations


class CortexError(Exception):
    """Any failure of this package; the text is one sentence for the person in front of it."""


class CodecError(CortexError, ValueError):
    """A value cannot be encoded, or bytes cannot be decoded."""


class WireError(CortexError, ValueError):
    """The frames or the header of a message are malformed."""


class AddressInUseError(CortexError):
    """A live socket already listens on the address that should be bound."""


class DiscoveryUnavailableError(CortexError):
    """No discovery daemon answers on the address that was asked."""


class TopicOwnedError(CortexError):
    """Another node publishes the topic.

    Attributes:
        topic: name of the topic that was to be registered.
        node: name of the node that owns it, or None when the daemon did not say.
    """

    def __init__(self, message: str, *, topic: str, node: str | None = None) -> None:
        super().__init__(message)
        self.topic = topic
        self.node = node


class MessageFingerprintError(CortexError, RuntimeError):
    """A topic carries another message type than the one that was asked for."""
