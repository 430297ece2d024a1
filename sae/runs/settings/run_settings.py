"""Every setting of a run, flat, as the flags name them; and what each part makes of it."""

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_type_hints

from activation_cache import ActivationCache, HarvestConfig, LanguageModel, SourceConfig
from activation_cache.common.dtypes import DTYPES
from activation_cache.common.errors import InputError
from activation_cache.common.schema import LARGEST, convert, listed
from activation_cache.common.types import OnNaN
from activation_cache.common.versions import library_versions
from activation_cache.text.documents import DOCSTRINGS
from sae.architectures import ARCHITECTURES, AnySAEConfig
from sae.runs.settings.files import read_settings_file
from sae.runs.signals import signal_number
from sae.selection import Products
from sae.training import TrainConfig
from sae.training.trainer import needs_fixed_l0

ARCHITECTURE_SETTINGS = ("k", "l1_coeff", "l0_coeff")
MAY_CHANGE = (
    *("out", "wandb", "device", "log_every", "stop_signal", "on_nan", "checkpoint_minutes"),
    *("checkpoint_tokens", "keep_checkpoints", "keep_every_tokens", "keep_best"),
)
"""Settings that may be others when a run goes on: what it computes does not depend on them."""
CACHE_DECIDES = ("dataset", "text_column", "context_size")
N_TOKENS = 1_200_000


