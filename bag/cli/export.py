"""``cortex bag export``: a bag in the formats of other tools."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from bag.cli import options
from bag.errors import UsageError


@click.command()
@options.together(
    options.bag_sources_arg,
    options.export_output_opt,
    options.export_format_opt,
    options.export_topics_opt,
    options.export_start_opt,
    options.export_end_opt,
    options.image_format_opt,
    options.fps_opt,
    options.state_opt,
    options.action_opt,
    options.task_opt,
    options.each_opt,
    options.scheduler_opt,
    options.overwrite_opt,
)
def export(bags: tuple[str, ...], output: Path, format_: str, **chosen: Any) -> None:
    """Write BAG in another format. Several are stitched as splits of one recording, unless --each is given.

    A BAG is a path, a glob or a URL such as s3://runs/a.h5. The formats csv, parquet, zarr, images, video and lerobot
    make a directory.

    \b
    Examples:
      cortex bag export run.h5 -o run.mcap --format mcap
      cortex bag export run.h5 -o pictures --format images --topics /camera/image --start 10 --end 20
      cortex bag export demos/*.h5 -o dataset --format lerobot --fps 30 --action /joints --task "pick the cube"
    """
    from bag.catalog import Bags
    from bag.dataset import open_bag
    from bag.exporting import ExportBag
    from bag.parts import expand, is_url
    from bag.storage.probe import untrusted

    details = {name: chosen[name] for name in ("image_format", "fps", "state", "action", "task") if chosen[name]}
    work = ExportBag(
        str(output),
        format_,
        topics=chosen["topics"] or None,
        span=(_moment(chosen["start"]), _moment(chosen["end"])),
        force=chosen["force"],
        options=_fitting(format_, details),
    )
    paths = expand(bags)
    with untrusted(*(Path(path) for path in paths if not is_url(path))), _progress() as progress:
        if not chosen["each"] and not chosen["scheduler"]:
            with open_bag(paths) as run:
                work(run, progress)
            return
        made = Bags(paths).iterate(work.into_directory(paths), scheduler=chosen["scheduler"])
        for done, written in enumerate(made, 1):
            progress(Path(written).name, done, len(paths))


def _moment(text: str | None) -> float | str | None:
    if text is None:
        return None
    try:
        return float(text)
    except ValueError:
        return text


WANTED = {"images": {"image_format"}, "video": {"fps"}, "lerobot": {"fps", "state", "action", "task"}}


def _fitting(format_: str, details: dict[str, Any]) -> dict[str, Any]:
    wrong = sorted(set(details) - WANTED.get(format_, set()))
    if wrong:
        raise UsageError(f"--format {format_} does not know --{wrong[0].replace('_', '-')}")
    return details


@contextmanager
def _progress() -> Iterator[Any]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    bars: dict[str, Any] = {}
    with Progress(*columns, console=console, disable=not sys.stderr.isatty()) as shown:

        def update(topic: str, done: int, total: int) -> None:
            if topic not in bars:
                bars[topic] = shown.add_task(topic, total=total)
            shown.update(bars[topic], completed=done, total=total)

        yield update
