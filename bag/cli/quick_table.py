"""A rich table that is drawn at once where every cell fits into one line, as it mostly does.

Rich measures, wraps and styles each of 2,000 cells by itself, which takes longer than reading the bag they tell of.
"""

from __future__ import annotations

from collections.abc import Iterable

from rich.cells import cell_len
from rich.console import Console, ConsoleOptions, RenderResult
from rich.segment import Segment
from rich.style import Style
from rich.table import Table
from rich.text import Text

Line = tuple[tuple[str, str | Style], ...]


class QuickTable(Table):
    """A table without box, with one space behind each column."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        lines = self._lines()
        widths = [max(map(cell_len, texts)) for texts in zip(*(self._texts(line) for line in lines), strict=True)]
        if self.columns and sum(widths) + len(widths) <= options.max_width and self._is_plain(lines):
            yield from self._drawn(console, lines, widths)
        else:
            yield from super().__rich_console__(console, options)

    # the header, then the rows; each cell with its style
    def _lines(self) -> list[Line]:
        header = [(column.header, self.header_style or "") for column in self.columns]
        cells = [header, *zip(*(((cell, "") for cell in column._cells) for column in self.columns), strict=True)]
        return [tuple(_of(cell, style) for cell, style in line) for line in cells]

    @staticmethod
    def _texts(line: Line) -> Iterable[str]:
        return (text for text, _style in line)

    # what rich would have to wrap or to take for markup is left to it
    def _is_plain(self, lines: list[Line]) -> bool:
        sections = any(row.end_section for row in self.rows)
        return not sections and not any("\n" in text or "[" in text for line in lines for text in self._texts(line))

    def _drawn(self, console: Console, lines: list[Line], widths: list[int]) -> Iterable[Segment]:
        right = [column.justify == "right" for column in self.columns]
        for line in lines:
            for (text, style), width, to_right in zip(line, widths, right, strict=True):
                space = " " * (width - cell_len(text))
                shown = f"{space}{text} " if to_right else f"{text}{space} "
                yield Segment(shown, console.get_style(style) if style else None)
            yield Segment.line()


def _of(cell: object, style: str | Style) -> tuple[str, str | Style]:
    if isinstance(cell, Text):
        # a text of several styles has a line break for us, which rich takes over
        return (cell.plain if not cell.spans else "\n"), cell.style
    return (cell if isinstance(cell, str) else "\n"), style
