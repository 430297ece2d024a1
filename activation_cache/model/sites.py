"""Names of sites, and the modules of a Hugging Face model that they belong to."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn

from activation_cache.common.errors import InputError
from activation_cache.model.hooks import Site
from activation_cache.model.parts import Columns, Normalized, columns_of_qkv

SITES = (
    "hook_resid_pre",
    "hook_resid_mid",
    "hook_resid_post",
    "hook_attn_out",
    "hook_mlp_out",
    "mlp.hook_post",
    "attn.hook_z",
    "attn.hook_q",
    "attn.hook_k",
    "attn.hook_v",
    "ln1.hook_normalized",
    "ln2.hook_normalized",
)
"""What can follow `blocks.<layer>.` in a hook name. Heads are beside each other, flattened."""

WRITTEN_SITES = SITES[:5]
"""Sites that hold the residual stream, or what is added to it."""

EMBEDDING = "hook_embed"
"""The only site in front of the blocks: what the tokens are looked up as."""

MODULE = "module:"
"""Begins the name of a site that is a module of the Hugging Face model, by its path there."""

NOT_THERE = (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)
"""What TransformerLens raises for a component that a layer does not have."""


@dataclass(frozen=True)
class SiteMap:
    """Follows hook names to modules, with TransformerLens' map of the architecture."""

    hf: Any
    adapter: Any
    """None where TransformerLens does not know the architecture: modules have names even so."""
    n_layers: int
    name: str
    """Of the model, for messages."""
    _columns: dict[tuple[int, ...], Any] = field(default_factory=dict)

    def names(self) -> list[str]:
        """Every hook name that a model of this architecture can have."""
        if self.adapter is None:
            return []
        return [EMBEDDING] + [f"blocks.{i}.{s}" for i in range(self.n_layers) for s in SITES]

    def __getitem__(self, hook_name: str) -> Site:
        """`InputError` where there is no such site."""
        if hook_name.startswith(MODULE):
            return self._module(hook_name)
        if self.adapter is None:
            raise InputError(
                f"TransformerLens has no hook names for {type(self.hf).__name__}: name a module, "
                f"as {MODULE}{self._example()}"
            )
        match = re.fullmatch(r"blocks\.(0|[1-9][0-9]{0,8})\.(.+)", hook_name)
        if hook_name != EMBEDDING and (match is None or match[2] not in SITES):
            raise InputError(
                f"unknown hook name {hook_name!r}: use blocks.<layer>. followed by one of "
                f"{', '.join(SITES)}, or {EMBEDDING}, or {MODULE}<path of a module>"
            )
        if match is not None and int(match[1]) >= self.n_layers:
            raise InputError(
                f"{hook_name} does not exist: {self.name} has layers 0 to {self.n_layers - 1}"
            )
        found = self.inner(hook_name)
        if found is None:
            raise InputError(
                f"{type(self.hf).__name__} has no {match[2] if match else hook_name}"
                f"{f' in layer {match[1]}' if match else ''}: choose another of {', '.join(SITES)}"
            )
        return found

    def inner(self, hook_name: str) -> Site | None:
        """The site of a name of TransformerLens', also of one that only the proof asks for."""
        for path, component, side in self._targets(hook_name):
            try:
                return self._site(hook_name, path, component, side)
            except NOT_THERE:
                continue
        return None

    def _site(self, hook_name: str, path: str, component: Any, side: str) -> Site:
        parent, _, last = path.rpartition(".")
        if last in ("q", "k", "v") and (qkv := self._fused(parent)) is not None:
            fused, columns = qkv
            return Site(fused, is_input=False, part=Columns(columns["qkv".index(last)]))
        module = self.adapter.get_component(self.hf, path)
        if not isinstance(module, nn.Module):
            raise TypeError(f"{path} is no module")
        if side == "hook_normalized":
            component.hook_normalized  # noqa: B018 - norms alone have one
            width = self.hf.get_input_embeddings().weight.shape[-1]
            return Site(module, is_input=False, part=Normalized.of(module, width))
        if not hook_name.endswith("hook_resid_mid"):
            return Site(module, is_input=side == "hook_in")
        block = self.adapter.get_component(self.hf, ".".join(path.split(".")[:2]))
        return Site(module, is_input=side == "hook_in", block=block)

    def _targets(self, hook_name: str) -> Iterator[tuple[str, Any, str]]:
        """Follow TransformerLens' aliases to components, and to a side of each."""
        first, *rest = hook_name.split(".")
        if first == EMBEDDING:
            first, rest = "embed", ["hook_out"]
        mapping: Mapping[str, Any] = self.adapter.component_mapping
        if first not in mapping:
            return
        if first == "blocks":
            first, rest = f"blocks.{rest[0]}", rest[1:]
        yield from _followed(mapping[first.split(".")[0]], first, rest)

    def _fused(self, attention_path: str) -> tuple[nn.Module, Any] | None:
        """The product that makes queries, keys and values at once, and where each one is in it."""
        component = self.adapter.component_mapping["blocks"].submodules["attn"]
        split = getattr(component, "split_qkv_matrix", None)
        if split is None or "qkv" not in component.submodules:
            return None
        attention = self.adapter.get_component(self.hf, attention_path)
        name = component.submodules["qkv"].name
        shape = tuple(getattr(attention, name).weight.shape)
        if shape not in self._columns:
            self._columns[shape] = columns_of_qkv(attention, name, split)
        return getattr(attention, name), self._columns[shape]

    def _module(self, hook_name: str) -> Site:
        path, _, side = hook_name.removeprefix(MODULE).partition(":")
        if side not in ("", "input", "output"):
            raise InputError(
                f"unknown side {side!r} of the module in {hook_name!r}: end it with :input or "
                f":output"
            )
        try:
            module = self.hf.get_submodule(path)
        except AttributeError as error:
            raise InputError(
                f"{self.name} has no module {path!r} ({error}): it has {self._example()} among "
                f"others; print(model.hf) lists them"
            ) from error
        return Site(module, is_input=side == "input")

    def _example(self) -> str:
        """The path of a module in the middle of the model."""
        paths = [name for name, module in self.hf.named_modules() if not [*module.children()]]
        return paths[len(paths) // 2]


def _followed(component: Any, path: str, names: list[str]) -> Iterator[tuple[str, Any, str]]:
    first, *rest = names
    if first in component.hook_aliases:
        aliases = component.hook_aliases[first]
        for alias in [aliases] if isinstance(aliases, str) else aliases:
            yield from _followed(component, path, [*alias.split("."), *rest])
    elif rest and first in component.submodules:
        yield from _followed(component.submodules[first], f"{path}.{first}", rest)
    elif not rest and first in ("hook_in", "hook_out", "hook_normalized"):
        yield path, component, first
