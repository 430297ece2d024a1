"""Train toy models, as many as asked: FEATURES HIDDEN INSTANCES STEPS BATCH_TOKENS THREADS."""

import json
import resource
import sys
import time

import torch

from activation_cache.common.memory import keep_freed_memory
from sae.toy import Independent, ToyConfig, ToyModels, ToyTrainConfig, train_toy


def main() -> None:
    n_features, n_hidden, instances, n_steps, batch_tokens, threads = map(int, sys.argv[1:])
    keep_freed_memory()
    torch.set_num_threads(threads)
    models = ToyModels(ToyConfig(n_features=n_features, n_hidden=n_hidden), restarts=instances)
    features = Independent(torch.full((n_features,), 0.05))
    began = time.process_time()
    for _ in train_toy(
        models, features, ToyTrainConfig(n_steps=n_steps, batch_tokens=batch_tokens, lr=1e-2)
    ):
        pass
    said = {
        "training_cpu_seconds": time.process_time() - began,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }
    print(json.dumps(said))


if __name__ == "__main__":
    main()
