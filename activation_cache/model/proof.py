"""Prove what the sites of a model claim, with two forward passes over a few tokens.

A hook name promises a tensor: that `hook_resid_mid` is `hook_resid_pre` and `hook_attn_out`
together, for one. Whether that is so depends on the model's code, and TransformerLens' map of an
architecture can be wrong about it. The first pass reads every site and compares; the second adds a
vector at every site, and compares again, so that what is read is also what the model uses.
"""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import chain
from typing import Any, NamedTuple

import torch
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.types import Pass
from activation_cache.model.hooks import Site, editing, twin
from activation_cache.model.parts import Normalized
from activation_cache.model.sites import MODULE, SiteMap

PROBE_SHAPE = (2, 7)
"""Blocks and tokens of the probe: unlike, so that no axis is taken for another."""

TOLERANCE = 4.0
"""The largest error of an identity, in units of the data type's rounding. A sum that is rounded
once has less than 1, one of three terms less than 2; what is wrong has thousands."""

PROOF_VERSION = 2
"""To be counted up with every change of what is compared: findings are remembered."""

PRE, MID, POST = "hook_resid_pre", "hook_resid_mid", "hook_resid_post"
ATTN, MLP = "hook_attn_out", "hook_mlp_out"

COMPARABLE = (MID, POST, ATTN, MLP, "mlp.hook_post", "attn.hook_z", "hook_normalized")
"""Sites that some identity must prove. Of others, some models show the shape alone."""


@dataclass(frozen=True)
class Finding:
    """What the probe found at a site."""

    width: int = 0
    identities: dict[str, float] = field(default_factory=dict)
    """What was compared, with the largest relative error of a token."""
    refusal: str | None = None
    """Why the site cannot be used: what does not hold, with the figure."""
    is_overwritten: bool = False
    """Whether the model writes into the tensor later on."""

    @property
    def proven(self) -> tuple[str, ...]:
        """The identities; all of them hold where the site can be used."""
        return () if self.refusal else tuple(self.identities)


@dataclass
class _Pass:
    """What passed the sites in a forward pass: before an edit, and after it."""

    before: dict[str, Tensor] = field(default_factory=dict)
    after: dict[str, Tensor] = field(default_factory=dict)
    times: Counter[str] = field(default_factory=Counter)
    overwritten: set[str] = field(default_factory=set)
    refused: dict[str, str] = field(default_factory=dict)
    last: Tensor | None = None
    """What the model without its unembedding gives out."""
    hidden_states: tuple[Tensor, ...] = ()


def prove(sites: SiteMap, names: Sequence[str]) -> dict[str, Finding]:
    """Findings at those of the named sites that exist, which may be all of a model."""
    found: dict[str, Site] = {}
    if any(not name.startswith(MODULE) for name in names):
        # First, so that they see what modules give out before it is edited.
        inner = {name: sites.inner(name) for name in _inner_names(sites.n_layers)}
        found |= {name: site for name, site in inner.items() if site is not None}
    n_inner = len(found)
    for name in names:
        with suppress(InputError):
            found[name] = sites[name]
    asked = list(found)[n_inner:]
    clean = _run(sites.hf, found)
    clean.hidden_states = _hidden_states(sites.hf)
    errors: dict[str, dict[str, float]] = {name: {} for name in found}

    def judge(seen: _Pass) -> dict[str, Finding]:
        for name, identity, error in _compared(seen, found, sites.n_layers):
            its = errors.get(name, {})
            its[identity] = max(error, its.get(identity, 0.0))
        return {n: _judged(n, found[n], clean, errors[n], sites.hf.dtype) for n in asked}

    good = {name for name, finding in judge(clean).items() if finding.refusal is None}
    kept = {name: site for name, site in found.items() if name in good or name not in asked}
    return judge(_run(sites.hf, kept, edited=good))


def _inner_names(n_layers: int) -> list[str]:
    """What only the proof asks for: what modules give out, and what goes into the last norm."""
    kinds = ("attn.hook_out", "mlp.hook_out", "ln1.hook_out", "ln2.hook_out")
    return ["ln_final.hook_in"] + [f"blocks.{i}.{kind}" for i in range(n_layers) for kind in kinds]


