"""Whether a recording and its replay are what was published: three accounts of the same messages, compared.

An account is what one witness saw of one topic: the publisher what it sent, the bag what it holds, a subscriber of the
replay what arrived. Reading and comparing them is all that happens here.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from bag.robot import digest

if TYPE_CHECKING:
    from bag import Bag


@dataclass(frozen=True)
class Seen:
    """One message as a witness saw it; ``time_ns`` is when it was sent by its publisher or arrived, on one clock."""

    sequence: int
    sha256: str
    time_ns: int = 0


@dataclass(frozen=True)
class Identity:
    """What discovery says of a topic besides its name."""

    node: str
    address: str
    message_type: str
    fingerprint: int


@dataclass
class Account:
    """What one witness saw of one topic, in the order in which it came."""

    messages: list[Seen] = field(default_factory=list)
    identity: Identity | None = None


@dataclass(frozen=True)
class Timing:
    """Distribution of ``|arrival - due|`` over the messages of a topic, in nanoseconds."""

    p50_ns: int
    p99_ns: int
    max_ns: int


@dataclass(frozen=True)
class TopicVerdict:
    """How the three accounts of one topic compare.

    ``identical`` counts sequences whose digest is the same in all three; ``same_order`` and ``same_identity`` say that
    the replay came in the recorded order, from a publisher registered as the recorded node, address and type.
    """

    topic: str
    type_name: str
    node: str
    published: int
    recorded: int
    replayed: int
    identical: int
    same_order: bool
    same_identity: bool
    timing: Timing | None
    agrees: bool


def read_log(path: Path) -> dict[str, Account]:
    """Return the accounts in a JSON-lines file of ``bag.robot`` or ``bag.listener``, by topic."""
    accounts: dict[str, Account] = {}
    with path.open(encoding="utf-8") as lines:
        for entry in map(json.loads, lines):
            if "registered" in entry:
                info = entry["registered"]
                identity = Identity(info["publisher_node"], info["address"], info["message_type"], info["fingerprint"])
                accounts.setdefault(info["name"], Account()).identity = identity
            elif entry.get("sent", True):
                seen = Seen(entry["sequence"], entry["sha256"], entry.get("arrival_ns", 0))
                accounts.setdefault(entry["topic"], Account()).messages.append(seen)
    return accounts


def read_bag(run: Bag) -> dict[str, Account]:
    """Return the accounts in an open bag, by topic; times are the publishers' and the order is that of publishing."""
    accounts = {
        topic.topic: Account(identity=Identity(topic.node, topic.address, topic.type_name, topic.fingerprint))
        for topic in run.info().topics
    }
    for message in run.messages(order="publish"):
        seen = Seen(message.sequence, digest(message.frames), message.publish_time_ns)
        accounts[message.topic].messages.append(seen)
    return accounts


def compare(
    sent: Mapping[str, Account], recorded: Mapping[str, Account], replayed: Mapping[str, Account]
) -> tuple[TopicVerdict, ...]:
    """Return a verdict for every topic that any witness saw, in the order of ``sent``, then of the others.

    A message of the replay is due at its recorded publish time, shifted by what arrivals and publish times of all
    messages differ in the median.
    """
    shift_ns = _shift(recorded, replayed)
    nothing = Account()
    return tuple(
        _compare_topic(
            topic,
            sent.get(topic, nothing),
            recorded.get(topic, nothing),
            replayed.get(topic, nothing),
            shift_ns=shift_ns,
        )
        for topic in dict.fromkeys([*sent, *recorded, *replayed])
    )


def _shift(recorded: Mapping[str, Account], replayed: Mapping[str, Account]) -> int | None:
    # between the publishers' clock and the subscriber's; the median, for a single message may have been late
    shifts = [shift for topic in recorded for shift in _shifts(recorded[topic], replayed.get(topic, Account()))]
    return int(np.median(shifts)) if shifts else None


def _shifts(recorded: Account, replayed: Account) -> list[int]:
    published = {seen.sequence: seen.time_ns for seen in recorded.messages}
    return [seen.time_ns - published[seen.sequence] for seen in replayed.messages if seen.sequence in published]


def _compare_topic(
    topic: str, sent: Account, recorded: Account, replayed: Account, *, shift_ns: int | None
) -> TopicVerdict:
    accounts = (sent, recorded, replayed)
    digests = [{seen.sequence: seen.sha256 for seen in account.messages} for account in accounts]
    identical = sum(all(other.get(key) == value for other in digests) for key, value in digests[0].items())
    counts = [len(account.messages) for account in accounts]
    same_order = [seen.sequence for seen in recorded.messages] == [seen.sequence for seen in replayed.messages]
    same_identity = recorded.identity is not None and recorded.identity == replayed.identity
    identity = recorded.identity or replayed.identity or Identity("", "", "", 0)
    return TopicVerdict(
        topic=topic,
        type_name=identity.message_type,
        node=identity.node,
        published=counts[0],
        recorded=counts[1],
        replayed=counts[2],
        identical=identical,
        same_order=same_order,
        same_identity=same_identity,
        timing=_timing(recorded, replayed, shift_ns),
        # a topic on which nothing was published proves nothing
        agrees=set(counts) == {identical} and identical > 0 and same_order and same_identity,
    )


def _timing(recorded: Account, replayed: Account, shift_ns: int | None) -> Timing | None:
    shifts = _shifts(recorded, replayed)
    if shift_ns is None or not shifts:
        return None
    errors = [abs(shift - shift_ns) for shift in shifts]
    p50, p99 = np.percentile(errors, [50, 99])
    return Timing(int(p50), int(p99), max(errors))
