"""A language model whose activations can be read, and replaced, at TransformerLens hook names.

TransformerLens says which module a hook name belongs to; the forward pass itself is the bare
Hugging Face one. That keeps its speed and its numbers (docs/decisions/0001-bare-forward.md), and
works for every architecture that TransformerLens knows. Its bridge is `LanguageModel.bridge`.
"""

import copy
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, replace
from functools import cached_property, partial
from importlib.util import find_spec
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_cache.common.dtypes import name_of
from activation_cache.common.errors import InputError, described
from activation_cache.common.remembered import remembered
from activation_cache.common.schema import convert
from activation_cache.common.types import Edit, Pass, Processing, foldings
from activation_cache.common.versions import library_versions
from activation_cache.common.weights import hash_of
from activation_cache.model.direct import direct_effect
from activation_cache.model.folding import taken_at
from activation_cache.model.hooks import Site, editing, evaluating, following, twin
from activation_cache.model.proof import PROOF_VERSION, Finding, prove
from activation_cache.model.shared_pass import SharedPass, blocks_of
from activation_cache.model.sites import MODULE, SiteMap
from activation_cache.model.unembedding import Unembedding

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class _Stop(Exception):
    """Ends a forward pass once every wanted activation has been seen."""


def known_architectures() -> frozenset[str]:
    """The classes of models that TransformerLens has hook names for."""
    from transformer_lens.factories import architecture_adapter_factory

    return frozenset(architecture_adapter_factory.SUPPORTED_ARCHITECTURES)


