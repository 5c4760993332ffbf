"""Which topics of all that discovery lists are wanted; pure, and the same words for recording and replaying."""

from __future__ import annotations

import re
from dataclasses import dataclass

from bag.errors import UsageError


@dataclass(frozen=True, slots=True)
class Selection:
    """What to take and what to leave.

    A topic is taken when it is named, matches a regex, or everything is asked for (also by giving nothing but types or
    nodes), provided its type and node are among those given, if any are, and nothing excludes it.

    Args:
        everything: take all topics.
        topics: names to take.
        regex: patterns to take, searched for in the name.
        exclude_topics: names to leave.
        exclude_regex: patterns to leave.
        topic_types: only these types, by their bare class name.
        nodes: only what these nodes publish.
    """

    everything: bool = False
    topics: tuple[str, ...] = ()
    regex: tuple[str, ...] = ()
    exclude_topics: tuple[str, ...] = ()
    exclude_regex: tuple[str, ...] = ()
    topic_types: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for option, patterns in (("-e/--regex", self.regex), ("-x/--exclude-regex", self.exclude_regex)):
            for pattern in patterns:
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise UsageError(f"{option} {pattern!r} is not a regular expression: {error}") from None

    @property
    def takes_anything(self) -> bool:
        """Whether anything at all is asked for."""
        return bool(self.everything or self.topics or self.regex or self.topic_types or self.nodes)

    def wants(self, topic: str, type_name: str, node: str) -> bool:
        """Whether a topic of this type from this node is wanted."""
        if topic in self.exclude_topics or any(re.search(pattern, topic) for pattern in self.exclude_regex):
            return False
        if (self.topic_types and type_name not in self.topic_types) or (self.nodes and node not in self.nodes):
            return False
        named = topic in self.topics or any(re.search(pattern, topic) for pattern in self.regex)
        return named or self.everything or not (self.topics or self.regex)
