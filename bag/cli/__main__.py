"""``python -m bag.cli``: the same commands without an installed ``cortex`` script."""

from bag.cli import bag

if __name__ == "__main__":
    bag(prog_name="cortex bag")
