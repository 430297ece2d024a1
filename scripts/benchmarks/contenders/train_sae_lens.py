"""Train SAELens' dictionaries: `python train_sae_lens.py JOB.json`.

Runs `SAETrainer.fit` of sae-lens 6.54.12 on a `TopKTrainingSAE` or a `StandardTrainingSAE`. W&B,
evaluations and checkpoints are off, as is the default of `SAETrainerConfig`. All else is as the
configs have it: Adam (0.9, 0.999) at a constant 3e-4; the gradient clipped to norm 1, which the
trainer always does; float32; rows not normalised; decoder rows that start at norm 0.1 and stay
free. TopK: activations rescaled by the decoder's norms, and an auxiliary loss of weight 1 on
features that have not fired for 1000 steps. Standard: L1 coefficient 1.0 without a warm-up.

`bfloat16` is `autocast=True`. `sparse` is `use_sparse_activations=True`, which SAELens recommends
for small k in float32, without the rescaling by the decoder's norms: torch has no backward of the
two together on the CPU. The seed is torch's, for the trainer has none.
"""

from collections.abc import Iterator
from typing import Any

from common import Job, Trained, Unsupported, Watch, batch, run
from torch import Tensor


def train(job: Job, rows: Tensor, watch: Watch) -> Trained:
    from sae_lens import SAETrainer  # pyright: ignore[reportMissingImports]
    from sae_lens.config import SAETrainerConfig  # pyright: ignore[reportMissingImports]

    watch.building()
    sae = _dictionary(job, rows.shape[1])
    lr = {} if job.lr is None else {"lr": job.lr}
    cfg = SAETrainerConfig(
        total_training_samples=job.n_steps * job.batch_tokens,
        train_batch_size_samples=job.batch_tokens,
        lr_warm_up_steps=job.lr_warmup_steps or 0,
        autocast=job.setting == "bfloat16",
        **lr,
    )
    # As the runner's config does; a constant schedule does not look at it.
    cfg.lr_end = cfg.lr / 10
    trainer = SAETrainer(cfg=cfg, sae=sae, data_provider=_batches(job, rows, watch))
    trainer.fit()
    watch.done()

    def reconstruct(chunk: Tensor) -> tuple[Tensor, Tensor]:
        acts = sae.encode(chunk)
        return (acts.to_dense() if acts.is_sparse else acts), sae.decode(acts)

    return Trained(
        reconstruct=reconstruct,
        parameters=sae.parameters(),
        optimizer_state=trainer.optimizer.state.values(),
        lr=cfg.lr,
        save=lambda folder: sae.save_inference_model(folder / "sae"),
        note="no rescaling by the decoder's norms" if job.setting == "sparse" else None,
    )


def _dictionary(job: Job, d_in: int) -> Any:
    from sae_lens import (  # pyright: ignore[reportMissingImports]
        StandardTrainingSAE,
        StandardTrainingSAEConfig,
        TopKTrainingSAE,
        TopKTrainingSAEConfig,
    )

    if job.architecture == "topk":
        sparse = {"use_sparse_activations": True, "rescale_acts_by_decoder_norm": False}
        return TopKTrainingSAE(
            TopKTrainingSAEConfig(
                d_in=d_in, d_sae=job.d_sae, k=job.k, **(sparse if job.setting == "sparse" else {})
            )
        )
    if job.setting == "sparse":
        raise Unsupported("only SAELens' TopK has sparse activations")
    l1 = {} if job.l1_coeff is None else {"l1_coefficient": job.l1_coeff}
    return StandardTrainingSAE(
        StandardTrainingSAEConfig(
            d_in=d_in, d_sae=job.d_sae, l1_warm_up_steps=job.l1_warmup_steps or 0, **l1
        )
    )


def _batches(job: Job, rows: Tensor, watch: Watch) -> Iterator[Tensor]:
    for step in range(job.n_steps):
        watch.step()
        yield batch(rows, step, job.batch_tokens)


if __name__ == "__main__":
    run("SAELens", "sae-lens", train)
