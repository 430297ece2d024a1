"""Generous checks that what is meant to be fast is not slow. Figures are scripts/bench.py's."""

import statistics
import time

import pytest
import torch

from sae.architectures import TopKConfig
from sae.training import TrainConfig, Trainer


@pytest.mark.slow
def test_a_sparse_step_takes_at_most_half_the_time_of_a_dense_one() -> None:
    x = torch.randn(1024, 512, generator=torch.Generator().manual_seed(0))
    trainers = []
    for may_be_sparse in (True, False):
        dictionary = TopKConfig(d_sae=8192, k=16).build(512)
        trainers.append(Trainer(dictionary, TrainConfig(n_tokens=10**9)))
        trainers[-1].may_be_sparse = may_be_sparse
        trainers[-1].initialise(x)

    def cpu_seconds(trainer: Trainer) -> float:
        began = time.process_time()
        trainer.step(x)
        return time.process_time() - began

    pairs = [[cpu_seconds(trainer) for trainer in trainers] for _ in range(9)]
    assert statistics.median(dense / sparse for sparse, dense in pairs[1:]) >= 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
def test_between_counts_a_training_step_never_waits_for_the_gpu() -> None:
    x = torch.randn(4096, 256, device="cuda")
    trainer = Trainer(TopKConfig(d_sae=4096, k=16).build(256).to("cuda"), TrainConfig())
    trainer.initialise(x)
    for _ in range(Trainer.COUNT_STEPS):
        trainer.step(x)  # compiles kernels, makes the optimiser's state, counts dead features
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(Trainer.COUNT_STEPS - 1):
            record = trainer.step(x)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert record.step == 2 * Trainer.COUNT_STEPS - 2 and record.loss.isfinite()
