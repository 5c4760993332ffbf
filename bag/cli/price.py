"""Says what the compression of a bag saved, and what a reader needs for it; nothing is printed here."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bag.records import Compression
    from bag.storage.price import Price

_PLUGIN = 'reading it needs the hdf5plugin package: pip install "cortex-bag[compression]"'


def of_bag(price: Price | None) -> str:
    """Return how a bag is compressed, in one line; empty when it is not."""
    if price is None:
        return ""
    total = max(1, price.packed_bytes + price.raw_bytes)
    need = _PLUGIN if price.needs else "which every HDF5 reads"
    parts = [f"{price.packed_bytes / total:.0%} of the bytes are packed"]
    if price.packed_bytes:
        parts[0] += f", to {price.stored_bytes / price.packed_bytes:.0%} of their size"
    if price.raw_bytes:
        parts.append(f"{price.raw_bytes / total:.0%} stand raw")
    return f"{price.filter} ({need}); {'; '.join(parts)}"


def of_recording(found: Compression) -> str:
    """Return what has become of the bytes of a finished recording, in one line."""
    total = found.packed + found.no_gain + found.lagged
    name = found.filter.partition(":")[0]
    if not total:
        return f"Compression {found.filter}: there was too little to compress."
    parts = [f"{found.packed / total:.0%} of the bytes packed"]
    if found.packed:
        parts[0] += f" to {found.stored / found.packed:.0%} of their size"
    if found.no_gain:
        parts.append(f"{found.no_gain / total:.0%} left raw as packing makes them no smaller")
    if found.lagged:
        parts.append(f"{found.lagged / total:.0%} left raw as the compressor could not keep up")
    text = f"Compression {found.filter}: {', '.join(parts)}."
    return text if name == "gzip" else f"{text} Mind that {_PLUGIN}."
