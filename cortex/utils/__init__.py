"""Small helpers under the names that programs import."""

from cortex.utils.hashing import compute_fingerprint
from cortex.utils.logging import get_logger, set_log_level
from cortex.utils.loop import run
from cortex.utils.serialization import deserialize, serialize

__all__ = ["compute_fingerprint", "deserialize", "get_logger", "run", "serialize", "set_log_level"]
