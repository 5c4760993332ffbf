"""``cortex bag compress`` and ``decompress``: the same bag, smaller or faster."""

from __future__ import annotations

from pathlib import Path

import click

from bag.cli import edit_options, options
from bag.cli.filter import show_edit
from bag.edit import FilterOptions, filter_bag
from bag.storage.probe import untrusted


@click.command()
@options.together(
    edit_options.bag_arg,
    edit_options.new_bag_opt,
    edit_options.compress_to_opt,
    edit_options.force_opt,
    options.json_opt,
)
def compress(bag_path: Path, output: Path, compression: str, force: bool, as_json: bool) -> None:
    """Write BAG to a new bag whose chunks are compressed, without losing a bit.

    bag and h5py read it as before. gzip is in every HDF5; lz4 and zstd are faster, but every reader needs their
    plugins: pip install "cortex-bag[compression]".

    \b
    Examples:
      cortex bag compress run.h5 -o small.h5
      cortex bag compress run.h5 -o small.h5 --compression zstd:9
    """
    with untrusted(bag_path):
        report = filter_bag(bag_path, output, FilterOptions(compression=compression), force=force)
    show_edit(report, as_json=as_json)


@click.command()
@options.together(edit_options.bag_arg, edit_options.new_bag_opt, edit_options.force_opt, options.json_opt)
def decompress(bag_path: Path, output: Path, force: bool, as_json: bool) -> None:
    """Write BAG to a new bag without compression, as it was recorded.

    \b
    Example:
      cortex bag decompress small.h5 -o run.h5
    """
    with untrusted(bag_path):
        report = filter_bag(bag_path, output, FilterOptions(compression="none"), force=force)
    show_edit(report, as_json=as_json)
