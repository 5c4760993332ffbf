"""The only door to HDF5: writes, reads and repairs bags as FORMAT.md says."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bag.storage.writer import BagWriter

__all__ = ["BagWriter"]

# hidden from type checkers, which would take any misspelt name for this one
if not TYPE_CHECKING:

    def __getattr__(name):
        """Fetch the writer when it is first used: reading needs none."""
        if name == "BagWriter":
            from bag.storage.writer import BagWriter

            return BagWriter
        raise AttributeError(f"module 'bag.storage' has no attribute {name!r}")
