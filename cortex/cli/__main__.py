"""Lets ``python -m cortex.cli`` do what the command ``cortex`` does."""

from cortex.cli import main

if __name__ == "__main__":
    main()
