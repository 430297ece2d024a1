"""From text to trained dictionaries: the shuffle, one dictionary on a stream, and eight."""

from collections.abc import Callable, Iterator
from itertools import islice, repeat

from activation_cache import ActivationStream, HarvestConfig, LanguageModel, harvest
from activation_cache.stream.shuffle import ShuffleBuffer
from activation_cache.text.config import Split
from benchmarks.harvest import bare_forward_of, load, site
from benchmarks.measure import BenchFlags, Row, measure
from benchmarks.training import Shape, floor_of, steps_of, trainer_of
from sae.architectures import TopKConfig
from sae.training import TrainConfig, Trainer

SWEEP_D_SAE = 4096
SWEEP_MEMBERS = 8


def shuffle_rows(flags: BenchFlags) -> Iterator[Row]:
    """shuffle: batches out of a full buffer, against a training step on each; rows cost nothing."""
    shape = _shape(flags, 24_576)
    trainer, batches = trainer_of(shape, flags.on)
    buffer = ShuffleBuffer(
        repeat({"rows": batches[0]}),
        capacity_tokens=flags.buffer_tokens,
        batch_tokens=shape.batch_tokens,
        seed=0,
    )

    def serve() -> int:
        return sum(len(batch["rows"]) for batch in islice(buffer, 32))

    measured = measure(steps_of(trainer, batches), serve, flags.repeats, flags.on)
    yield measured.row(
        flags,
        name="shuffle",
        device=flags.on.type,
        d_in=flags.d_in,
        batch=shape.batch_tokens,
        d_sae=shape.d_sae,
        k=shape.k,
        dtype=shape.products,
        note=f"takes {measured.share_of_floor:.1%} of a step",
    )


def train_stream_rows(flags: BenchFlags) -> Iterator[Row]:
    """train-stream: text to trained dictionary, against forward, product and copies alone."""
    model = load(flags)
    shape = _shape(flags, 24_576)
    stream = stream_of(flags, model, shape.batch_tokens)
    step = _steps(flags, model, stream, shape, n_members=1)
    forward, rest = bare_forward_of(flags, model), floor_of(shape, model.device)

    def floor() -> int:
        n_tokens = 0
        while n_tokens < shape.batch_tokens:
            n_tokens += forward()
        return rest()

    measured = measure(step, floor, flags.repeats, model.device)
    yield measured.row(
        flags,
        name="train-stream",
        device=model.device.type,
        d_in=model.width(site(flags)),
        batch=shape.batch_tokens,
        d_sae=shape.d_sae,
        k=shape.k,
    )


def sweep_rows(flags: BenchFlags) -> Iterator[Row]:
    """train-sweep: tokens of eight dictionaries on one stream, against one dictionary on one."""
    model = load(flags)
    shape = _shape(flags, SWEEP_D_SAE)
    stream = stream_of(flags, model, shape.batch_tokens)
    together = _steps(flags, model, stream, shape, SWEEP_MEMBERS)
    alone = _steps(flags, model, stream, shape, n_members=1)
    measured = measure(together, alone, flags.repeats, model.device)
    yield measured.row(
        flags,
        name="train-sweep",
        device=model.device.type,
        d_in=model.width(site(flags)),
        batch=shape.batch_tokens,
        d_sae=shape.d_sae,
        k=shape.k,
        note=f"{measured.share_of_floor:.1f} times {SWEEP_MEMBERS} runs one after the other",
    )


def _shape(flags: BenchFlags, d_sae: int) -> Shape:
    batch_tokens, k = flags.batch_tokens or 2048, flags.k or 32
    return Shape("topk", flags.d_in, flags.d_sae or d_sae, k, batch_tokens, "bfloat16")


def stream_of(
    flags: BenchFlags, model: LanguageModel, batch_tokens: int, split: Split = "train"
) -> ActivationStream:
    """Shuffled activations of the model at the site that the flags name."""
    cfg = HarvestConfig(
        hook_names=(site(flags),),
        context_size=flags.context_size,
        forward_tokens=flags.forward_tokens,
        split=split,
        batch_tokens=batch_tokens,
        buffer_tokens=max(flags.buffer_tokens, batch_tokens),
    )
    return harvest(model, cfg)


def _steps(
    flags: BenchFlags, model: LanguageModel, stream: ActivationStream, shape: Shape, n_members: int
) -> Callable[[], int]:
    """A batch of the stream, and a step of every member on it."""
    cfg = TrainConfig(n_tokens=10**9, products=shape.products)
    x = next(stream)[site(flags)]
    trainers = []
    for seed in range(n_members):
        sae = TopKConfig(d_sae=shape.d_sae, k=shape.k).build(x.shape[1], seed=seed)
        trainers.append(Trainer(sae.to(model.device), cfg))
        trainers[-1].initialise(x)

    def work() -> int:
        x = next(stream)[site(flags)]
        for trainer in trainers:
            trainer.step(x)
        return n_members * len(x)

    return work
