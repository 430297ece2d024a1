"""Train dictionary_learning's dictionaries: `python train_dictionary_learning.py JOB.json`.

Runs `TopKTrainer.update` (AutoEncoderTopK) or `StandardTrainer.update` (AutoEncoder) of
dictionary-learning 0.1.0 in the loop of its `trainSAE`, without W&B and checkpoints; importing
that loop itself would need W&B. All else is at the trainers' defaults: Adam (0.9, 0.999) with 1000
steps of warm-up, float32, rows not normalised. TopK: lr 2e-4 / sqrt(d_sae / 2**14), the gradient
clipped to norm 1, a unit-norm decoder with the parallel gradient removed, b_dec from the first
batch's geometric median, AuxK of weight 1/32 on features that have not fired for 10 million
tokens. Standard: lr 1e-3, L1 penalty 0.1 with 2000 steps of warm-up, a unit-norm decoder
(ConstrainedAdam), no clipping, no resampling.

A trainer refuses a run that is shorter than its warm-ups: a shorter job is the begin of the
shortest run that it accepts, whose steps are the same. `bfloat16` is the autocast that `trainSAE`
enters on CUDA (autocast_dtype), here on the CPU, where `trainSAE` would only round the rows.
"""

import contextlib
import json
from pathlib import Path
from typing import Any

import torch
from common import Job, Trained, Unsupported, Watch, batch, run
from torch import Tensor


def train(job: Job, rows: Tensor, watch: Watch) -> Trained:
    if job.setting == "sparse":
        raise Unsupported("dictionary_learning has no sparse activations")
    from dictionary_learning.trainers import (  # pyright: ignore[reportMissingImports]
        StandardTrainer,
        TopKTrainer,
    )

    watch.building()
    if job.architecture == "topk":
        trainer = TopKTrainer(k=job.k, **_settings(job, rows.shape[1]))
    else:
        l1 = {} if job.l1_coeff is None else {"l1_penalty": job.l1_coeff}
        if job.l1_warmup_steps is not None:
            l1["sparsity_warmup_steps"] = job.l1_warmup_steps
        trainer = StandardTrainer(**_settings(job, rows.shape[1]), **l1)
    half = job.setting == "bfloat16"
    dtype = torch.bfloat16 if half else torch.float32
    autocast = torch.autocast("cpu", dtype=dtype) if half else contextlib.nullcontext()
    for step in range(job.n_steps):
        watch.step()
        with autocast:
            trainer.update(step, batch(rows, step, job.batch_tokens).to(dtype))
    watch.done()

    def reconstruct(chunk: Tensor) -> tuple[Tensor, Tensor]:
        acts = trainer.ae.encode(chunk)
        return acts, trainer.ae.decode(acts)

    return Trained(
        reconstruct=reconstruct,
        parameters=trainer.ae.parameters(),
        optimizer_state=trainer.optimizer.state.values(),
        lr=trainer.lr,
        save=lambda folder: _save(trainer, folder / "sae"),
        note="autocast on the CPU, which trainSAE enters on CUDA only" if half else None,
    )


def _save(trainer: Any, folder: Path) -> None:
    """As its `trainSAE` does."""
    folder.mkdir()
    torch.save(trainer.ae.state_dict(), folder / "ae.pt")
    (folder / "config.json").write_text(json.dumps({"trainer": trainer.config}))


def _settings(job: Job, d_in: int) -> dict:
    warm_ups = [1000 if job.lr_warmup_steps is None else job.lr_warmup_steps]
    if job.architecture == "relu":
        warm_ups.append(2000 if job.l1_warmup_steps is None else job.l1_warmup_steps)
    settings = {
        "steps": max(job.n_steps, max(warm_ups) + 1),
        "activation_dim": d_in,
        "dict_size": job.d_sae,
        "layer": 0,
        "lm_name": "",
        "warmup_steps": warm_ups[0],
        "seed": job.seed,
        "device": "cpu",
    }
    return settings if job.lr is None else settings | {"lr": job.lr}


if __name__ == "__main__":
    run("dictionary_learning", "dictionary-learning", train)
