"""Makes new bags out of old ones: cut by time, by topic, by what messages say; rename, shift, carry over, merge.

An edit is a plan (which ranges of messages of which topics go where) that storage then carries out column by column.
What is left out on purpose inside a kept stretch of time stands in the new ledger as `throttled`, so that nobody takes
it for a loss; what lies before and after the stretch is no part of the new bag.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bag.errors import UsageError
from bag.expression import Expression, parse_where
from bag.interleave import interleave
from bag.matching import matching_runs
from bag.storage.filters import parse_compression
from bag.storage.output import check_output, new_bag
from bag.storage.plans import Origin, Piece, TopicPlan
from bag.storage.proven import ProvenBag, open_proven
from bag.storage.transfer import packing, transfer
from bag.storage.writer import BagWriter
from bag.when import Timeline, parse_moment

LEFT_OUT = "throttled"

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class FilterOptions:
    """What to keep of a bag, and how to call it.

    Args:
        include, exclude: regular expressions that a whole topic name must match; exclude wins.
        start, stop: moments as `bag.when.parse_moment` reads them; half open.
        where: conditions `TOPIC: EXPRESSION`, for that topic's messages only.
        around: names of marks, or conditions: what is near one of these moments is kept.
        before_ns, after_ns: how near.
        sticky: regular expressions of topics whose last message before the cut is carried to its start.
        remap: (old topic, new topic).
        shift_ns: added to all times.
        compression: `gzip`, `lz4` or `zstd`, with `:level`; `none` stores raw; None keeps it as it is.
    """

    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    start: str | None = None
    stop: str | None = None
    where: tuple[str, ...] = ()
    around: tuple[str, ...] = ()
    before_ns: int = 0
    after_ns: int = 0
    sticky: tuple[str, ...] = ()
    remap: tuple[tuple[str, str], ...] = ()
    shift_ns: int = 0
    compression: str | None = None


@dataclass(frozen=True, slots=True)
class TopicEdit:
    """What became of a topic: messages kept, of how many, under which name."""

    topic: str
    name: str
    kept: int
    messages: int


@dataclass(frozen=True, slots=True)
class EditReport:
    """What an edit made, or (`dry_run`) would make."""

    path: str
    topics: tuple[TopicEdit, ...]
    dropped: tuple[str, ...]
    messages: int
    dry_run: bool


@dataclass(slots=True)
class _Kept:
    """The stretches of time to keep, on the bag's monotonic clock, ns."""

    windows: list[tuple[int, int]]
    whole: bool
    marks: list[tuple[str, int]] = field(default_factory=list)


