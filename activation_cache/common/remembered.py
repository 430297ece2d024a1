"""What takes a while to find out and does not change: kept in the user's cache folder."""

import json
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import xxhash

from activation_cache.common.files import write_file


def cache_folder() -> Path:
    """`featureloom` in XDG_CACHE_HOME, which is ~/.cache where it is not set."""
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(home) / "featureloom"


def remembered(kind: str, key: Mapping[str, Any], find_out: Callable[[], Any]) -> Any:
    """What `find_out` returns, which JSON can hold, or returned when it was asked the same before.

    `key` is all that the answer depends on. Where the folder cannot be read or written, it is found
    out each time.
    """
    name = xxhash.xxh3_128_hexdigest(json.dumps(key, sort_keys=True, default=str).encode())
    with suppress(OSError, RuntimeError, ValueError):  # RuntimeError: there is no home
        return json.loads((cache_folder() / kind / f"{name}.json").read_bytes())
    found = find_out()
    with suppress(OSError, RuntimeError):
        write_file(cache_folder() / kind / f"{name}.json", json.dumps(found))
    return found
