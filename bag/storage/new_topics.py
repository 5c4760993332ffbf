"""Topics whose columns are yet to be created: a few at a time, since creating those of many takes long."""

from __future__ import annotations

import time
from collections import deque

from bag.storage.topic import TopicWriter

# the columns of a topic are chosen by what comes in this time, or until the next commit
HOLD_S = 0.25


class NewTopics:
    """New topics, the oldest first."""

    def __init__(self) -> None:
        self._topics: deque[TopicWriter] = deque()

    def __len__(self) -> int:
        return len(self._topics)

    def add(self, topic: TopicWriter) -> None:
        """Take a new topic."""
        self._topics.append(topic)

    def release(self, seconds: float) -> int:
        """Create columns for about so long; returns how many topics with messages still wait for theirs."""
        now = time.monotonic()
        deadline = now + seconds
        waiting = 0
        for _ in range(len(self._topics)):
            topic = self._topics.popleft()
            since = topic.held_since
            if since is not None and now - since > HOLD_S and time.monotonic() < deadline:
                topic.release()
            elif topic.columns.index is None:
                self._topics.append(topic)
                waiting += since is not None
        return waiting

    def clear(self) -> None:
        """Forget them."""
        self._topics.clear()