@dataclass(frozen=True, kw_only=True)
class RunSettings:
    """Train a sparse dictionary on a model's activations, evaluate it, and report."""

    model: str | None = None
    """The embedded model `tiny` (the default), a hub id such as gpt2, a folder, or a .gguf file."""
    hook_name: tuple[str, ...] = ()
    """TransformerLens name of the site; give it several times for a dictionary at each.
    By default the residual stream in the middle of the model, or all sites of the cache."""
    cache: str | None = None
    """Train from the cache in this folder or fsspec URL, which says of which model and text it is,
    instead of harvesting."""
    epochs: int = 1
    """Passes over the cache."""
    dataset: str = DOCSTRINGS
    """`docstrings` of installed packages, a .txt, .json, .jsonl or .parquet file, or a hub id."""
    text_column: str = "text"
    """The column of the dataset that holds the text."""
    architecture: Literal["relu", "jumprelu", "topk", "batch_topk", "gated", "matryoshka"] = "topk"
    """What keeps the features sparse: relu or gated with L1, jumprelu with L0, topk, batch_topk, or
    matryoshka, which is nested."""
    d_sae: int = 1536
    """Number of features."""
    k: int | None = None
    """Active features of each token (topk, batch_topk, matryoshka; 32 by default)."""
    l1_coeff: float | None = None
    """Weight of the L1 penalty (relu, gated; 2 by default)."""
    l0_coeff: float | None = None
    """Weight of the L0 penalty (jumprelu; 0.2 by default)."""
    tied: bool = False
    """Encode with the transpose of the decoder."""
    n_tokens: int | None = None
    """Activation vectors to train on; by default 1.2 million, or all of the cache."""
    batch_tokens: int = 512
    """Activation vectors in each training step."""
    buffer_tokens: int = 65_536
    """Activation vectors in the shuffle buffer, or in the window that is read from a cache."""
    context_size: int = 128
    """Tokens in each block that the model sees, BOS included."""
    lr: float | None = None
    """Peak learning rate; by default it falls with the square root of d_sae."""
    eval_tokens: int = 65_536
    """Held-out tokens to evaluate on."""
    products: Products = "float32"
    """What dense products of the training are taken in: bfloat16 is faster where the hardware has
    it, weights and sums stay in float32; `screened` lets bfloat16 propose features, and float32
    decide."""
    start_from: str | None = None
    """Folder of a trained dictionary whose weights are the start, of a neighbouring layer, say."""
    seed: int = 0
    """Seeds the initial weights and the resampling."""
    data_seed: int = 0
    """Seeds the order of the activations."""
    on_nan: OnNaN = "stop"
    """What to do where activations, a loss or a gradient are NaN or Inf: stop, or skip them, a
    limited number of times."""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """Data type of the language model and of its activations."""
    device: str = "auto"
    """auto (CUDA where there is one), cpu, cuda or cuda:N."""
    out: Path = Path("runs/latest")
    """Folder for everything that the run writes; it must not exist yet."""
    log_every: int = 20
    """Steps between two rows of metrics.jsonl."""
    wandb: Literal["off", "offline", "online"] | None = None
    """Weights & Biases; by default online where an API key is set, else offline."""
    checkpoint_minutes: float = 10.0
    """Minutes between two checkpoints."""
    checkpoint_tokens: int | None = None
    """Tokens between two checkpoints, beside those by time."""
    keep_checkpoints: int = 2
    """The newest so many checkpoints are kept."""
    keep_every_tokens: int | None = None
    """Of older checkpoints, one in this many tokens is kept for good."""
    keep_best: bool = False
    """Evaluate the dictionary at each checkpoint, and keep the one with the lowest delta CE."""
    stop_signal: str | None = None
    """A signal that ends the run like Ctrl-C does, with a checkpoint: USR1, say, under SLURM."""

    def __post_init__(self) -> None:
        positive = ("n_tokens", "epochs", "eval_tokens", "log_every", "checkpoint_tokens")
        for name in (*positive, "keep_checkpoints", "keep_every_tokens", "buffer_tokens"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(f"{name} must be at least 1, got {value}")
        if not self.checkpoint_minutes > 0:
            raise InputError(f"checkpoint_minutes must be positive, got {self.checkpoint_minutes}")
        if self.stop_signal is not None and signal_number(self.stop_signal) is None:
            raise InputError(
                f"unknown stop_signal {self.stop_signal!r}: give the name of a signal, such as USR1"
            )
        for field in fields(self):
            _refuse_impossible(field.name, getattr(self, field.name))
        if self.epochs > 1 and self.cache is None:
            raise InputError("epochs are passes over a cache: name one with --cache")
        for name, known in (("architecture", ARCHITECTURES), ("dtype", DTYPES)):
            if getattr(self, name) not in known:
                raise InputError(
                    f"unknown {name} {getattr(self, name)!r}: use one of {', '.join(known)}"
                )
        cfg = self.sae_config()
        if self.products == "screened" and not cfg.is_sparse_from_the_start:
            raise InputError(needs_fixed_l0(cfg))
        self.train_config()
        self.harvest_config(self.hook_name or ("any",))

    def sae_config(self) -> AnySAEConfig:
        """The dictionary's config; a setting of another architecture is refused."""
        cls = ARCHITECTURES[self.architecture]
        accepted = {field.name for field in fields(cls)}
        given = {name: getattr(self, name) for name in ARCHITECTURE_SETTINGS}
        given = {name: value for name, value in given.items() if value is not None}
        for name in given:
            if name not in accepted:
                raise InputError(
                    f"{name} is no setting of the architecture {self.architecture}: leave it out"
                )
        return cls(d_sae=self.d_sae, tied=self.tied, **given)

    def train_config(self) -> TrainConfig:
        n_tokens = N_TOKENS if self.n_tokens is None else self.n_tokens
        return TrainConfig(
            n_tokens=n_tokens,
            lr=self.lr,
            products=self.products,
            on_nan=self.on_nan,
            seed=self.seed,
        )

    def harvest_config(self, hook_names: tuple[str, ...]) -> HarvestConfig:
        return HarvestConfig(
            hook_names=hook_names,
            dataset=self.dataset,
            text_column=self.text_column,
            context_size=self.context_size,
            batch_tokens=self.batch_tokens,
            buffer_tokens=max(self.buffer_tokens, self.batch_tokens),
            on_nan=self.on_nan,
            seed=self.data_seed,
        )

    def hook_names(self, model: LanguageModel) -> tuple[str, ...]:
        return self.hook_name or (f"blocks.{model.n_layers // 2}.hook_resid_pre",)

    def of_cache(self, cache: ActivationCache) -> "RunSettings":
        """These settings with what a cache decides; `InputError` where it is of something else."""
        model = cache.manifest.model
        decided = {"model": model["name"], "dtype": model["dtype"]}
        decided |= {name: getattr(cache.config, name) for name in CACHE_DECIDES}
        for name, value in decided.items():
            given = getattr(self, name)
            if given not in (getattr(RunSettings, name), value):
                raise InputError(
                    f"{name} {given!r} is not what the cache {cache.folder} was harvested with "
                    f"({value!r}): leave it out, or harvest another cache"
                )
        n_tokens = self.n_tokens or cache.n_rows() * self.epochs
        sites = self.hook_name or cache.sites
        return replace(self, **decided, n_tokens=n_tokens, hook_name=sites)

    def metadata(
        self, model: LanguageModel, hook_name: str, source: SourceConfig
    ) -> dict[str, Any]:
        """What a dictionary says about where it belongs, in SAELens' names where it has them."""
        train = self.train_config()
        return {
            "model_name": model.name,
            "hook_name": hook_name,
            "dataset_path": source.dataset,
            "text_column": source.text_column,
            "context_size": source.context_size,
            "prepend_bos": source.prepend_bos,
            "all_positions": source.all_positions,
            "processing": model.processing,
            "model_dtype": self.dtype,
            "model_weights": model.description["weights"],
            "n_tokens": train.n_tokens,
            "eval_tokens": self.eval_tokens,
            "loss_reduction": train.loss_reduction,
            "seed": self.seed,
        }

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it; a single site by its name alone."""
        sites = self.hook_name[0] if len(self.hook_name) == 1 else list(self.hook_name)
        return {**asdict(self), "hook_name": sites, "out": str(self.out)}


def _refuse_impossible(name: str, value: Any) -> None:
    """Raise `InputError` for a value that is of the right kind and cannot be meant."""
    if isinstance(value, int) and not -LARGEST <= value < LARGEST:
        raise InputError(f"{name} must fit into 64 bits, got {value}")
    if isinstance(value, float) and not math.isfinite(value):
        raise InputError(f"{name} must be a finite number, got {value}")
    if value == "":
        raise InputError(f"{name} is empty: name something, or leave it out")
    if isinstance(value, tuple) and len(set(value)) < len(value):
        raise InputError(f"{name} has something twice, got {', '.join(value)}: name each once")


def settings_from_file(path: Path) -> RunSettings:
    """Settings from a JSON or YAML file of flag names, or the config.json of an earlier run."""
    content = read_settings_file(path)
    settings = content.get("settings", content)
    if not isinstance(settings, Mapping):
        raise InputError(f"the config file {path} must map flag names to values under `settings`")
    return settings_from(settings, where=f"the config file {path}")


def settings_from(content: Mapping[str, Any], *, where: str) -> RunSettings:
    """Settings from values as YAML or JSON have them; `where` names their source in errors."""
    kinds = get_type_hints(RunSettings)
    unknown = set(content) - set(kinds)
    if unknown:
        raise InputError(
            f"{where} has unknown settings: {listed(unknown)}; train.py --help names those that "
            f"there are"
        )
    try:
        given = {
            name: convert(kinds[name], value, name, lenient=True) for name, value in content.items()
        }
    except InputError as error:
        raise InputError(f"{error} (in {where})") from error
    return RunSettings(**given)


def changed_setting(then: Mapping[str, Any], now: RunSettings) -> str | None:
    """The name of a setting that may not change and is another now than in a config.json.

    More tokens than then are no change.
    """
    values = json.loads(json.dumps(now.to_dict()))
    defaults = json.loads(json.dumps(RunSettings().to_dict()))  # of settings that came later
    for name in (name for name in values if name not in MAY_CHANGE):
        before = then.get(name, defaults[name])
        if before != values[name] and not (name == "n_tokens" and _is_longer(before, now)):
            return name
    return None


def _is_longer(before: Any, now: RunSettings) -> bool:
    before = N_TOKENS if before is None else before
    return isinstance(before, int) and now.train_config().n_tokens >= before


def describe(settings: RunSettings) -> str:
    """The contents of config.json: every setting, library versions, git commit."""
    return json.dumps(
        {
            "settings": settings.to_dict(),
            "versions": library_versions(),
            "git_commit": git_commit(),
        },
        indent=2,
    )


def git_commit() -> str | None:
    """The commit that the code was run from, with a `+` where files had been changed."""
    import subprocess

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(Path(__file__).parent), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain") else "")
    except (OSError, subprocess.CalledProcessError):
        return None
