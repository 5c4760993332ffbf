"""What the shell offers after TAB beside options: bags, and the topics of the bags on the command line.

Install it once: ``cortex bag completion bash >> ~/.bashrc`` (or zsh, fish).
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from bag.errors import BagError

SHELLS = ("bash", "zsh", "fish")
SUFFIXES = (".h5", ".hdf5")


def bags(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Bags and directories that begin as typed."""
    typed = Path(incomplete)
    directory, start = (typed, "") if incomplete.endswith("/") or not incomplete else (typed.parent, typed.name)
    prefix = incomplete[: len(incomplete) - len(start)]
    try:
        found = sorted(path for path in directory.iterdir() if path.name.startswith(start))
    except OSError:
        return []
    hidden = [path for path in found if path.name.startswith(".") and not start.startswith(".")]
    out = []
    for path in found:
        if path in hidden:
            continue
        if path.is_dir():
            out.append(CompletionItem(f"{prefix}{path.name}/"))
        elif path.suffix in SUFFIXES:
            out.append(CompletionItem(f"{prefix}{path.name}"))
    return out


def topics(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Topics of the bags that are on the command line already."""
    names: dict[str, str] = {}
    for path in _bags_of(context):
        names |= dict(_topics_of(path))
    return [CompletionItem(name, help=kind) for name, kind in names.items() if name.startswith(incomplete)]


def _bags_of(context: click.Context) -> Iterable[Path]:
    for name in ("bag_path", "bags", "bag_a", "bag_b"):
        value = context.params.get(name)
        yield from map(Path, value if isinstance(value, tuple) else [value] if value else [])
    # an option that still waits for its value keeps click from sorting the words before it
    yield from (Path(word) for word in context.args if word.endswith(SUFFIXES))


# only what is written down: a bag that was not closed is left alone
def _topics_of(path: Path) -> list[tuple[str, str]]:
    from bag.storage.glance import topics_at_a_glance

    try:
        return topics_at_a_glance(path)
    except (BagError, OSError):
        return []


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
def completion(shell: str) -> None:
    """Print the script that teaches SHELL to complete `cortex`: commands, options, bags and topics.

    It works in shells that are opened afterwards. In ~/.zshrc it must stand behind compinit.

    \b
    Examples:
      cortex bag completion bash >> ~/.bashrc
      cortex bag completion zsh >> ~/.zshrc
      cortex bag completion fish > ~/.config/fish/completions/cortex.fish
    """
    maker = get_completion_class(shell)
    assert maker is not None
    click.echo(maker(click.Command("cortex"), {}, "cortex", "_CORTEX_COMPLETE").source())
