"""What the tests share: the embedded model, and small dictionaries with known weights."""

import os

# Before torch and the hub clients are imported: no spinning threads, no network, no W&B server.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("GOMP_SPINCOUNT", "0")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["WANDB_MODE"] = "offline"
os.environ.pop("WANDB_API_KEY", None)

import pytest

from activation_cache import LanguageModel, load_model


@pytest.fixture(scope="session")
def tiny() -> LanguageModel:
    """The embedded language model. Tests must leave it as it is."""
    return load_model("tiny", device="cpu")
