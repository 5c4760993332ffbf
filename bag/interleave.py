"""Puts ranges of messages of one topic from several origins into the order of time."""

from __future__ import annotations

import itertools

from bag.storage.plans import Piece
from bag.when import Timeline


def interleave(pieces: list[Piece]) -> list[Piece]:
    """The pieces, cut so that their messages follow each other in time."""
    spans = sorted(
        ((_time(piece, piece.start), _time(piece, piece.stop - 1), number) for number, piece in enumerate(pieces))
    )
    if all(one[1] <= other[0] for one, other in itertools.pairwise(spans)):
        return [pieces[number] for _first, _last, number in spans]
    heads = {number: piece.start for number, piece in enumerate(pieces)}
    out: list[Piece] = []
    while heads:
        order = sorted(heads, key=lambda number: (_time(pieces[number], heads[number]), number))
        piece, start = pieces[order[0]], heads[order[0]]
        stop = piece.stop
        if len(order) > 1:
            limit = _time(pieces[order[1]], heads[order[1]]) - piece.origin.shift_ns - piece.origin.mono_shift_ns
            stop = min(piece.stop, max(start + 1, Timeline.position(piece.origin.topic, limit + 1, start)))
        out.append(Piece(piece.origin, start, stop, piece.arrived))
        if stop == piece.stop:
            del heads[order[0]]
        else:
            heads[order[0]] = stop
    return out


def _time(piece: Piece, number: int) -> int:
    if piece.arrived is not None:
        return piece.arrived[1]
    mono = int(piece.origin.topic.index(number, number + 1)["log_mono_ns"][0])
    return mono + piece.origin.shift_ns + piece.origin.mono_shift_ns
