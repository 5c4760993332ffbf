"""Camera and IMU windows into a PyTorch DataLoader with workers: ``python tests/benchmarks/bench_torch.py``.

A bag of a camera (640x480x3 at 30 Hz) and an IMU (1 kHz); a sample is the newest frame and the 200 IMU rows before it.
Prints one JSON object: for fork and spawn, map and iterable style, samples a second of each epoch and the memory of the
largest worker that is its own (MB, private pages) after each. Needs the extra `torch`.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import bag
from cortex.messages.standard import ArrayMessage, ImageMessage

T0 = 1_767_225_600_000_000_000
S = 1_000_000_000


def write(path: Path, seconds: int) -> None:
    random = np.random.default_rng(0)
    images = [random.integers(0, 255, (480, 640, 3), np.uint8) for _ in range(8)]
    with bag.Writer(path, keep_tail=False) as writer:
        for second in range(seconds):
            base = T0 + second * S
            frames = [(ImageMessage(images[n % 8]), base + n * S // 30, None) for n in range(30)]
            writer.write_many("/camera", frames)
            rows = [(ArrayMessage(random.random(10)), base + n * S // 1000, None) for n in range(1000)]
            writer.write_many("/imu", rows)


# pages that no other process has: what a leak would add to
def private_mb(process: int) -> float:
    with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
        values = [int(line.split()[1]) for line in file if line.startswith("Private")]
    return sum(values) / 1024


def load(path: Path, context: str, style: str, workers: int, batch: int, epochs: int) -> dict[str, Any]:
    from torch.utils.data import DataLoader

    with bag.open(path) as run:
        options: dict[str, Any] = {"style": "iterable", "shuffle": True} if style == "iterable" else {}
        samples = run.torch_dataset(
            {"/camera": "data", "/imu": "data"},
            past="0.25s",
            stride="20ms",
            last=["/camera"],
            length={"/imu": 200},
            **options,
        )
        loader = DataLoader(
            samples,
            batch_size=batch,
            num_workers=workers,
            shuffle=style == "map",
            persistent_workers=True,
            multiprocessing_context=context,
        )
        found: dict[str, Any] = {"samples": 0, "samples_per_s": [], "worker_mb": []}
        for _ in range(epochs):
            taken, start, largest = 0, time.perf_counter(), 0.0
            iterator = iter(loader)
            for number, one in enumerate(iterator):
                taken += len(one["time_ns"])
                if number % 8 == 0:
                    processes = [worker.pid for worker in iterator._workers]
                    largest = max(largest, *map(private_mb, processes))
            found["samples_per_s"].append(round(taken / (time.perf_counter() - start), 1))
            found["worker_mb"].append(round(largest, 1))
            found["samples"] = taken
        del iterator, loader
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--epochs", type=int, default=2)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_torch_") as made:
        path = Path(made) / "drive.h5"
        write(path, options.seconds)
        report: dict[str, Any] = {"bag_mb": round(os.path.getsize(path) / 1e6), "workers": options.workers}
        for context in ("fork", "spawn"):
            for style in ("map", "iterable"):
                report[f"{context}, {style}"] = load(
                    path, context, style, options.workers, options.batch, options.epochs
                )
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
