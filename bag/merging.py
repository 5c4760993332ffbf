"""Makes one bag of several: whose clock counts, and in which order the messages of a shared topic come."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from bag.edit import EditReport, Progress, compression_of, report_of, take_marks
from bag.errors import UsageError
from bag.interleave import interleave
from bag.storage.output import check_output, new_bag
from bag.storage.plans import Origin, Piece, TopicPlan
from bag.storage.proven import ProvenBag, open_proven
from bag.storage.transfer import packing, transfer
from bag.when import Timeline

# clocks of two bags that differ by less than this are of one machine that was not restarted
SAME_BOOT_NS = 60_000_000_000


def merge(
    sources: Sequence[str | Path],
    output: str | Path,
    *,
    shifts_ns: Sequence[int] = (),
    align_start: bool = False,
    compression: str | None = None,
    force: bool = False,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> EditReport:
    """Write the messages of several bags to one, ordered by time; a topic of several bags becomes one topic.

    Args:
        shifts_ns: added to all times of each source, by position.
        align_start: shift the sources so that all begin when the first one does.
        compression: as in `FilterOptions`.

    Raises:
        UsageError, BagExistsError, IntegrityError: see `filter_bag`.
    """
    paths, output = [Path(source) for source in sources], Path(output)
    check_output(output, paths, force=force)
    if len(shifts_ns) > len(paths):
        raise UsageError(f"there are {len(shifts_ns)} shifts for {len(paths)} bags")
    bags: list[ProvenBag] = []
    try:
        for path in paths:
            bags.append(open_proven(path))  # noqa: PERF401  what is open must be closed if the next fails
        origins = _merged_origins(bags, [*shifts_ns, *[0] * (len(paths) - len(shifts_ns))], align_start=align_start)
        plans = [TopicPlan(name, found, _interleaved(found)) for name, found in origins.items()]
        report = report_of(output, plans, (), dry_run=dry_run)
        if not dry_run:
            attributes = {key: value for bag in reversed(bags) for key, value in bag.attributes.items()}
            kind = compression_of(compression, next((bag.compression for bag in bags if bag.compression), None))
            with new_bag(output, paths, attributes, force=force) as writer, packing(writer, kind) as packer:
                for bag, shift in zip(bags, shifts_ns or [0] * len(bags), strict=False):
                    take_marks(writer, bag, None, shift)
                transfer(writer, plans, progress, packer)
        return report
    finally:
        for bag in bags:
            bag.close()


# --- merge: which clock, which order


def _merged_origins(bags: list[ProvenBag], shifts: list[int], *, align_start: bool) -> dict[str, list[Origin]]:
    timelines = [Timeline.of(bag) for bag in bags]
    filled = [timeline for timeline in timelines if not timeline.empty]
    base = min(filled, key=lambda timeline: timeline.wall_ns) if filled else timelines[0]
    out: dict[str, list[Origin]] = {}
    for bag, timeline, shift in zip(bags, timelines, shifts, strict=True):
        wall_shift = shift + (timelines[0].wall_ns - timeline.wall_ns if align_start and not timeline.empty else 0)
        # on one machine the monotonic clocks agree; from another, the wall clocks are what there is
        apart = (timeline.wall_ns - timeline.first_ns) - (base.wall_ns - base.first_ns)
        mono_shift = apart if not timeline.empty and abs(apart) > SAME_BOOT_NS else 0
        for name, topic in bag.topics.items():
            origin = Origin(bag, topic, 0, len(topic), None, wall_shift, mono_shift)
            out.setdefault(name, []).append(origin)
    return out


def _interleaved(origins: list[Origin]) -> list[Piece]:
    return interleave([Piece(origin, 0, len(origin.topic)) for origin in origins if len(origin.topic)])
