"""Windows of a bag as samples for PyTorch, for DataLoaders with any number of workers under fork and spawn.

A dataset carries the names of the files and small tables of message numbers. Each worker opens the files for itself at
its first sample; nothing is shared and nothing is kept between samples, so memory stays flat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bag.errors import UsageError
from bag.extras import need
from bag.fields import Field
from bag.ragged import Ragged
from bag.tables import native
from bag.windows import Windows

if TYPE_CHECKING:
    from bag.dataset import Bag

Sample = dict[str, Any]


class WindowSamples:
    """A sample for each window: a dict of tensors by `topic/field`, and `time_ns`.

    Works as a map-style dataset (`len`, `[i]`). Fields that are no numbers come as lists.

    Args:
        windows: the windows.
        fields: for each topic the fields wanted; a name, or names.
        last: topics of which a window gives the last message up to its moment instead of all (images, mostly).
        length: for each topic how many messages a sample has: the last so many, padded at the front by repeating the
            first; None: as many as there are, which only batches when the windows agree.
        transform: called with each sample.
    """

    def __init__(
        self,
        windows: Windows,
        fields: Mapping[str, str | Sequence[str]],
        last: Sequence[str] = (),
        length: Mapping[str, int] | None = None,
        transform: Callable[[Sample], Any] | None = None,
    ) -> None:
        self.windows = windows
        self.fields = {topic: (names,) if isinstance(names, str) else tuple(names) for topic, names in fields.items()}
        self.last = frozenset(last)
        self.length = dict(length or {})
        self.transform = transform
        unknown = [topic for topic in (*self.fields, *self.last, *self.length) if topic not in windows.bounds]
        if unknown:
            raise UsageError(f"the windows do not have {', '.join(unknown)}; they have {', '.join(windows.topics)}")
        if self.last:
            self._require_last()

    # a window without a last message has no sample
    def _require_last(self) -> None:
        whole = np.ones(len(self.windows), bool)
        for topic in self.last:
            bounds = self.windows.bounds[topic]
            whole &= bounds[:, 1] > bounds[:, 0]
        if not whole.all():
            self.windows = self.windows[whole]

    def __len__(self) -> int:
        return len(self.windows)

    def __getitem__(self, number: int) -> Any:
        if not -len(self) <= number < len(self):
            raise IndexError(f"there are {len(self)} samples, there is no sample {number}")
        torch = need("torch", "torch", "torch_dataset()")
        sample: Sample = {"time_ns": int(self.windows.times[number])}
        for topic, names in self.fields.items():
            start, now, stop = self.windows.bounds[topic][number].tolist()
            for name in names:
                sample[f"{topic}/{name}"] = self._value(torch, topic, self.windows.bag[topic][name], (start, now, stop))
        return sample if self.transform is None else self.transform(sample)

    def _value(self, torch: Any, topic: str, field: Field, bounds: tuple[int, int, int]) -> Any:
        start, now, stop = bounds
        if topic in self.last:
            return _tensor(torch, field[now - 1])
        wanted = self.length.get(topic)
        if wanted is None:
            return _tensor(torch, field[start:stop])
        if stop == start:
            raise UsageError(f"a window has no message of {topic}, so it cannot have {wanted}; use wider windows")
        values = field[max(start, stop - wanted) : stop]
        if isinstance(values, np.ndarray) and len(values) < wanted:
            values = np.concatenate([np.repeat(values[:1], wanted - len(values), axis=0), values])
        return _tensor(torch, values)

    def chunks(self) -> list[NDArray[np.int64]]:
        """Numbers of the samples, grouped by the file chunk of the largest field that they end in."""
        sizes = {name: self.windows.bag[topic][name] for topic, names in self.fields.items() for name in names[:1]}
        largest = max(self.fields, key=lambda topic: sizes[self.fields[topic][0]].nbytes)
        field = self.windows.bag[largest][self.fields[largest][0]]
        rows = max(field.chunk_rows, 32)
        group = self.windows.bounds[largest][:, 1] // rows
        cuts = np.flatnonzero(np.diff(group)) + 1
        return np.split(np.arange(len(self)), cuts)

    def shuffled(self, seed: int) -> NDArray[np.int64]:
        """All sample numbers: chunks in random order, and samples in random order within them."""
        generator = np.random.default_rng(seed)
        groups = self.chunks()
        order = [generator.permutation(groups[at]) for at in generator.permutation(len(groups))]
        return np.concatenate(order) if order else np.empty(0, np.int64)


def _tensor(torch: Any, values: Any) -> Any:
    if isinstance(values, Ragged):
        return [None if array is None else _tensor(torch, array) for array in values]
    if isinstance(values, (np.ndarray, np.generic)) and values.dtype.kind in "biufc":
        array = np.ascontiguousarray(native(np.asarray(values)))
        return torch.from_numpy(array if array.flags.writeable else array.copy())
    return values.tolist() if isinstance(values, np.ndarray) else values


def torch_dataset(
    bag: Bag,
    fields: Mapping[str, str | Sequence[str]],
    *,
    windows: Windows | None = None,
    style: str = "map",
    shuffle: bool = False,
    seed: int = 0,
    last: Sequence[str] = (),
    length: Mapping[str, int] | None = None,
    transform: Callable[[Sample], Any] | None = None,
    **window_options: Any,
) -> Any:
    """Samples for a `torch.utils.data.DataLoader`.

    Args:
        bag: the open bag.
        fields: for each topic the fields wanted.
        windows: windows made before (and split); None: made here from `window_options`, as `Bag.windows` takes them.
        style: `map` for random access by number, `iterable` for a dataset of which each worker reads a share.
        shuffle: iterable style: chunks in random order, and samples within a chunk; another order each epoch.
        seed: of that order.
        last, length, transform: as in `WindowSamples`.

    Raises:
        MissingExtraError: torch is not installed.
        UsageError: something does not fit together.
    """
    data = need("torch.utils.data", "torch", "torch_dataset()")
    if style not in ("map", "iterable"):
        raise UsageError(f"style is {style!r}; it can be 'map' or 'iterable'")
    chosen = windows if windows is not None else bag.windows(**{"topics": tuple(fields), **window_options})
    samples = WindowSamples(chosen, fields, last, length, transform)
    made = _classes(data)
    return made[0](samples) if style == "map" else made[1](samples, shuffle, seed)


# torch is there only now, so its base classes are put on here; instances travel by way of the functions below
def _classes(data: Any) -> tuple[Any, Any]:
    class MapDataset(data.Dataset):  # type: ignore[misc]
        """Samples by number."""

        def __init__(self, samples: WindowSamples) -> None:
            self.samples = samples

        def __len__(self) -> int:
            return len(self.samples)

        def __getitem__(self, number: int) -> Any:
            return self.samples[number]

        def __reduce__(self) -> Any:
            return _map_again, (self.samples,)

    class IterableDataset(data.IterableDataset):  # type: ignore[misc]
        """Samples in order, each worker its share."""

        def __init__(self, samples: WindowSamples, shuffle: bool, seed: int, epoch: int = 0) -> None:
            self.samples = samples
            self.shuffle, self.seed, self.epoch = shuffle, seed, epoch

        def set_epoch(self, epoch: int) -> None:
            """Choose the order of the next epoch."""
            self.epoch = epoch

        def __len__(self) -> int:
            return len(self.samples)

        def __iter__(self) -> Iterator[Any]:
            worker = data.get_worker_info()
            # all workers of an epoch share a seed that torch draws; without workers this object counts the epochs
            epoch = self.epoch if worker is None else self.epoch + worker.seed - worker.id
            order = self.samples.shuffled(self.seed + epoch) if self.shuffle else np.arange(len(self.samples))
            self.epoch += 1
            if worker is not None:
                order = np.array_split(order, worker.num_workers)[worker.id]
            for number in order.tolist():
                yield self.samples[number]

        def __reduce__(self) -> Any:
            return _iterable_again, (self.samples, self.shuffle, self.seed, self.epoch)

    return MapDataset, IterableDataset


def _map_again(samples: WindowSamples) -> Any:
    return _classes(need("torch.utils.data", "torch", "torch_dataset()"))[0](samples)


def _iterable_again(samples: WindowSamples, shuffle: bool, seed: int, epoch: int) -> Any:
    return _classes(need("torch.utils.data", "torch", "torch_dataset()"))[1](samples, shuffle, seed, epoch)