def _compared(
    seen: _Pass, of: Mapping[str, Site], n_layers: int
) -> Iterator[tuple[str, str, float]]:
    """Each site with each identity that it stands in, and the error of that."""
    for number in range(n_layers):
        layer = _Layer(seen, number, is_last=number == n_layers - 1)
        identities = (layer.sums(), layer.stream(), layer.products(of), layer.norms(of))
        for identity in chain.from_iterable(identities):
            terms = [term for term in identity.terms if term is not None]
            if identity.total is None or len(terms) < len(identity.terms):
                continue
            error = _error(identity.total, terms)
            for name in identity.sites:
                yield name, identity.name, error


def _judged(
    name: str, site: Site, seen: _Pass, identities: dict[str, float], dtype: torch.dtype
) -> Finding:
    """Whether a site may be used, by what was seen of it."""
    if name in seen.refused:
        return Finding(refusal=seen.refused[name])
    if name not in seen.before:
        return Finding(refusal="no forward pass of the model comes by it")
    finding = Finding(
        width=seen.before[name].shape[-1],
        identities=identities,
        is_overwritten=name in seen.overwritten,
    )
    if seen.times[name] > 1:
        return replace(
            finding, refusal=f"it is passed {seen.times[name]} times in one forward pass"
        )
    if name.endswith("mlp.hook_post") and not site.is_input:
        return replace(
            finding,
            refusal="it is what the MLP gives out, as hook_mlp_out: a mixture of experts has no "
            "hidden layer of its own",
        )
    tolerance = TOLERANCE * torch.finfo(dtype).eps
    wrong = {identity: error for identity, error in identities.items() if not error <= tolerance}
    # Either sum proves the stream between attention and MLP; the other may be another site's fault.
    if wrong and not (name.endswith(MID) and len(wrong) < len(identities)):
        identity, error = max(wrong.items(), key=lambda item: item[1])
        return replace(finding, refusal=f"{identity} is wrong by {error:.2g} of its size")
    if not identities and name.endswith(COMPARABLE):
        return replace(finding, refusal="there is nothing in the model that would prove it")
    right = {i: error for i, error in identities.items() if i not in wrong}
    return replace(finding, identities=right)


# The passes --------------------------------------------------------------------------------------


@torch.no_grad()
def _run(hf: Any, sites: Mapping[str, Site], edited: Collection[str] = ()) -> _Pass:
    """A forward pass over the probe, with a vector added at every site in `edited`."""
    seen = _Pass()
    held: dict[str, Tensor] = {}
    generator = torch.Generator().manual_seed(0)

    def look(name: str, x: Tensor) -> Tensor | None:
        seen.times[name] += 1
        if not isinstance(x, Tensor) or x.ndim != 3 or x.shape[:2] != PROBE_SHAPE:
            shape = [*getattr(x, "shape", [])]
            seen.refused[name] = f"its shape is {shape} for {[*PROBE_SHAPE]} tokens"
            return None
        held[name], seen.before[name] = x, x.clone()
        seen.after[name] = seen.before[name]
        if name not in edited:
            return None
        v = torch.randn(x.shape[-1], generator=generator).to(x.device, x.dtype)
        seen.after[name] = x + v * x.square().mean().sqrt()
        return seen.after[name].clone()

    with ExitStack() as hooks:
        for name, site in sites.items():
            hooks.enter_context(editing(site, partial(look, name), Pass(PROBE_SHAPE)))
        seen.last = hf.base_model(probe(hf), use_cache=False)[0]
    seen.overwritten = {name for name, x in held.items() if not torch.equal(x, seen.before[name])}
    return seen


def probe(hf: Any) -> Tensor:
    """Tokens from all over the vocabulary."""
    vocabulary = hf.get_input_embeddings().weight.shape[0]
    tokens = torch.linspace(0, vocabulary - 1, math.prod(PROBE_SHAPE)).long()
    return tokens.view(PROBE_SHAPE).to(hf.device)


@torch.no_grad()
def _hidden_states(hf: Any) -> tuple[Tensor, ...]:
    """The model's own record of the residual stream, where it keeps one."""
    output = twin(hf.base_model)(probe(hf), use_cache=False, output_hidden_states=True)
    return tuple(getattr(output, "hidden_states", None) or ())


# The identities ----------------------------------------------------------------------------------


class Identity(NamedTuple):
    """A sum that should hold, and the sites that stand or fall with it."""

    name: str
    sites: Sequence[str]
    total: Tensor | None
    terms: tuple[Tensor | None, ...]


