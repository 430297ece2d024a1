"""Where the tests find object storage, and what they do to the objects there."""

import torch
from torch import Tensor

from activation_cache import ActivationCache
from activation_cache.cache.storage import Storage

RESID = "blocks.2.hook_resid_pre"


def settings(server: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": server,
        "AWS_ACCESS_KEY_ID": "nobody",
        "AWS_SECRET_ACCESS_KEY": "nothing",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def objects(url: str) -> dict[str, bytes]:
    """Every object below a URL by its path relative to it."""
    storage = Storage(url)
    return {name: storage.read(name) for name in storage.names()}


def rows(cache: ActivationCache, *, shuffle: bool = False) -> Tensor:
    with cache.batches(64, shuffle=shuffle) as stream:
        return torch.cat([batch[RESID] for batch in stream])


def damage(url: str, name: str) -> bytes:
    """Flip a bit of an object amid its rows; what it was."""
    storage = Storage(url)
    data = storage.read(name)
    at = len(data) // 2
    storage.write(name, data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    return data
