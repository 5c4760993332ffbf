"""Which messages of a topic fulfil a condition; reads them a block at a time and keeps only numbers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bag.errors import UsageError
from bag.expression import Expression
from bag.storage.proven import ProvenBag
from bag.storage.topic_reader import TopicReader
from bag.walk import fields_of, topic_messages

# facts of a message that are no fields; a field of the same name wins
FACTS = ("sequence", "publish_time_ns", "log_time_ns", "nbytes")


def matching_runs(
    bag: ProvenBag, topic: TopicReader, conditions: Sequence[Expression], span: tuple[int, int]
) -> list[tuple[int, int]]:
    """Ranges (start, stop) of messages within `span` that fulfil all conditions; bytes that are no message do not.

    Raises:
        UsageError: a condition does not fit a message.
        IntegrityError: the bag is damaged.
    """
    runs: list[tuple[int, int]] = []
    for number, message in topic_messages(bag, topic, span):
        fields = fields_of(bag, message)
        if fields is None:
            continue
        facts: dict[str, Any] = {name: getattr(message, name) for name in FACTS}
        try:
            holds = all(condition.holds(facts | fields) for condition in conditions)
        except UsageError as error:
            raise UsageError(f"{topic.name}, message {number}: {error}") from None
        if holds and runs and runs[-1][1] == number:
            runs[-1] = (runs[-1][0], number + 1)
        elif holds:
            runs.append((number, number + 1))
    return runs