@dataclass(frozen=True)
class _Layer:
    """What passed the sites of a layer: what its code was given, after edits, and what it made."""

    seen: _Pass
    layer: int
    is_last: bool

    def name(self, kind: str, later: int = 0) -> str:
        return f"blocks.{self.layer + later}.{kind}"

    def given(self, kind: str) -> Tensor | None:
        return self.seen.after.get(self.name(kind))

    def made(self, kind: str) -> Tensor | None:
        return self.seen.before.get(self.name(kind))

    def sums(self) -> Iterator[Identity]:
        """The residual stream is what it was, and what attention and MLP add."""
        pre, attn, mid, mlp = map(self.given, (PRE, ATTN, MID, MLP))
        post = self.made(POST)
        at_mid, at_attn, at_mlp = map(self.name, (MID, ATTN, MLP))
        first, second = "resid_pre + attn_out = resid_mid", "resid_mid + mlp_out = resid_post"
        yield Identity(first, [at_mid, at_attn], self.made(MID), (pre, attn))
        yield Identity(second, [at_mid, at_mlp], post, (mid, mlp))
        if mid is None:
            both = "resid_pre + attn_out + mlp_out = resid_post"
            yield Identity(both, [at_attn, at_mlp], post, (pre, attn, mlp))
        elif mlp is None and post is not None:
            scaled = _scaled(self.made("mlp.hook_out"), post - mid)
            yield Identity("resid_mid + c MLP = resid_post", [at_mid], post, (mid, scaled))

    def stream(self) -> Iterator[Identity]:
        """It leaves a layer as it enters the next, and is what the model itself keeps."""
        following = "ln_final.hook_in" if self.is_last else self.name(PRE, later=1)
        after = self.seen.before.get(following, self.seen.last if self.is_last else None)
        both = [self.name(POST), following]
        yield Identity("resid_post = what comes next", both, after, (self.given(POST),))
        pre, post = self.given(PRE), self.made(POST)
        if len(self.seen.hidden_states) > self.layer and pre is not None and post is not None:
            # Most architectures keep what goes into each block, some what comes out of it.
            hf = self.seen.hidden_states[self.layer]
            kind, x = min(((PRE, pre), (POST, post)), key=lambda side: _distance(hf, side[1]))
            name = f"{kind.removeprefix('hook_')} = hidden_states"
            yield Identity(name, [self.name(kind)], hf, (x,))

    def products(self, of: Mapping[str, Site]) -> Iterator[Identity]:
        """Heads and hidden neurons make the outputs of attention and MLP, by their matrices."""
        for kind, whole in (("attn.hook_z", ATTN), ("mlp.hook_post", MLP)):
            site, x = of.get(self.name(kind)), self.given(kind)
            if site is None or not site.is_input or x is None:
                continue
            product = site.module(x)
            # A norm may follow the product, before what counts as the output of the module.
            inner, kind_there = kind.split(".hook_")
            outputs = (whole.removeprefix("hook_"), whole), (inner, f"{inner}.hook_out")
            wholes = {name: self.made(output) for name, output in outputs}
            found, y = min(wholes.items(), key=lambda item: _distance(product, item[1]))
            yield Identity(f"{kind_there} W_out = {found}", [self.name(kind)], y, (product,))

    def norms(self, of: Mapping[str, Site]) -> Iterator[Identity]:
        """What is normalised makes the output of the norm, by its gain and bias."""
        for norm in ("ln1", "ln2"):
            name = self.name(f"{norm}.hook_normalized")
            part = of[name].part if name in of else None
            if isinstance(part, Normalized) and (x := self.seen.before.get(name)) is not None:
                identity = f"normalized * gain + bias = output of {norm}"
                affine = x * part.gain + part.bias
                yield Identity(identity, [name], self.made(f"{norm}.hook_out"), (affine,))


def _scaled(x: Tensor | None, like: Tensor) -> Tensor | None:
    """The multiple of `x` that is closest: blocks may scale what they add to the stream."""
    if x is None:
        return None
    return x * ((x * like).sum() / x.square().sum())


def _distance(x: Tensor, other: Tensor | None) -> float:
    return math.inf if other is None or other.shape != x.shape else _error(x, [other])


def _error(total: Tensor, terms: Sequence[Tensor]) -> float:
    """The largest difference of a token from a sum, by the size of what is added up."""
    scale = torch.stack([term.double().norm(dim=-1) for term in terms]).amax(0)
    difference = (total.double() - sum(term.double() for term in terms)).norm(dim=-1)
    relative = (difference / scale.clamp_min(torch.finfo(torch.float32).tiny)).flatten()
    finite = relative[relative.isfinite()]  # a model that overflows is refused where it is read
    return finite.max().item() if len(finite) else 0.0
