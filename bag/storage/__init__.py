"""The only door to HDF5: writes, reads and repairs bags as FORMAT.md says."""

from bag.storage.writer import BagWriter

__all__ = ["BagWriter"]
