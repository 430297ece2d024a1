"""Train sparsify's dictionary: `python train_sparsify.py JOB.json`.

Runs `Trainer.fit` of eai-sparsify 1.3.3 on a `SparseCoder`, without W&B and checkpoints. The
trainer wants a language model: it gets one whose only module gives out the rows, one batch as one
sequence. All else is at the defaults of `TrainConfig` and `SparseCoderConfig`: sign descent in a
schedule-free wrapper (momentum 0.95) at lr 5e-3 / sqrt(d_sae / 2**14), no warm-up, no clipping,
float32, rows not normalised, FVU as the loss, no auxiliary loss, a unit-norm decoder with the
parallel gradient removed, b_dec from the first batch's mean.

The fit is that of the averaged weights, which it would save, with decoder rows at unit norm again.
The trainer normalises the weights that it steps, not the average: where the learning rate is high,
the norms of the average shrink and the reconstructions with them. The note has the fit as saved.

It has TopK only. `bfloat16` is the autocast that `SparseCoder.forward` always enters on CUDA, here
on the CPU, where sparsify has none.
"""

import os

import torch
from common import Job, Trained, Unsupported, Watch, batch, fit, read_rows, run
from torch import Tensor, nn


class Replay(nn.Module):
    """Stands for a language model: the token of a sequence is the number of the step."""

    device = torch.device("cpu")

    def __init__(self, rows: Tensor, batch_tokens: int) -> None:
        super().__init__()
        self.rows, self.batch_tokens = rows, batch_tokens
        self.site = nn.Identity()

    @property
    def base_model(self) -> nn.Module:
        return self

    @property
    def dummy_inputs(self) -> dict[str, Tensor]:
        return {"input_ids": torch.zeros(1, 1, dtype=torch.int64)}

    def forward(self, input_ids: Tensor) -> Tensor:
        return self.site(batch(self.rows, int(input_ids[0, 0]), self.batch_tokens)[None])


class Steps(torch.utils.data.Dataset):
    """The sequences: each is one step."""

    def __init__(self, job: Job, watch: Watch) -> None:
        self.job, self.watch = job, watch

    def __len__(self) -> int:
        return self.job.n_steps

    def __getitem__(self, step: int) -> dict[str, Tensor]:
        self.watch.step()
        return {"input_ids": torch.full((self.job.batch_tokens,), step)}


def train(job: Job, rows: Tensor, watch: Watch) -> Trained:
    if job.architecture != "topk" or job.setting == "sparse":
        raise Unsupported("sparsify has TopK only, always with sparse activations")
    # Its Triton kernels are for CUDA.
    os.environ["SPARSIFY_DISABLE_TRITON"] = "1"
    from sparsify import (  # pyright: ignore[reportMissingImports]
        SparseCoderConfig,
        TrainConfig,
        Trainer,
    )

    watch.building()
    cfg = TrainConfig(
        sae=SparseCoderConfig(num_latents=job.d_sae, k=job.k),
        batch_size=1,
        lr=job.lr,
        init_seeds=[job.seed],
        hookpoints=["site"],
        log_to_wandb=False,
    )
    trainer = Trainer(cfg, Steps(job, watch), Replay(rows, job.batch_tokens))
    trainer.save = lambda: None
    sae = trainer.saes["site"]
    half = job.setting == "bfloat16"
    if half:
        sae.forward = torch.autocast("cpu", dtype=torch.bfloat16)(sae.forward)
    trainer.fit()
    watch.done()
    (optimizer,) = trainer.optimizers
    optimizer.eval()

    def reconstruct(chunk: Tensor) -> tuple[Tensor, Tensor]:
        acts, features, _ = sae.encode(chunk)
        x_hat = sae.decode(acts, features)
        return acts.new_zeros(len(chunk), job.d_sae).scatter_(1, features, acts), x_hat

    as_saved, _, _ = fit(read_rows(job.held_out), reconstruct, job.d_sae)
    sae.set_decoder_norm_to_unit_norm()
    note = f"decoder at unit norm again (FVU {as_saved:.4f} as saved)"
    if half:
        note += "; autocast on the CPU, which sparsify enters on CUDA only"
    return Trained(
        reconstruct=reconstruct,
        parameters=sae.parameters(),
        optimizer_state=optimizer.state.values(),
        lr=optimizer.param_groups[0]["lr"],
        save=lambda folder: sae.save_to_disk(folder / "sae"),
        note=note,
    )


if __name__ == "__main__":
    run("sparsify", "eai-sparsify", train)
