"""Many bags at once, on one machine or a Dask cluster: one task for each bag or stretch of time.

What travels to a worker is a path and a range of times; it opens the file itself, so the memory of a worker is that of
one task. A catalogue holds the summaries of all bags in one Parquet file, so that choosing bags opens none of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from bag.dataset import Bag, open_bag
from bag.errors import UsageError
from bag.extras import need
from bag.parts import Source, expand, filesystem_of, is_url
from bag.ragged import Ragged
from bag.times import to_ns

T = TypeVar("T")
Row = dict[str, Any]
BAG_COLUMNS = ["path", "size_bytes", "start_ns", "end_ns", "duration_ns", "closed_cleanly", "host", "description"]


@dataclass(frozen=True)
class Task:
    """One bag, or a stretch of one in seconds from its start."""

    path: str
    start: float | None = None
    stop: float | None = None

    def run(self, function: Callable[[Bag], T]) -> T:
        """Open it, call the function, close it."""
        with open_bag(self.path) as whole:
            return function(whole if self.start is None else whole.between(self.start, self.stop))


class Bags(Sequence[Bag]):
    """Many bags, none of them open. `bags[i]` opens one; use it with `with`.

    Args:
        paths: files or URLs.
        rows: the catalogue, when it is known already: a row for each topic of each bag.
    """

    def __init__(self, paths: Sequence[str], rows: Sequence[Row] | None = None) -> None:
        self.paths = tuple(paths)
        self._rows = None if rows is None else list(rows)

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, slice):
            return self._some(self.paths[key])
        return open_bag(self.paths[key])

    def _some(self, paths: Sequence[str]) -> Bags:
        chosen = set(paths)
        rows = None if self._rows is None else [row for row in self._rows if row["path"] in chosen]
        return Bags(paths, rows)

    # --- the catalogue

    def catalog(self, scheduler: Any = None) -> list[Row]:
        """A row for each topic of each bag (a bag without topics has one row), from the summaries alone.

        Args:
            scheduler: as in `map`.
        """
        if self._rows is None:
            self._rows = [row for rows in self.map(catalog_rows, scheduler=scheduler) for row in rows]
        return list(self._rows)

    def save_catalog(self, path: str | Path, scheduler: Any = None) -> Path:
        """Write the catalogue as Parquet; `bag.open_many("catalog.parquet")` reads it instead of the bags.

        Raises:
            MissingExtraError: pyarrow is not installed.
        """
        arrow = need("pyarrow", "pandas", "a catalogue")
        parquet = need("pyarrow.parquet", "pandas", "a catalogue")
        fresh = Path(path).with_name(f".{Path(path).name}.part")
        parquet.write_table(arrow.Table.from_pylist(self.catalog(scheduler)), fresh)
        fresh.replace(path)
        return Path(path)

    def where(self, condition: Callable[[Row], bool]) -> Bags:
        """The bags with at least one topic whose catalogue row meets a condition.

        Args:
            condition: called with rows such as `{"path": ..., "topic": "/imu", "messages": 100, "hz": 99.8, ...}`.
        """
        good = {row["path"] for row in self.catalog() if condition(row)}
        return self._some([path for path in self.paths if path in good])

    # --- work

    def tasks(self, each: float | str | None = None) -> list[Task]:
        """One task for each bag; with `each` one for each stretch of so many seconds (or `"60s"`) of each bag."""
        if each is None:
            return [Task(path) for path in self.paths]
        seconds = to_ns(each) / 1e9
        if seconds <= 0:
            raise UsageError(f"a stretch of {each!r} has no length")
        durations = {row["path"]: row["duration_ns"] / 1e9 for row in self.catalog()}
        out: list[Task] = []
        for path in self.paths:
            # the last message of a bag lies on its end
            starts = np.arange(0, durations[path] + 1e-9, seconds).tolist()
            out.extend(Task(path, start, start + seconds) for start in starts)
        return out

    def map(self, function: Callable[[Bag], T], *, scheduler: Any = None, each: float | str | None = None) -> list[T]:
        """Call a function with each bag, or each stretch of each, and return what it gave, in order.

        Args:
            function: takes an open bag; for a cluster it must be importable there, or small enough to pickle.
            scheduler: None: here, one after the other; a `dask.distributed.Client`; or the address of a scheduler.
            each: length of the stretches; None: whole bags.

        Raises:
            MissingExtraError: Dask is not installed.
        """
        return list(self.iterate(function, scheduler=scheduler, each=each))

    def iterate(
        self, function: Callable[[Bag], T], *, scheduler: Any = None, each: float | str | None = None
    ) -> Iterator[T]:
        """As `map`, one result after the other as they are there."""
        return run_tasks(function, self.tasks(each), scheduler)

    def align(
        self,
        topics: Sequence[str],
        on: Any,
        fields: Mapping[str, str | Sequence[str]],
        *,
        scheduler: Any = None,
        each: float | str | None = None,
        **options: Any,
    ) -> list[dict[str, Any]]:
        """`Bag.align` on each bag or stretch: dicts of `times`, and for each topic `topic/field`, `/valid`, `/age_ns`.

        Args:
            topics, on, options: as `Bag.align` takes them.
            fields: for each topic the fields wanted.
            scheduler, each: as in `map`.
        """
        wanted = {topic: (names,) if isinstance(names, str) else tuple(names) for topic, names in fields.items()}
        return self.map(_AlignBag(tuple(topics), on, wanted, options), scheduler=scheduler, each=each)

    def __repr__(self) -> str:
        return f"<Bags: {len(self)}, first {self.paths[0] if self.paths else 'none'}>"


@dataclass(frozen=True)
class _AlignBag:
    topics: tuple[str, ...]
    on: Any
    fields: Mapping[str, Sequence[str]]
    options: Mapping[str, Any]

    def __call__(self, bag: Bag) -> dict[str, Any]:
        aligned = bag.align(self.topics, self.on, **self.options)
        out: dict[str, Any] = {"path": str(bag.path), "times": aligned.times}
        for name, topic in aligned.items():
            out |= {f"{name}/valid": topic.valid, f"{name}/age_ns": topic.age_ns}
            for field in self.fields.get(name, ()):
                values = topic[field]
                out[f"{name}/{field}"] = list(values) if isinstance(values, Ragged) else values
        return out


def run_tasks(function: Callable[[Bag], T], tasks: Sequence[Task], scheduler: Any = None) -> Iterator[T]:
    """Results of the tasks in their order; a cluster has a few for each of its threads at a time."""
    if scheduler is None:
        for task in tasks:
            yield task.run(function)
        return
    distributed = need("dask.distributed", "dask", "a scheduler")
    client = scheduler if isinstance(scheduler, distributed.Client) else distributed.Client(scheduler)
    try:
        yield from _on_cluster(client, function, tasks)
    finally:
        if client is not scheduler:
            client.close()


def _on_cluster(client: Any, function: Callable[[Bag], T], tasks: Sequence[Task]) -> Iterator[T]:
    ahead = 4 * max(1, sum(client.nthreads().values()))
    waiting: list[Any] = []
    for task in tasks:
        waiting.append(client.submit(task.run, function, pure=False))
        if len(waiting) >= ahead:
            yield waiting.pop(0).result()
    while waiting:
        yield waiting.pop(0).result()


def catalog_rows(bag: Bag) -> list[Row]:
    """The catalogue rows of one bag."""
    info = bag.info()
    about = {name: getattr(info, name) for name in BAG_COLUMNS}
    rows = []
    for topic in info.topics:
        row = about | asdict(topic)
        # uint64 is beyond what many readers of Parquet know
        row["fingerprint"] = f"0x{topic.fingerprint:016x}"
        rows.append(row)
    return rows or [about]


def open_many(source: Source) -> Bags:
    """Many bags by a glob, a list, a URL with a glob (`s3://runs/*.h5`), or a catalogue (`*.parquet`); none is opened.

    Raises:
        FileNotFoundError: nothing matches.
        MissingExtraError: a URL or a catalogue needs an extra.
    """
    paths = expand(source)
    if len(paths) == 1 and paths[0].endswith(".parquet"):
        rows = _read_catalog(paths[0])
        return Bags(tuple(dict.fromkeys(row["path"] for row in rows)), rows)
    return Bags(paths)


def _read_catalog(path: str) -> list[Row]:
    parquet = need("pyarrow.parquet", "pandas", "a catalogue")
    if not is_url(path):
        found: list[Row] = parquet.read_table(path).to_pylist()
        return found
    filesystem, inner = filesystem_of(path)
    with filesystem.open(inner, "rb") as file:
        remote: list[Row] = parquet.read_table(file).to_pylist()
    return remote
