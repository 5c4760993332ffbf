"""The name under which programs import fingerprints; the code lives in `cortex.fingerprint`."""

from cortex.fingerprint import (
    bytes_to_fingerprint,
    clear_fingerprint_cache,
    compute_fingerprint,
    fingerprint_to_bytes,
    get_cached_fingerprint,
    register_fingerprint,
)

__all__ = [
    "bytes_to_fingerprint",
    "clear_fingerprint_cache",
    "compute_fingerprint",
    "fingerprint_to_bytes",
    "get_cached_fingerprint",
    "register_fingerprint",
]
