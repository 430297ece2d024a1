"""Which documents are held out of training: a hash of each decides, whatever the others are."""

import hashlib

HELD_OUT_EVERY = 20
"""One document in this many is held out of training."""


def is_held_out(key: str | bytes) -> bool:
    """Whether the document with this name or text belongs to the held-out split.

    The same in every process, and it does not change when documents are added.
    """
    data = key if isinstance(key, bytes) else key.encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(data, digest_size=8).digest()
    return int.from_bytes(digest) % HELD_OUT_EVERY == 0
