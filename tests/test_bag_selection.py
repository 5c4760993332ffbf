"""Which topics are taken: every form of asking, alone and together."""

from __future__ import annotations

import pytest

from bag import RecordOptions, UsageError
from bag.selection import Selection

TOPICS = [
    ("/camera/left", "ImageMessage", "camera"),
    ("/camera/right", "ImageMessage", "camera"),
    ("/imu", "ArrayMessage", "imu"),
    ("/imu_raw", "ArrayMessage", "imu"),
    ("/state", "DictMessage", "brain"),
]
NAMES = [name for name, _type, _node in TOPICS]


def taken(**options):
    selection = Selection(**options)
    return [name for name, type_name, node in TOPICS if selection.wants(name, type_name, node)]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"everything": True}, NAMES),
        ({"topics": ("/imu",)}, ["/imu"]),
        ({"topics": ("/imu", "/state")}, ["/imu", "/state"]),
        ({"regex": ("camera",)}, ["/camera/left", "/camera/right"]),
        ({"regex": ("^/imu$",)}, ["/imu"]),
        ({"topics": ("/state",), "regex": ("left",)}, ["/camera/left", "/state"]),
        ({"everything": True, "exclude_topics": ("/imu",)}, ["/camera/left", "/camera/right", "/imu_raw", "/state"]),
        ({"everything": True, "exclude_regex": ("imu", "left")}, ["/camera/right", "/state"]),
        ({"topic_types": ("ArrayMessage",)}, ["/imu", "/imu_raw"]),
        ({"nodes": ("brain",)}, ["/state"]),
        ({"nodes": ("imu", "brain"), "topic_types": ("DictMessage",)}, ["/state"]),
        ({"topics": ("/imu", "/state"), "nodes": ("imu",)}, ["/imu"]),
        ({"everything": True, "topic_types": ("ImageMessage",)}, ["/camera/left", "/camera/right"]),
        ({"topics": ("/imu",), "exclude_topics": ("/imu",)}, []),
    ],
)
def test_selection(options, expected):
    assert taken(**options) == expected


def test_nothing_but_exclusions_asks_for_nothing():
    assert not Selection(exclude_topics=("/imu",), exclude_regex=("x",)).takes_anything


@pytest.mark.parametrize(("option", "flag"), [("regex", "-e"), ("exclude_regex", "-x")])
def test_a_pattern_that_is_none_is_refused_by_name(option, flag):
    with pytest.raises(UsageError, match=rf"{flag}.*'\(' is not a regular expression"):
        Selection(**{option: ("(",)})


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"limit": 0}, "limit"),
        ({"duration_ns": -1}, "duration"),
        ({"max_bag_bytes": 0}, "size"),
        ({"throttle": (("/cam", 0.0),)}, "/cam"),
        ({"require": (("/imu", -1.0),)}, "/imu"),
        ({"max_cache_bytes": 10}, "cache"),
        ({"wait_for_topics": True, "all_topics": True}, "wait for"),
        ({"snapshot": True, "max_bag_bytes": 1 << 20}, "snapshot"),
        ({"post_roll_ns": 5}, "snapshot"),
        ({"custom_data": (("receive_interval", "1ms"),)}, "receive_interval"),
    ],
)
def test_options_that_make_no_sense_are_refused(options, words):
    with pytest.raises(UsageError, match=words):
        RecordOptions(**options)
