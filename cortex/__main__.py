"""Lets ``python -m cortex`` do what the command ``cortex`` does."""

import runpy

if __name__ == "__main__":
    # by name: nothing but the command line itself imports the command line
    runpy.run_module("cortex.cli", run_name="__main__")
