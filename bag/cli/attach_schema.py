"""``cortex bag attach-schema``: teach a bag the field names of a type that was not known when it was recorded."""

from __future__ import annotations

from pathlib import Path

import click

from bag import annotate
from bag.cli import edit_options, options, record_options
from bag.render import clean
from bag.storage.probe import untrusted


@click.command(name="attach-schema")
@options.together(
    edit_options.bag_arg, record_options.imports_opt, edit_options.maybe_output_opt, edit_options.force_opt
)
def attach_schema(bag_path: Path, imports: tuple[str, ...], output: Path | None, force: bool) -> None:
    """Attach the field names of imported message classes to BAG.

    A class fits a type of the bag by its fingerprint. Without --output the bag learns the names in place, at once; a
    copy made with --output has them as names of its datasets, too.

    \b
    Examples:
      cortex bag attach-schema run.h5 --import my_robot.messages
      cortex bag attach-schema run.h5 --import my_robot.messages -o named.h5
    """
    with untrusted(bag_path):
        schemas = annotate.attach_schemas(bag_path, imports, output, force=force)
    for schema in schemas:
        click.echo(clean(f"{schema.type_name}: {', '.join(item.name for item in schema.fields)}"))
    if not schemas:
        click.echo(f"{bag_path} knows all its types already.")
