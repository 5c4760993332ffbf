"""One export as a value that can be sent to another process: what to write, where, and how."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from bag.errors import UsageError
from bag.export import FORMATS, export

if TYPE_CHECKING:
    from bag.dataset import Bag
    from bag.times import Moment


@dataclass(frozen=True)
class ExportBag:
    """Called with an open bag, exports it and returns the path of the output.

    Attributes:
        output: the file or directory; a directory for many when `names` are given.
        format_: one of `bag.export.FORMATS`.
        topics: names; None: all.
        span: half open range of times, as `Bag.between` takes them.
        force: replace what is there.
        options: for the format.
        names: for each bag the name of its output within `output`.
    """

    output: str
    format_: str
    topics: Sequence[str] | None = None
    span: tuple[Moment | None, Moment | None] = (None, None)
    force: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] | None = None

    def __call__(self, bag: Bag, progress: Any = None) -> str:
        """Export an open bag; errors as `bag.export.export` says."""
        part = bag
        if self.span != (None, None):
            try:
                part = bag.between(*self.span)
            except ValueError as error:
                raise UsageError(str(error)) from error
        missing = [name for name in self.topics or () if name not in part]
        if missing:
            raise UsageError(f"{bag.path} has no topic {missing[0]}; it has: {', '.join(part)}")
        output = Path(self.output) if self.names is None else Path(self.output) / self.names[bag.paths[0]]
        made = export(
            part,
            output,
            self.format_,
            topics=self.topics,
            force=self.force,
            progress=progress,
            options=dict(self.options),
        )
        return str(made)

    def into_directory(self, paths: Sequence[str]) -> ExportBag:
        """The same for many bags, each with an output named after it.

        Raises:
            UsageError: two bags have the same name.
        """
        ending = FORMATS[self.format_][1]
        names = {path: PurePosixPath(path).stem + ending for path in paths}
        if len(set(names.values())) < len(names):
            raise UsageError("two of the bags have the same name; export them one by one")
        return replace(self, names=names)
