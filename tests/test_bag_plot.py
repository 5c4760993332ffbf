"""The timeline: red where messages are missing, nowhere else, and one sentence where matplotlib is missing."""

import sys

import numpy as np
import pytest
from made_bags import sample, write

import bag
from bag import plot
from bag.errors import MissingExtraError
from cortex.messages.standard import StringMessage


def _pixels(name, output):
    image = pytest.importorskip("matplotlib.image")
    with bag.open(sample(name)) as run:
        plot.timeline(run, output)
    return image.imread(output)[..., :3]


def _count(pixels, colour):
    return int(np.all(np.abs(pixels - colour) < 0.02, axis=-1).sum())


@pytest.mark.parametrize(("name", "missing"), [("gaps", True), ("robot", False)])
def test_red_is_what_is_missing(name, missing, tmp_path):
    pixels = _pixels(name, tmp_path / "timeline.png")
    assert (_count(pixels, plot.MISSING) > 0) is missing
    assert _count(pixels, plot.DENSE) > 0


def test_a_few_messages_are_lines_and_not_a_band(tmp_path):
    image = pytest.importorskip("matplotlib.image")
    shares = []
    for count in (2, 200):
        messages = [(StringMessage(data="x"), at * 10**9 * 200 // count) for at in range(count)]
        path = write(tmp_path / f"{count}.h5", {"/t": [(at, message) for message, at in messages]})
        with bag.open(path) as run:
            plot.timeline(run, tmp_path / "timeline.png")
        pixels = image.imread(tmp_path / "timeline.png")[..., :3]
        shares.append(_count(pixels, plot.DENSE) / pixels[..., 0].size)
    assert shares[0] < 0.01 < 0.05 < shares[1]


def test_more_topics_make_a_taller_picture(tmp_path):
    assert _pixels("robot", tmp_path / "a.png").shape[0] > _pixels("custom", tmp_path / "b.png").shape[0]


def test_without_matplotlib_it_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with bag.open(sample("gaps")) as run, pytest.raises(MissingExtraError, match=r"cortex-bag\[plot\]"):
        plot.timeline(run, tmp_path / "timeline.png")
    assert not (tmp_path / "timeline.png").exists()