class LanguageModel:
    """A causal language model with named sites. Build one with `load_model`."""

    def __init__(
        self,
        name: str,
        hf: "PreTrainedModel",
        tokenizer: "PreTrainedTokenizerBase",
        revision: str = "main",
        processing: Processing = "raw",
    ) -> None:
        self.name = name
        self.revision = revision
        self.hf = hf
        self.tokenizer = tokenizer
        self.processing: Processing = processing
        self._proven: dict[str, Site] = {}
        self._taken: dict[str, Callable[[Tensor], Tensor | float]] = {}  # by processing
        self._modules: dict[str, Finding] = {}  # at sites that are named by their module
        self.exact_starts: dict[int, bool] = {}
        """Whether passes that start at a block are those from the text, as far as that is known."""
        self._forward = RLock()  # hooks of one pass must not see the pass of another thread

    def __repr__(self) -> str:
        layers = f"{self.n_layers} layers of width {self.width(self.middle_site)}"
        return f"LanguageModel({self.name!r}, {layers}, {name_of(self.dtype)} on {self.device})"

    @property
    def device(self) -> torch.device:
        return self.hf.device

    @property
    def dtype(self) -> torch.dtype:
        return self.hf.dtype

    @property
    def n_layers(self) -> int:
        return self.hf.config.get_text_config().num_hidden_layers

    @property
    def middle_site(self) -> str:
        """The residual stream in front of the middle layer."""
        if self._adapter is None:
            self.sites[""]  # which says what to do
        return f"blocks.{self.n_layers // 2}.hook_resid_pre"

    @property
    def max_context_size(self) -> int:
        """The most tokens that one forward pass may hold."""
        if self._adapter is not None:
            return self._adapter.cfg.n_ctx
        return getattr(self.hf.config.get_text_config(), "max_position_embeddings", sys.maxsize)

    @property
    def n_vocab(self) -> int:
        """How many token ids the model has embeddings for; a tokenizer may have more."""
        embeddings: Any = self.hf.get_input_embeddings()
        return embeddings.weight.shape[0]

    @cached_property
    def description(self) -> dict[str, str]:
        """What tells this model from every other: where it is from, and a hash of its weights."""
        return {
            "name": self.name,
            "revision": self.revision,
            "weights": hash_of(self.hf.state_dict()),
            "dtype": name_of(self.dtype),
            "processing": self.processing,
        }

    @cached_property
    def tokenizer_description(self) -> dict[str, str]:
        """The class of the tokenizer, and a hash of all that decides what it makes of text."""
        backend = getattr(self.tokenizer, "backend_tokenizer", None)
        rules = backend.to_str() if backend else repr(sorted(self.tokenizer.get_vocab().items()))
        return {
            "class": type(self.tokenizer).__name__,
            "rules": xxhash.xxh3_128_hexdigest(rules.encode()),
        }

    @cached_property
    def bridge(self) -> "TransformerBridge":
        """TransformerLens' own model of the same weights, for everything else that it offers."""
        from transformer_lens.model_bridge.sources import _bridge_builder

        return _bridge_builder.build_bridge_from_module(
            twin(self.hf),
            type(self.hf).__name__,
            hf_config=copy.deepcopy(self.hf.config),
            tokenizer=self.tokenizer,
            model_name=self.name,
        )

    @cached_property
    def _adapter(self) -> Any:
        """TransformerLens' map from its names to the modules of this architecture, or None."""
        if find_spec("transformer_lens") is None:
            return None
        from transformer_lens.factories import architecture_adapter_factory
        from transformer_lens.model_bridge.sources import _bridge_builder

        cfg = _bridge_builder.build_bridge_config_from_hf(
            copy.deepcopy(self.hf.config), type(self.hf).__name__, self.name, self.dtype
        )
        try:
            factory = architecture_adapter_factory.ArchitectureAdapterFactory
            adapter = factory.select_architecture_adapter(cfg)
        except ValueError:
            return None
        norm = adapter.cfg.normalization_type
        if "centred" in foldings(self.processing) and norm not in ("LN", "LNPre"):
            raise InputError(
                f"processing 'centred' needs layer norm and {self.name} has {norm}: load it 'raw'"
            )
        return adapter

    @cached_property
    def sites(self) -> SiteMap:
        """Every hook name and the module that it belongs to, proven or not."""
        return SiteMap(self.hf, self._adapter, self.n_layers, self.name)

    @cached_property
    def proof(self) -> dict[str, Finding]:
        """What a probe found at every site of this model that has a TransformerLens name.

        It is remembered by the hash of the weights and all else that it depends on.
        """

        def probe() -> dict[str, Any]:
            with self._forward, evaluating(self.hf):
                return {n: asdict(f) for n, f in prove(self.sites, self.sites.names()).items()}

        versions = library_versions()
        key = {
            "proof": PROOF_VERSION,
            "weights": self.description["weights"],
            "config": self.hf.config.to_diff_dict(),
            "modules": [f"{n} {type(m)}" for n, m in self.hf.named_modules()],
            "computed": f"{name_of(self.dtype)} on {self.device.type}",
            **{name: versions.get(name) for name in ("torch", "transformers", "transformer_lens")},
        }
        return convert(dict[str, Finding], remembered("sites", key, probe), "sites")

    def site(self, hook_name: str) -> Site:
        """A site that holds what its name says; `InputError` where it does not."""
        if hook_name not in self._proven:
            site = self.sites[hook_name]
            finding = self.finding(hook_name)
            if finding.refusal is not None:
                raise InputError(
                    f"{hook_name} of {self.name} is not what its name says: {finding.refusal}; "
                    f"choose another site (scripts/models.py lists what holds)"
                )
            with self._forward, evaluating(self.hf):
                taken = taken_at(self.sites, hook_name, self.processing, self.name)
            self._taken[hook_name] = taken
            self._proven[hook_name] = replace(site, is_overwritten=finding.is_overwritten)
        return self._proven[hook_name]

    def finding(self, hook_name: str) -> Finding:
        """What a probe found at a site: its width, and whether it is what its name says."""
        if not hook_name.startswith(MODULE):
            return self.proof[hook_name]
        if hook_name not in self._modules:
            with self._forward, evaluating(self.hf):
                self._modules |= prove(self.sites, [hook_name])
        return self._modules[hook_name]

    def width(self, hook_name: str) -> int:
        """Components of each activation vector at a site (`d_in` of a dictionary for it)."""
        self.site(hook_name)
        return self.finding(hook_name).width

    @torch.no_grad()
    def activations(
        self, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
    ) -> dict[str, Float[Tensor, "batch pos _"]]:
        """The activations at several sites from one forward pass, which ends at the last of them.

        The unembedding never runs. Tensors are in the model's dtype, on its device.
        """
        found: dict[str, Tensor] = {}
        sites = {name: self.site(name) for name in hook_names}
        now = Pass((len(tokens), tokens.shape[1]))

        def keep(hook_name: str, x: Tensor) -> None:
            found[hook_name] = x.clone() if sites[hook_name].is_overwritten else x
            if len(found) == len(sites):
                raise _Stop

        with self._forward, ExitStack() as hooks:
            for name, site in sites.items():
                hooks.enter_context(editing(site, partial(keep, name), now))
            try:
                self.hf.base_model(tokens.to(self.device), use_cache=False)
            except _Stop:
                pass
            except IndexError as error:  # of an embedding: the cause is what was given
                raise InputError(
                    f"{self.name} cannot take blocks of {tokens.shape[1]} tokens with ids up to "
                    f"{int(tokens.max())} ({described(error)}): give a smaller --context-size, or "
                    f"text of its vocabulary"
                ) from error
        return {name: found[name] - self._taken[name](found[name]) for name in hook_names}

    def logits(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's logits, with the activations at the named sites replaced by the edits.

        An edit of `hook_resid_mid` reaches both the MLP and the residual stream around it. What
        processing takes away is given back to what an edit returns.
        """
        with self.editing(edits or {}):
            return self.hf(tokens.to(self.device), use_cache=False).logits

    @contextmanager
    def editing(self, edits: Mapping[str, Edit]) -> Iterator[Pass]:
        """Within it, every forward pass of `hf` is edited, its generation included.

        An edit is given the activations of a site [batch, pos, width]. The pass that they are of is
        what the context gives. Other threads wait with their passes until it ends.
        """

        def edited(hook_name: str, edit: Edit, x: Tensor) -> Tensor | None:
            offset = self._taken[hook_name](x)
            shown = x - offset
            returned = edit(shown)
            if returned is None or isinstance(offset, float):
                return returned
            return x + (returned - shown)  # x to the bit, where nothing was changed

        sites = {hook_name: self.site(hook_name) for hook_name in edits}
        with self._forward, ExitStack() as hooks:
            now = hooks.enter_context(following(self.hf.base_model))
            for hook_name, edit in edits.items():
                run = partial(edited, hook_name, edit)
                hooks.enter_context(editing(sites[hook_name], run, now))
            yield now

    @torch.no_grad()
    def before_unembedding(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        """What `unembed` makes logits of: they can be large, and are needed a part at a time."""
        if not self._unembedding.is_known:
            return self.logits(tokens, edits)
        with self.editing(edits or {}):
            found = self._unembedding.input_in(tokens.to(self.device))
        return found.view(*tokens.shape, -1)

    def shared_pass(
        self, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
    ) -> SharedPass:
        """A forward pass that others start from, each with an edit at one of the sites."""
        with self._forward:
            return SharedPass(self, tokens, hook_names)

    @property
    def blocks(self) -> list[nn.Module]:
        """The blocks in order; none where the model does not have a list of them."""
        return blocks_of(self.hf, self.n_layers)

    def unembed(self, rows: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows d_vocab"]:
        """The logits of some rows of `before_unembedding`."""
        return self._unembedding(rows) if self._unembedding.is_known else rows

    def direct_effect(self, hook_name: str) -> Callable[[Tensor], Tensor]:
        """What directions [n, width] at a site do to the logits [n, d_vocab] past later layers.

        See `activation_cache.model.direct`. `InputError` for sites of no known effect.
        """
        self.site(hook_name)
        return direct_effect(self.sites, hook_name)

    @cached_property
    def _unembedding(self) -> Unembedding:
        with self._forward, evaluating(self.hf):
            return Unembedding.of(self.hf)
