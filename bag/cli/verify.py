"""``cortex bag verify``: is every byte still what was written, and does the bag agree with itself?"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from bag.cli import edit_options, options, views
from bag.errors import BagError
from bag.render import clean
from bag.storage.probe import untrusted
from bag.storage.verify import VerifyReport, verify
from bag.units import format_count, format_size


@click.command(name="verify")
@options.together(edit_options.bags_arg, options.json_opt)
def verify_command(bags: tuple[Path, ...], as_json: bool) -> None:
    """Check every BAG: checksums, counts, indexes, and the ledger against the sequence numbers.

    Reads all of the file once. Nothing is changed, except that a bag whose recorder died is brought to its last message
    first, as by any opening. Exit code: 0 whole, 3 damaged in parts, 1 not readable as a bag at all.

    \b
    Examples:
      cortex bag verify run.h5
      cortex bag verify --json run_*.h5
      cortex bag verify run.h5 || cortex bag recover run.h5 -o saved.h5
    """
    code = 0
    documents: list[dict[str, Any]] = []
    for path in bags:
        try:
            with untrusted(path):
                report = verify(path)
        except (BagError, OSError) as error:
            code = 1
            documents.append({"path": str(path), "whole": False, "error": str(error)})
            if not as_json:
                click.echo(clean(f"Error: {error}"), err=True)
            continue
        code = code or (0 if report.whole else 3)
        documents.append(views.to_json(report) | {"whole": report.whole})
        if not as_json:
            click.echo(clean("\n".join(verdict_lines(report))))
    if as_json:
        click.echo(json.dumps(documents[0] if len(documents) == 1 else documents, indent=2))
    if code:
        raise click.exceptions.Exit(code)


def verdict_lines(report: VerifyReport) -> list[str]:
    """What a check found, in lines for people."""
    messages = sum(topic.messages for topic in report.topics)
    closed = "" if report.closed_cleanly else "; it was not closed cleanly"
    head = f"{report.path}: " + ("whole" if report.whole else "DAMAGED")
    lines = [
        f"{head}. {format_count(messages)} messages of {len(report.topics)} topics, "
        f"{format_count(report.chunks)} chunks, {format_size(report.bytes_checked)} checked{closed}."
    ]
    lines += [f"  {problem}" for problem in report.problems]
    lines += [f"  {topic.topic}: {problem}" for topic in report.topics for problem in topic.problems]
    if not report.whole:
        lines.append(f"Save what is whole with: cortex bag recover {report.path} -o saved.h5")
    return lines
