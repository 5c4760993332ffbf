"""The documentation is true: every command explains itself and stands in the README, and the README's Python runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from cortex.cli import cortex

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def _commands(command, path=("cortex",)):
    yield " ".join(path), command
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            yield from _commands(command.get_command(context, name), (*path, name))


COMMANDS = dict(_commands(cortex))


def _options(command):
    # what click adds to every command needs no explanation
    names = [max(option.opts, key=len) for option in command.params if isinstance(option, click.Option)]
    return [name for name in names if name not in ("--help", "--version")]


def test_the_bag_commands_have_joined():
    assert {"cortex bag record", "cortex bag info", "cortex bag play", "cortex bag demo"} <= COMMANDS.keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_has_help_with_an_example(name):
    assert COMMANDS[name].help
    assert re.search(rf"^ *(Example: )?{name}\b", COMMANDS[name].help, re.MULTILINE)


@pytest.mark.parametrize("name", COMMANDS)
def test_an_option_has_help(name):
    silent = [option.name for option in COMMANDS[name].params if isinstance(option, click.Option) and not option.help]
    assert silent == []


@pytest.mark.parametrize("name", [name for name, command in COMMANDS.items() if not isinstance(command, click.Group)])
def test_a_command_stands_in_the_readme_with_its_options(name):
    row = re.search(rf"^\| `{name}[^|]*\|(.*)$", README, re.MULTILINE)
    assert row, f"README's table of commands has no row that begins with `{name}`"
    assert [option for option in _options(COMMANDS[name]) if not re.search(rf"[`/ ]{option}\b", row[0])] == []


def test_the_readme_names_no_command_that_does_not_exist():
    named = set(re.findall(r"^\| `(cortex(?: [a-z-]+)+)", README, re.MULTILINE))
    assert named - COMMANDS.keys() == set()


def test_the_python_of_the_readme_runs_in_order(tmp_path, discovery):
    blocks = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
    assert blocks
    shutil.copytree(ROOT / "sample_data", tmp_path / "sample_data")
    script = tmp_path / "readme.py"
    script.write_text("\n".join(blocks), encoding="utf-8")
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, script], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
