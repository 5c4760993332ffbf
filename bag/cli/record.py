"""``cortex bag record``: options in, one ``Recorder`` run, and an account of every message at the end."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import click

from bag import Recorder, RecorderStatistics, RecordOptions
from bag.cli import options, tables, views
from bag.cli.stopping import Stopping
from bag.errors import LossyError

_TICK_S = 0.1


@click.command()
@options.together(
    options.topics_arg,
    options.all_topics_opt,
    options.output_opt,
    options.force_opt,
    options.duration_opt,
    options.limit_opt,
    options.max_cache_size_opt,
    options.flush_interval_opt,
    options.polling_interval_opt,
    options.description_opt,
    options.custom_data_opt,
    options.imports_opt,
    options.discovery_address_opt,
    options.json_opt,
)
def record(output: str, as_json: bool, **chosen: Any) -> None:
    """Record topics into a bag until Ctrl-C.

    Ctrl-C or SIGTERM stops: what has arrived is written, then the bag is closed. A second Ctrl-C ends at once; the bag
    still opens. The summary states every message that is missing and who lost it; the exit code is 3 when we did.

    \b
    Examples:
      cortex bag record -a -o run.h5
      cortex bag record /camera/image /imu --duration 30s
    """
    if not chosen["topics"] and not chosen["all_topics"]:
        raise click.UsageError("Nothing to record: name topics, or use -a for all of them.")
    recorder = Recorder(output_path(output), RecordOptions(**chosen))
    view = views.open_view(as_json=as_json, render=tables.recording, line=tables.recording_line)
    with ExitStack() as stack:
        stopping = stack.enter_context(Stopping())
        recorder.start()
        # whatever happens from here on, what was recorded is written, and then accounted for
        stack.callback(lambda: _summarise(recorder.statistics(), as_json=as_json))
        stack.callback(recorder.stop)
        with view:
            while not stopping.requested and not recorder.wait(_TICK_S):
                view.update(recorder.statistics())
    lost = sum(topic.lost_by_us for topic in recorder.statistics().topics)
    if lost:
        raise LossyError(
            f"{lost} messages reached the recorder but not the bag; record fewer topics, to a faster disk, "
            f"or with a larger --max-cache-size."
        )


def _summarise(statistics: RecorderStatistics, *, as_json: bool) -> None:
    if as_json:
        views.echo_event("summary", statistics)
    else:
        views.console().print(tables.recording_summary(statistics))


def output_path(template: str) -> Path:
    """Return ``template`` with its strftime codes filled in with the local time of now."""
    return Path(datetime.now().strftime(template))
