"""Train dictionaries to the end, and show how far it is."""

import sys
from collections.abc import Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from torch import Tensor

from activation_cache.common.numbers import Number
from sae.batches import Batch
from sae.trainable import TrainableSAE
from sae.training.config import TrainConfig
from sae.training.record import StepRecord
from sae.training.train import default_config, longest, train

LATEST = "FVU {task.fields[fvu]:.4f}  L0 {task.fields[l0]:.1f}  dead {task.fields[dead]:,.0f}"


def fit(
    saes: TrainableSAE | Sequence[TrainableSAE],
    batches: Iterable[Batch] | Tensor,
    cfg: TrainConfig | Sequence[TrainConfig] | None = None,
    *,
    log_every: int = 20,
    progress: bool = True,
) -> list[dict[str, Number]]:
    """Train one dictionary or several in place, to the end, with a progress bar.

    On activations [batch, d_in] of your own, or on a stream of `activation_cache.harvest`:

        dictionary = TopKConfig(d_sae=1536, k=32).build(d_in=192)
        log = sae.fit(dictionary, batches, sae.TrainConfig(n_tokens=500_000))
        sae.save(dictionary, "my-dictionary")

    `saes` are dictionaries of `sae.architectures`; several are trained on the same stream, each as
    if alone. `batches` are tensors or NumPy arrays [..., d_in], or mappings from hook names to
    them, of which each dictionary takes that of its `provenance.hook_name`; of tuples, as a
    DataLoader gives them, the first entry counts. One tensor or array, which may be memory-mapped,
    is the rows of all batches: they are shuffled. `cfg` is one for all, or one for each; the
    default is `TrainConfig()`, or each row of an array once. Its `n_tokens` are rows; the learning
    rate falls to 0 towards them, so batches should last as long: a warning says where they end
    earlier, or where an array is gone through several times.

    Returns a row for every `log_every`-th step of each dictionary and for its last one, as numbers
    by name: `step`, `n_tokens`, `loss`, `fvu`, `l0`, `dead` and others, of the training batch
    before the step; `dictionary` is the position in `saes`. `pandas.DataFrame(log)` plots them. For
    numbers to report, on rows that were not trained on, there is `sae.evaluate_reconstruction`.

    `progress` shows a bar on stderr. To look at every step, or to stop early, iterate `sae.train`.

    Raises `InputError` for a stream that is empty, of the wrong width, or not finite, and
    `NotFinite` for a dictionary that diverges, once the others are done.
    """
    cfg = cfg or default_config(batches)
    total = longest(cfg)
    log: list[dict[str, Number]] = []
    latest: dict[int, StepRecord] = {}
    """Of each dictionary, its last step, where that is not in the log."""
    bar = Progress(
        TextColumn("training"),
        BarColumn(),
        TextColumn("{task.completed:,.0f} of {task.total:,.0f} tokens"),
        TextColumn(LATEST),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        disable=not progress,
    )
    with bar:
        task = bar.add_task("", total=total, fvu=1.0, l0=0.0, dead=0)

        def keep(record: StepRecord) -> None:
            row = {"dictionary": record.dictionary, **record.row()}
            log.append(row)
            shown = {"fvu": row["fvu"], "l0": row["l0"], "dead": row["dead"]}
            bar.update(task, completed=record.n_tokens, **shown)  # type: ignore[arg-type]

        for record in train(saes, batches, cfg):
            latest[record.dictionary] = record
            if (record.step + 1) % log_every == 0:
                keep(latest.pop(record.dictionary))
        for record in latest.values():
            keep(record)
    return log
