"""A language model whose activations can be read, and replaced, at TransformerLens hook names.

TransformerLens says which module a hook name belongs to; the forward pass itself is the bare
Hugging Face one. That keeps its speed and its numbers (docs/decisions/0001-bare-forward.md), and
works for every architecture that TransformerLens knows. Its bridge is `LanguageModel.bridge`.
"""

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from functools import cached_property, partial
from threading import RLock
from typing import TYPE_CHECKING, Any

import torch
import xxhash
from jaxtyping import Float, Int
from torch import Tensor

from activation_cache.common.dtypes import name_of
from activation_cache.common.errors import InputError
from activation_cache.common.types import Edit, Processing
from activation_cache.model.hooks import Site, editing

if TYPE_CHECKING:
    from transformer_lens.model_bridge import TransformerBridge
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

SITES = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "mlp.hook_post",
    "attn.hook_z",
)
"""What can follow `blocks.<layer>.` in a hook name. The heads of `attn.hook_z` are flattened."""

WRITTEN_SITES = SITES[:5]
"""Sites that hold the residual stream, or what is added to it."""


class _Stop(Exception):
    """Ends a forward pass once every wanted activation has been seen."""


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
        self.hf = hf.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.processing: Processing = processing
        self._widths: dict[str, int] = {}
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
        return self._adapter.cfg.n_layers

    @property
    def middle_site(self) -> str:
        """The residual stream in front of the middle layer."""
        return f"blocks.{self.n_layers // 2}.hook_resid_pre"

    @property
    def max_context_size(self) -> int:
        """The most tokens that one forward pass may hold."""
        return self._adapter.cfg.n_ctx

    @cached_property
    def description(self) -> dict[str, str]:
        """What tells this model from every other: where it is from, and a hash of its weights."""
        weights = xxhash.xxh3_128()
        for name, tensor in sorted(self.hf.state_dict().items()):
            weights.update(name.encode())
            weights.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy())
        return {
            "name": self.name,
            "revision": self.revision,
            "weights": weights.hexdigest(),
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

        shared = {id(tensor): tensor for tensor in (*self.hf.parameters(), *self.hf.buffers())}
        return _bridge_builder.build_bridge_from_module(
            copy.deepcopy(self.hf, shared),
            type(self.hf).__name__,
            hf_config=copy.deepcopy(self.hf.config),
            tokenizer=self.tokenizer,
            model_name=self.name,
        )

    @cached_property
    def _adapter(self) -> Any:
        """TransformerLens' map from its names to the modules of this architecture."""
        from transformer_lens.factories import architecture_adapter_factory
        from transformer_lens.model_bridge.sources import _bridge_builder

        cfg = _bridge_builder.build_bridge_config_from_hf(
            copy.deepcopy(self.hf.config), type(self.hf).__name__, self.name, self.dtype
        )
        try:
            factory = architecture_adapter_factory.ArchitectureAdapterFactory
            adapter = factory.select_architecture_adapter(cfg)
        except ValueError as error:
            raise InputError(
                f"TransformerLens has no hook names for {cfg.architecture}: give another model"
            ) from error
        norm = adapter.cfg.normalization_type
        if self.processing == "centred" and norm not in ("LN", "LNPre"):
            raise InputError(
                f"processing 'centred' needs layer norm and {self.name} has {norm}: load it 'raw'"
            )
        return adapter

    def _site(self, hook_name: str) -> Site:
        match = re.fullmatch(r"blocks\.(0|[1-9][0-9]{0,8})\.(.+)", hook_name)
        sites = ", ".join(SITES)
        if match is None or match[2] not in SITES:
            raise InputError(
                f"unknown hook name {hook_name!r}: use blocks.<layer>. followed by one of {sites}"
            )
        layer, n_layers = int(match[1]), self.n_layers
        if layer >= n_layers:
            raise InputError(
                f"{hook_name} does not exist: {self.name} has layers 0 to {n_layers - 1}"
            )
        # Follow TransformerLens' aliases to a component, and to `hook_in` or `hook_out` of it.
        component = self._adapter.component_mapping["blocks"]
        block = path = f"blocks.{layer}"
        side, *names = match[2].split(".")
        while side not in ("hook_in", "hook_out"):
            if side in component.hook_aliases:
                side, *names = [*component.hook_aliases[side].split("."), *names]
            elif names and side in component.submodules:
                component, path = component.submodules[side], f"{path}.{side}"
                side, *names = names
            else:
                raise InputError(
                    f"{type(self.hf).__name__} has no {match[2]}: choose another of {sites}"
                )
        return Site(
            block=self._adapter.get_component(self.hf, block),
            module=self._adapter.get_component(self.hf, path),
            is_input=side == "hook_in",
            is_forked=match[2] == "hook_resid_mid",
        )

    def width(self, hook_name: str) -> int:
        """Components of each activation vector at a site (`d_in` of a dictionary for it)."""
        if hook_name not in self._widths:
            probe = torch.zeros(1, 2, dtype=torch.int64, device=self.device)
            self._widths[hook_name] = self.activations(probe, [hook_name])[hook_name].shape[-1]
        return self._widths[hook_name]

    @torch.no_grad()
    def activations(
        self, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
    ) -> dict[str, Float[Tensor, "batch pos _"]]:
        """The activations at several sites from one forward pass, which ends at the last of them.

        The unembedding never runs. Tensors are in the model's dtype, on its device.
        """
        found: dict[str, Tensor] = {}

        def keep(hook_name: str, x: Tensor) -> None:
            found[hook_name] = x
            if len(found) == len(set(hook_names)):
                raise _Stop

        with self._forward, ExitStack() as hooks:
            for hook_name in set(hook_names):
                hooks.enter_context(editing(self._site(hook_name), partial(keep, hook_name)))
            with suppress(_Stop):
                self.hf.base_model(tokens.to(self.device), use_cache=False)
        return {name: found[name] - self._offset(name, found[name]) for name in hook_names}

    def _offset(self, hook_name: str, x: Tensor) -> Tensor | float:
        """What processing takes from the activations at a site."""
        is_centred = self.processing == "centred" and hook_name.endswith(WRITTEN_SITES)
        return x.mean(dim=-1, keepdim=True) if is_centred else 0.0

    def logits(
        self, tokens: Int[Tensor, "batch pos"], edits: Mapping[str, Edit] | None = None
    ) -> Float[Tensor, "batch pos d_vocab"]:
        """The model's logits, with the activations at the named sites replaced by the edits.

        An edit of `hook_resid_mid` reaches both the MLP and the residual stream around it. What
        processing takes away is given back to what an edit returns.
        """

        def edited(hook_name: str, edit: Edit, x: Tensor) -> Tensor:
            offset = self._offset(hook_name, x)
            return edit(x - offset) + offset

        with self._forward, ExitStack() as hooks:
            for hook_name, edit in (edits or {}).items():
                hooks.enter_context(
                    editing(self._site(hook_name), partial(edited, hook_name, edit))
                )
            return self.hf(tokens.to(self.device), use_cache=False).logits
