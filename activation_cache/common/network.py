"""Whether the Hugging Face hub can be reached, asked once and quickly."""

import os
import socket
from functools import cache
from urllib.parse import urlsplit
from urllib.request import getproxies


@cache
def hub_is_reachable(timeout_s: float = 3.0) -> bool:
    """Whether something listens at the hub's address.

    The hub's own clients retry for the better part of a minute before they say that there is no
    network. Behind a proxy that cannot be known, and the answer is yes.
    """
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    if {"https", "all"} & getproxies().keys():
        return True
    endpoint = urlsplit(os.environ.get("HF_ENDPOINT", constants.ENDPOINT))
    port = endpoint.port or (443 if endpoint.scheme == "https" else 80)
    try:
        with socket.create_connection((endpoint.hostname or "", port), timeout=timeout_s):
            return True
    except OSError:
        return False
