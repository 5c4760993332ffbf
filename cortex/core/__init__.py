"""Nodes, publishers, subscribers and executors: what moves messages, collected under one name."""

from cortex.core.executor import AsyncExecutor, BaseAsyncExecutor, RateExecutor, SyncRateExecutor
from cortex.core.node import Node
from cortex.core.publisher import Publisher
from cortex.core.subscriber import AsyncSubscriber, Subscriber
from cortex.core.subscriber_base import SubscriberBase, SubscriberStats
from cortex.core.sync_subscriber import SyncMessageCallback, ThreadedSubscriber
from cortex.core.types import AsyncCallback, MessageCallback
from cortex.errors import MessageFingerprintError

__all__ = [
    "AsyncCallback",
    "AsyncExecutor",
    "AsyncSubscriber",
    "BaseAsyncExecutor",
    "MessageCallback",
    "MessageFingerprintError",
    "Node",
    "Publisher",
    "RateExecutor",
    "Subscriber",
    "SubscriberBase",
    "SubscriberStats",
    "SyncMessageCallback",
    "SyncRateExecutor",
    "ThreadedSubscriber",
]
