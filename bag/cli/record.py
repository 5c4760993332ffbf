"""``cortex bag record``: options in, one ``Recorder`` run, and an account of every message at the end."""

from __future__ import annotations

import gc
import itertools
import signal
import threading
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any

import click

from bag import Recorder, RecorderStatistics, RecordOptions
from bag.cli import options, record_options, recording, views
from bag.cli.keys import Keys
from bag.cli.stopping import Stopping
from bag.errors import LossyError

_TICK_S = 0.1


@click.command()
@options.together(
    record_options.topics_arg,
    record_options.all_topics_opt,
    record_options.regex_opt,
    record_options.exclude_regex_opt,
    record_options.exclude_topics_opt,
    record_options.topic_types_opt,
    record_options.nodes_opt,
    record_options.output_opt,
    record_options.force_opt,
    record_options.max_bag_size_opt,
    record_options.max_bag_duration_opt,
    record_options.max_bag_files_opt,
    record_options.duration_opt,
    record_options.limit_opt,
    record_options.min_free_space_opt,
    record_options.max_cache_size_opt,
    record_options.receive_interval_opt,
    record_options.flush_interval_opt,
    record_options.polling_interval_opt,
    record_options.no_discovery_opt,
    record_options.wait_for_topics_opt,
    record_options.require_opt,
    record_options.throttle_opt,
    record_options.sticky_opt,
    record_options.start_paused_opt,
    record_options.snapshot_mode_opt,
    record_options.max_cache_duration_opt,
    record_options.post_roll_opt,
    record_options.compression_opt,
    record_options.description_opt,
    record_options.custom_data_opt,
    record_options.imports_opt,
    record_options.keyboard_opt,
    options.discovery_address_opt,
    options.json_opt,
)
def record(output: str, as_json: bool, no_keys: bool, **chosen: Any) -> None:
    """Record topics into a bag until Ctrl-C.

    Keys: SPACE pause, m mark, s split (or snapshot), q stop. SIGHUP begins another file, SIGUSR1 writes a snapshot, and
    `cortex bag ctl` does all this from elsewhere. Ctrl-C or SIGTERM stops: what has arrived is written, then the bag is
    closed. A second Ctrl-C ends at once; the bag still opens. The summary states every message that is missing and who
    lost it; the exit code is 3 when we did, or when a required topic was silent or slow.

    \b
    Examples:
      cortex bag record -a -o run.h5
      cortex bag record /camera/image /imu --duration 30s --require /imu@90
      cortex bag record -a -x debug -b 2G --max-bag-files 10 -o "run_%H%M.h5"
      cortex bag record -a --compression zstd -o run.h5
      cortex bag record -a --snapshot-mode --max-cache-duration 30s --post-roll 5s
    """
    wanted = RecordOptions(control=True, **chosen)
    if not wanted.selection.takes_anything:
        raise click.UsageError("Nothing to record: name topics, or use -a for all of them.")
    recorder = Recorder(output_path(output), wanted)
    keys = Keys(_actions(recorder))
    view = views.open_view(
        as_json=as_json,
        render=lambda found: recording.live(found, keys=keys.active),
        line=recording.line,
    )
    with ExitStack() as stack:
        stopping = stack.enter_context(Stopping())
        recorder.start()
        # to look through all that every import has made takes 25 ms each time, in which nothing is received
        gc.freeze()
        stack.callback(gc.unfreeze)
        # whatever happens from here on, what was recorded is written, and then accounted for
        stack.callback(lambda: _summarise(recorder.statistics(), as_json=as_json))
        stack.callback(recorder.stop)
        stack.enter_context(_Signals(recorder))
        with view, keys if not no_keys else nullcontext():
            while not stopping.requested and not recorder.wait(_TICK_S):
                view.update(recorder.statistics())
    _judge(recorder.statistics())


def _judge(found: RecorderStatistics) -> None:
    lost = sum(topic.lost_by_us for topic in found.topics)
    if lost:
        raise LossyError(
            f"{lost} messages reached the recorder but not the bag; record fewer topics, to a faster disk, "
            f"or with a larger --max-cache-size."
        )
    if found.complaints:
        raise LossyError(f"not all that was required was there: {'; '.join(found.complaints)}.")


def _actions(recorder: Recorder) -> dict[str, Callable[[], object]]:
    numbers = itertools.count(1)
    return {
        " ": lambda: recorder.resume() if recorder.paused else recorder.pause(),
        "m": lambda: recorder.mark(f"mark {next(numbers)}"),
        "s": recorder.snapshot if recorder.options.snapshot else recorder.split,
        "q": recorder.request_stop,
    }


class _Signals:
    """A context in which SIGHUP splits and SIGUSR1 takes a snapshot; outside the main thread it does nothing."""

    def __init__(self, recorder: Recorder) -> None:
        self._actions = {signal.SIGHUP: recorder.split, signal.SIGUSR1: recorder.snapshot}
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> None:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in self._actions}

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, _frame: FrameType | None) -> None:
        self._actions[signal.Signals(number)]()


def _summarise(statistics: RecorderStatistics, *, as_json: bool) -> None:
    if as_json:
        views.echo_event("summary", statistics)
    else:
        views.console().print(recording.summary(statistics))


def output_path(template: str) -> Path:
    """Return ``template`` with its strftime codes filled in with the local time of now."""
    return Path(datetime.now().strftime(template))
