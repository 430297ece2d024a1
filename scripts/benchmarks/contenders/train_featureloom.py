"""Train our own dictionaries: `python train_featureloom.py JOB.json`.

All is as `TrainConfig` has it, but for runs of less than 1000 steps: there no feature is ever dead,
as with SAELens, for the default window, a fiftieth of the run, would be less than 20 steps.
Settings: `default` is float32, `bfloat16` and `screened` are the kinds of `products`, and `dense`
is float32 without anything sparse, the reference. Figures are read off the device every 20 steps,
as `scripts/train.py` does.
"""

from collections.abc import Callable
from typing import Any

from common import Job, Trained, Unsupported, Watch, batch, fit, read_rows, run
from torch import Tensor

LOG_EVERY = 20
DEAD_FROM_STEPS = 1000
POINT_ROWS = 4096
PRODUCTS: dict[str, Any] = {
    "dense": "float32",
    "default": "float32",
    "bfloat16": "bfloat16",
    "screened": "screened",
}


def train(job: Job, rows: Tensor, watch: Watch) -> Trained:
    from activation_cache.common.memory import keep_freed_memory
    from sae import save
    from sae.architectures import ARCHITECTURES
    from sae.training import TrainConfig, Trainer

    keep_freed_memory()  # as scripts/train.py does
    if job.setting == "screened" and job.architecture == "relu":
        raise Unsupported("only a fixed number of features can be screened for")
    watch.building()
    asked = {"l1_coeff": job.l1_coeff} if job.architecture == "relu" else {"k": job.k}
    given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
    cfg = ARCHITECTURES[job.architecture](d_sae=job.d_sae, **given)
    sae = cfg.build(rows.shape[1], seed=job.seed)
    n_tokens = job.n_steps * job.batch_tokens
    train_cfg = TrainConfig(
        n_tokens=n_tokens,
        lr=job.lr,
        products=PRODUCTS[job.setting],
        dead_after_tokens=n_tokens if job.n_steps < DEAD_FROM_STEPS else None,
        seed=job.seed,
    )
    trainer = Trainer(sae, train_cfg)
    trainer.may_be_sparse = job.setting != "dense"
    trainer.initialise(rows[: trainer.cfg.init_tokens])
    held_out = read_rows(job.held_out)[:POINT_ROWS]
    every = max(1, job.n_steps // job.points) if job.points else job.n_steps
    for step in range(job.n_steps):
        watch.step()
        if step > 0 and step % every == 0:
            watch.point(lambda: fit(held_out, _reconstruction(trainer.dictionary()), job.d_sae)[0])
        record = trainer.step(batch(rows, step, job.batch_tokens))
        if (step + 1) % LOG_EVERY == 0:
            for figure in (record.loss, record.fvu, record.l0, record.grad_norm):
                figure.item()
    watch.done()
    trainer.finish()

    return Trained(
        reconstruct=_reconstruction(sae),
        parameters=sae.parameters(),
        optimizer_state=trainer.optimizer.state.values(),
        lr=train_cfg.learning_rate(job.d_sae),
        save=lambda folder: save(sae, folder / "sae"),
    )


def _reconstruction(sae: Any) -> Callable[[Tensor], tuple[Tensor, Tensor]]:
    def reconstruct(chunk: Tensor) -> tuple[Tensor, Tensor]:
        acts = sae.encode(chunk)
        return acts, sae.decode(acts)

    return reconstruct


if __name__ == "__main__":
    run("Featureloom", "featureloom", train)
