"""``cortex bag convert``: recordings of other tools as bags."""

from __future__ import annotations

from pathlib import Path

import click

from bag.cli import options
from bag.cli.export import _progress


@click.command()
@options.together(
    options.import_source_arg, options.import_output_opt, options.export_topics_opt, options.overwrite_opt
)
def convert(source: Path, output: Path | None, topics: tuple[str, ...], force: bool) -> None:
    """Make a bag of SOURCE, an .mcap file or a rosbag2 directory with such files.

    Images, point clouds, poses, text and JSON become standard messages; what cannot be decoded is kept as bytes.

    \b
    Examples:
      cortex bag convert drive.mcap
      cortex bag convert rosbag2_2026_01_01 -o drive.h5 --topics /camera/image
    """
    from bag.convert import from_mcap

    with _progress() as progress:
        report = from_mcap(
            source,
            output or source.with_suffix(".h5"),
            topics=topics or None,
            force=force,
            progress=lambda done, total: progress("messages", done, total),
        )
    click.echo(f"{report.path}: {report.messages} messages of {len(report.topics)} topics")
    for kind, count in report.undecoded.items():
        click.echo(f"kept as bytes: {count} messages, {kind}", err=True)
