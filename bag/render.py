"""Messages as text, JSON lines or CSV rows; arrays are summarised unless all of them is asked for."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from datetime import datetime, timezone
from typing import Any

import numpy as np

from bag.records import RawMessage

HEAD = 6
MAX_TEXT = 120
# an array of at most so many numbers has a column of its own for each in CSV
MAX_COLUMNS = 64
CSV_FACTS = ("log_time_ns", "publish_time_ns", "sequence")


def clean(text: object) -> str:
    """Text from a file nobody vouches for, fit for a terminal: control characters are shown, not obeyed."""
    shown = "".join(char if char.isprintable() or char in "\n\t" else ascii(char)[1:-1] for char in str(text))
    return shown.encode("utf-8", "replace").decode()


def text_line(message: RawMessage, fields: Mapping[str, Any] | None, start_ns: int, *, full: bool) -> str:
    """`12.345678  /imu  #617  orientation=[...]`, seconds since the bag's first message."""
    head = f"{(message.log_mono_ns - start_ns) / 1e9:12.6f}  {message.topic}  #{message.sequence}"
    if fields is None:
        return f"{head}  {message.nbytes} bytes that are no message"
    return f"{head}  " + "  ".join(f"{name}={shown(value, full=full)}" for name, value in fields.items())


def json_line(message: RawMessage, fields: Mapping[str, Any] | None, *, full: bool) -> str:
    """One JSON object; numbers that JSON does not have (NaN) are null."""
    out: dict[str, Any] = {
        "topic": message.topic,
        "type": message.channel.type_name,
        "sequence": message.sequence,
        "log_time_ns": message.log_time_ns,
        "publish_time_ns": message.publish_time_ns,
    }
    if fields is None:
        out["nbytes"] = message.nbytes
    else:
        out["fields"] = {name: plain(value, full=full) for name, value in fields.items()}
    return json.dumps(out, ensure_ascii=False).encode("utf-8", "replace").decode()


def csv_cells(message: RawMessage, fields: Mapping[str, Any] | None, *, full: bool) -> dict[str, Any]:
    """Column names and cells; nested values and small arrays are spread, as in `pose.x` and `position[0]`."""
    cells: dict[str, Any] = {name: getattr(message, name) for name in CSV_FACTS}
    for name, value in (fields or {}).items():
        cells.update(_spread(name, value, full=full))
    return cells


def _spread(name: str, value: Any, *, full: bool) -> Iterator[tuple[str, Any]]:
    value = _as_array(value)
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from _spread(f"{name}.{_key(key)}", item, full=full)
    elif isinstance(value, np.ndarray) and value.ndim == 0:
        yield name, value.item()
    elif isinstance(value, np.ndarray) and (full or value.size <= MAX_COLUMNS):
        for at, item in zip(np.ndindex(value.shape), value.ravel().tolist(), strict=True):
            yield f"{name}[{','.join(map(str, at))}]", item
    elif isinstance(value, (list, tuple)) and len(value) <= MAX_COLUMNS:
        for at, item in enumerate(value):
            yield from _spread(f"{name}[{at}]", item, full=full)
    elif isinstance(value, (np.ndarray, list, tuple, bytes)):
        yield name, shown(value, full=False)
    else:
        yield name, value


def shown(value: Any, *, full: bool) -> str:
    """A value for people, on one line."""
    value = _as_array(value)
    if isinstance(value, np.ndarray):
        return _shown_array(value, full=full)
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)}: {shown(item, full=full)}" for key, item in value.items()) + "}"
    if isinstance(value, (list, tuple)):
        items = value if full else value[:HEAD]
        more = "" if len(items) == len(value) else f", ... {len(value)} items"
        return "[" + ", ".join(shown(item, full=full) for item in items) + more + "]"
    if isinstance(value, bytes):
        return f"{len(value)} bytes {(value if full else value[:HEAD]).hex()}{'' if full else '...'}"
    if isinstance(value, str):
        return repr(value if full or len(value) <= MAX_TEXT else value[:MAX_TEXT] + "...")
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _shown_array(array: Any, *, full: bool) -> str:
    flat = array.ravel()
    head = flat if full else flat[:HEAD]
    number = (lambda item: f"{item:.6g}") if array.dtype.kind in "fc" else str
    numbers = ", ".join(number(item) for item in head.tolist())
    more = "" if len(head) == len(flat) else ", ..."
    facts = f"{array.dtype} {'x'.join(map(str, array.shape)) or 'scalar'}"
    if not more or array.dtype.kind not in "biuf" or not array.size:
        return f"{facts} [{numbers}{more}]"
    with np.errstate(all="ignore"):
        spread = f"min {array.min():.6g} max {array.max():.6g}"
    return f"{facts} [{numbers}{more}] {spread}"


def plain(value: Any, *, full: bool) -> Any:
    """A value as JSON has it. An array is `{dtype, shape, data}`, or `head` instead of `data` when summarised."""
    value = _as_array(value)
    if isinstance(value, np.ndarray):
        flat = value.ravel()
        short = not full and flat.size > HEAD
        facts: dict[str, Any] = {"dtype": value.dtype.str, "shape": list(value.shape)}
        numbers = flat[:HEAD].tolist() if short else value.tolist()
        return facts | {"head" if short else "data": plain(numbers, full=True)}
    if isinstance(value, Mapping):
        return {_key(key): plain(item, full=full) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item, full=full) for item in value]
    if isinstance(value, bytes):
        return {"bytes": len(value), "hex": value.hex()} if full else {"bytes": len(value)}
    if isinstance(value, complex):
        return [plain(value.real, full=full), plain(value.imag, full=full)]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    return str(value)


# what a tensor is on the wire
def _as_array(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    detach = getattr(value, "detach", None)
    return detach().cpu().numpy() if callable(detach) else value


def _key(key: Any) -> str:
    return key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)


def local_time(time_ns: int) -> str:
    """A wall time for people, in the local zone."""
    moment = datetime.fromtimestamp(time_ns // 10**9, timezone.utc).astimezone()
    return f"{moment:%Y-%m-%d %H:%M:%S}.{time_ns % 10**9 // 10**6:03d}{moment:%z}"