def filter_bag(
    source: str | Path,
    output: str | Path,
    options: FilterOptions,
    *,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EditReport:
    """Write what `options` keep of `source` to the new bag `output`.

    Raises:
        UsageError: an option makes no sense for this bag.
        BagExistsError: the output is there.
        IntegrityError: the source is damaged.
    """
    source, output = Path(source), Path(output)
    check_output(output, [source], force=force)
    with open_proven(source) as bag:
        names = _chosen(bag, options)
        kept = _windows(bag, options)
        conditions = _conditions(bag, options.where)
        plans = [_plan(bag, item, kept, conditions.get(item[0], []), options) for item in names.items()]
        plans = _joined(plans)
        dropped = tuple(name for name in bag.topics if name not in names)
        report = report_of(output, plans, dropped, dry_run=dry_run)
        if not dry_run:
            compression = compression_of(options.compression, bag.compression)
            with (
                new_bag(output, [source], bag.attributes, force=force) as writer,
                packing(writer, compression) as packer,
            ):
                take_marks(writer, bag, kept, options.shift_ns)
                transfer(writer, plans, progress, packer)
        return report


def compression_of(wanted: str | None, present: str | None) -> str | None:
    """The compression of a new bag: what is wanted, or else what is present in the old one."""
    kind = present if wanted is None else None if wanted == "none" else wanted
    if kind is not None:
        parse_compression(kind)
    return kind


def report_of(output: Path, plans: list[TopicPlan], dropped: tuple[str, ...], *, dry_run: bool) -> EditReport:
    """What plans make, or would make."""
    topics = tuple(
        TopicEdit(
            ", ".join(dict.fromkeys(origin.topic.name for origin in plan.origins)),
            plan.name,
            plan.messages,
            sum(len(origin.topic) for origin in plan.origins),
        )
        for plan in plans
    )
    return EditReport(str(output), topics, dropped, sum(topic.kept for topic in topics), dry_run)


# --- filter: which topics, which time, which messages


def _chosen(bag: ProvenBag, options: FilterOptions) -> dict[str, str]:
    include, exclude = (compile_patterns(patterns) for patterns in (options.include, options.exclude))
    compile_patterns(options.sticky)
    remap = dict(options.remap)
    unknown = [name for name in remap if name not in bag.topics]
    if unknown:
        raise UsageError(f"--remap {unknown[0]}: {bag.path} has no such topic; it has: {', '.join(bag.topics)}")
    wanted = {
        name: remap.get(name, name)
        for name in bag.topics
        if (not include or any(pattern.fullmatch(name) for pattern in include))
        and not any(pattern.fullmatch(name) for pattern in exclude)
    }
    if not wanted:
        raise UsageError(f"no topic of {bag.path} is left; it has: {', '.join(bag.topics)}")
    return wanted


def compile_patterns(patterns: Sequence[str]) -> list[re.Pattern[str]]:
    """Compiled regular expressions.

    Raises:
        UsageError: one is none.
    """
    compiled = []
    for pattern in patterns:
        try:
            compiled.append(re.compile(pattern))
        except re.error as error:
            raise UsageError(f"{pattern!r} is not a regular expression: {error}") from None
    return compiled


def _windows(bag: ProvenBag, options: FilterOptions) -> _Kept:
    timeline = Timeline.of(bag)
    marks = [(text, timeline.mono_of(wall_ns)) for text, wall_ns in bag.definitions.marks]
    low, high = timeline.first_ns, timeline.last_ns + 1
    if options.start is not None:
        low = parse_moment(options.start, timeline, marks)
    if options.stop is not None:
        high = parse_moment(options.stop, timeline, marks)
    if options.start is not None and options.stop is not None and high <= low:
        raise UsageError(f"nothing lies between --start {options.start} and --end {options.stop}")
    whole = options.start is None and options.stop is None
    if not options.around:
        return _Kept([(low, high)], whole, marks)
    moments = [moment for text in options.around for moment in _moments(bag, text, marks)]
    spans = sorted((max(low, at - options.before_ns), min(high, at + options.after_ns + 1)) for at in moments)
    windows: list[tuple[int, int]] = []
    for first, last in spans:
        if windows and first <= windows[-1][1]:
            windows[-1] = (windows[-1][0], max(windows[-1][1], last))
        elif first < last:
            windows.append((first, last))
    return _Kept(windows or [(low, low)], False, marks)


def _moments(bag: ProvenBag, text: str, marks: list[tuple[str, int]]) -> list[int]:
    if text.startswith("/") and ":" in text:
        ((name, expressions),) = _conditions(bag, (text,)).items()
        topic, moments = bag.topics[name], list[int]()
        for start, stop in matching_runs(bag, topic, expressions, (0, len(topic))):
            moments += topic.index(start, stop)["log_mono_ns"].tolist()
        return moments
    found = [at for mark, at in marks if mark == text]
    if not found:
        known = ", ".join(dict.fromkeys(mark for mark, _at in marks)) or "none"
        raise UsageError(f"{bag.path} has no mark {text!r}; it has: {known}")
    return found


def _conditions(bag: ProvenBag, where: Sequence[str]) -> dict[str, list[Expression]]:
    out: dict[str, list[Expression]] = {}
    for text in where:
        name, expression = parse_where(text)
        if name not in bag.topics:
            raise UsageError(f"{text!r}: {bag.path} has no topic {name}; it has: {', '.join(bag.topics)}")
        out.setdefault(name, []).append(expression)
    return out


def _plan(
    bag: ProvenBag, names: tuple[str, str], kept: _Kept, conditions: list[Expression], options: FilterOptions
) -> TopicPlan:
    name, renamed = names
    topic = bag.topics[name]
    ranges = (
        [(0, len(topic))]
        if kept.whole
        else [(Timeline.position(topic, low), Timeline.position(topic, high)) for low, high in kept.windows]
    )
    first, last = ranges[0][0], ranges[-1][1]
    carried: list[int] = []
    if first > 0 and any(re.fullmatch(pattern, name) for pattern in options.sticky):
        carried = [first - 1]
        first -= 1
    if conditions:
        ranges = [run for span in ranges for run in matching_runs(bag, topic, conditions, span)]
    origin = Origin(bag, topic, first, last, LEFT_OUT, options.shift_ns)
    pieces = [Piece(origin, start, stop) for start, stop in ranges if stop > start]
    for at in carried:
        low = kept.windows[0][0]
        wall = Timeline.of(bag).wall_of(low) + options.shift_ns
        pieces.insert(0, Piece(origin, at, at + 1, arrived=(wall, low + options.shift_ns)))
    return TopicPlan(renamed, [origin], pieces)


# topics that are renamed to the same name become one
def _joined(plans: list[TopicPlan]) -> list[TopicPlan]:
    by_name: dict[str, list[Origin]] = {}
    for plan in plans:
        by_name.setdefault(plan.name, []).extend(plan.origins)
    if len(by_name) == len(plans):
        return plans
    out = []
    for name, origins in by_name.items():
        own = [plan for plan in plans if plan.name == name]
        pieces = [piece for plan in own for piece in plan.pieces]
        out.append(TopicPlan(name, origins, interleave(pieces) if len(own) > 1 else pieces))
    return out


def take_marks(writer: BagWriter, bag: ProvenBag, kept: _Kept | None, shift_ns: int) -> None:
    """Take over marks and clock readings, of the kept stretches of time only."""
    timeline = Timeline.of(bag)
    for text, wall_ns in bag.definitions.marks:
        at = timeline.mono_of(wall_ns)
        if kept is None or kept.whole or any(low <= at < high for low, high in kept.windows):
            writer.mark(text, wall_ns + shift_ns)
    for wall_ns, mono_ns in bag.clock.tolist():
        if kept is None or kept.whole or kept.windows[0][0] <= mono_ns < kept.windows[-1][1]:
            writer.note_clock(wall_ns + shift_ns, mono_ns + shift_ns)
