"""Plain tables for people, which keep every character of a name and fold nothing when they are piped on."""

from __future__ import annotations

from collections.abc import Sequence

import click
from rich.cells import cell_len

_STYLES = {"dead": "red", "live": "green"}
_GAP = "  "


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Write a table on standard output; the words "live" and "dead" are coloured on a terminal."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(header, *shown, strict=True)]
    click.echo(click.style(_line(header, header, widths), bold=True))
    for row in shown:
        styled = [click.style(cell, fg=_STYLES[cell]) if cell in _STYLES else cell for cell in row]
        click.echo(_line(row, styled, widths))


# padded by the width of the bare text: colours take no room
def _line(row: Sequence[str], styled: Sequence[str], widths: Sequence[int]) -> str:
    cells = [text + " " * (width - cell_len(cell)) for cell, text, width in zip(row, styled, widths, strict=True)]
    return _GAP.join(cells).rstrip()


def printable(text: str) -> str:
    """Return the text, escaped when it holds characters that could steer a terminal."""
    return text if text.isprintable() else repr(text)


__all__ = ["print_table", "printable"]
