"""A long training, whose memory must not grow."""

import gc
import os

import psutil

from activation_cache import HarvestConfig, harvest, load_model
from sae.architectures import TopKConfig
from sae.provenance import Provenance
from sae.training import TrainConfig, train

GROWTH_AFTER = 0.1
"""Share of the training after which all memory that it needs is taken."""
LOOK_EVERY = 200
"""Steps."""
SITE = "blocks.2.hook_resid_pre"


def resident_memory_growth(n_tokens: int) -> float:
    """How much larger the resident memory gets than it is after a tenth of the training.

    The demonstration's dictionary on the embedded model, from the live stream, as `train` does it.
    """
    model = load_model("tiny")
    stream = harvest(model, HarvestConfig(hook_names=(SITE,), batch_tokens=512))
    sae = TopKConfig(d_sae=1536, k=32).build(model.width(SITE))
    sae.provenance = Provenance(hook_name=SITE)
    process = psutil.Process(os.getpid())
    settled, largest = 0, 0
    for record in train(sae, stream, TrainConfig(n_tokens=n_tokens)):
        if record.n_tokens >= GROWTH_AFTER * n_tokens and record.step % LOOK_EVERY == 0:
            gc.collect()
            largest = max(largest, process.memory_info().rss)
            settled = settled or largest
    return largest / settled - 1
