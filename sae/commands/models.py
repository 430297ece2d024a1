"""Print the sites of a model: their widths, and what was proven of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from rich import box
from rich.console import Console
from rich.table import Table

from activation_cache import LanguageModel, load_model
from activation_cache.common.dtypes import DTYPES, DtypeName
from activation_cache.model.loading import TINY
from activation_cache.model.proof import Finding
from activation_cache.model.sites import EMBEDDING, SITES
from activation_cache.model.small import small_model
from sae.commands.flags import parse

RANDOM = "random:"
"""Begins the name of an architecture of which a small random model is made."""


@dataclass(frozen=True, kw_only=True)
class ModelsFlags:
    """Print the sites of a model that can be read and edited, and what was proven of each.

    A forward pass over a few tokens compares what the sites hold with each other and with the
    model's own hidden states; another does so after a vector was added at every site. What does
    not hold is refused in training too. With random:TYPE (a `model_type` of transformers, as in
    random:llama) it is a small random model of that architecture, and nothing is downloaded.
    """

    model: str = field(metadata={"positional": True, "metavar": "MODEL"})
    """tiny, a hub id, a folder, a .gguf file, or random:TYPE."""
    dtype: DtypeName = "float32"
    """Data type of the model."""
    device: str = "auto"
    """Where to compute: auto (CUDA if there is one), cpu, cuda or cuda:N."""


@dataclass(frozen=True)
class Row:
    """A site of the layers in which the same holds."""

    site: str
    layers: tuple[int, ...]
    findings: tuple[Finding, ...]

    @property
    def width(self) -> int:
        return self.findings[0].width

    @property
    def refusal(self) -> str | None:
        return self.findings[0].refusal

    @property
    def error(self) -> float:
        """The largest of any identity in any layer."""
        return max((e for f in self.findings for e in f.identities.values()), default=0.0)

    @property
    def shown_layers(self) -> str:
        first, last = min(self.layers, default=None), max(self.layers, default=None)
        if first is None or last is None:
            return ""
        whole = len(self.layers) == last - first + 1
        numbers = [f"{first}-{last}" if last > first else f"{first}"] if whole else self.layers
        return ", ".join(map(str, numbers))


def rows(model: LanguageModel) -> Iterator[Row]:
    """Every site once for each thing that was found of it, in the order of the sites."""
    if EMBEDDING in model.proof:
        yield Row(EMBEDDING, (), (model.proof[EMBEDDING],))
    for site in SITES:
        alike: dict[tuple[object, ...], list[int]] = {}
        for layer in range(model.n_layers):
            finding = model.proof.get(f"blocks.{layer}.{site}")
            if finding is not None:
                what = _identities(finding) if finding.refusal is None else "refused"
                alike.setdefault((finding.width, what), []).append(layer)
        for layers in alike.values():
            found = tuple(model.proof[f"blocks.{layer}.{site}"] for layer in layers)
            yield Row(site, tuple(layers), found)


def _identities(finding: Finding) -> str:
    """All but those that only the first or the last layer has another form of."""
    return ", ".join(name for name in finding.identities if "comes next" not in name)


def table(model: LanguageModel) -> Table:
    title = f"sites of {model.name} ({type(model.hf).__name__})"
    shown = Table(title=title, box=box.SIMPLE, padding=(0, 1, 0, 0))
    for column in ("site", "layers", "width", "what holds", "error"):
        shown.add_column(column, justify="right" if column in ("width", "error") else "left")
    for row in rows(model):
        if row.refusal is not None:
            shown.add_row(row.site, row.shown_layers, "", f"refused: {row.refusal}", "")
            continue
        names = dict.fromkeys(name for f in row.findings for name in f.identities)
        holds = "\n".join(names) or "its shape"
        shown.add_row(row.site, row.shown_layers, f"{row.width:,}", holds, f"{row.error:.1g}")
    return shown


def main(arguments: list[str]) -> None:
    flags = parse(ModelsFlags, arguments)
    if flags.model.startswith(RANDOM):
        kind = flags.model.removeprefix(RANDOM)
        model = small_model(kind, load_model(TINY, device="cpu").tokenizer)
    else:
        model = load_model(flags.model, device=flags.device, dtype=DTYPES[flags.dtype])
    console = Console()
    console.print(table(model), markup=False)
    if not model.proof:
        console.print(
            f"TransformerLens has no names for {type(model.hf).__name__}: any module can be named, "
            f"as module:transformer.h.5.mlp",
            soft_wrap=True,
            markup=False,
        )
