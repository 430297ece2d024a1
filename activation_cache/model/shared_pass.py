"""One forward pass of a model, from the middle of which others start that edit it there."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from activation_cache.common.types import Edit
from activation_cache.model.hooks import Site


@runtime_checkable
class BlockModel(Protocol):
    """What it needs of a `LanguageModel`."""

    exact_starts: dict[int, bool]

    @property
    def blocks(self) -> list[nn.Module]: ...

    def site(self, hook_name: str) -> Site: ...

    def before_unembedding(
        self, tokens: Tensor, edits: Mapping[str, Edit] | None = None
    ) -> Tensor: ...


class SharedPass:
    """A pass over a batch of tokens, and edited passes that begin at the block of their site.

    What blocks in front of it give out is taken from the first pass. Where a model does not give
    the same to the last bit in this way, as when blocks pass on more than the residual stream,
    edited passes begin at the text.
    """

    activations: Mapping[str, Float[Tensor, "batch pos _"]]
    """At the sites that were asked for."""
    clean: Float[Tensor, "batch pos d_model"]
    """What the unembedding makes logits of (`LanguageModel.unembed`)."""

    @torch.no_grad()
    def __init__(
        self, model: BlockModel, tokens: Int[Tensor, "batch pos"], hook_names: Sequence[str]
    ) -> None:
        self._model, self._tokens = model, tokens
        self._starts = {name: _start(model, name) for name in hook_names}
        self._outputs: dict[int, Any] = {}
        found: dict[str, Tensor] = {}

        def keep(name: str, x: Tensor) -> None:
            found[name] = x.clone()  # the model may write into it later on

        with ExitStack() as hooks:
            for i in {start - 1 for start in self._starts.values() if start}:
                hooks.enter_context(_kept(model.blocks[i], partial(self._outputs.__setitem__, i)))
            edits: dict[str, Edit] = {name: partial(keep, name) for name in hook_names}
            self.clean = model.before_unembedding(tokens, edits)
        self.activations = found

    @torch.no_grad()
    def edited(self, hook_name: str, edit: Edit) -> Float[Tensor, "batch pos d_model"]:
        """What the unembedding is given in a pass with this edit at one of the sites."""
        start = self._starts[hook_name]
        if start and self._is_exact_from(start):
            return self._from(start, {hook_name: edit})
        return self._model.before_unembedding(self._tokens, {hook_name: edit})

    def _from(self, start: int, edits: Mapping[str, Edit]) -> Tensor:
        with _skipped(self._model.blocks[:start], self._outputs[start - 1]):
            return self._model.before_unembedding(self._tokens, edits)

    def _is_exact_from(self, start: int) -> bool:
        """Found out once for a model and a block."""
        known = self._model.exact_starts
        if start not in known:
            known[start] = torch.equal(self._from(start, {}), self.clean)
        return known[start]


def blocks_of(hf: nn.Module, n_layers: int) -> list[nn.Module]:
    """The blocks of a model in order: its only list of modules of that length, or none."""
    lists = [m for m in hf.modules() if isinstance(m, nn.ModuleList) and len(m) == n_layers]
    return [*lists[0]] if len(lists) == 1 else []


def _start(model: BlockModel, hook_name: str) -> int:
    """The first block that an edit at this site changes anything in; 0 where it is not known."""
    site = model.site(hook_name)
    for i, block in enumerate(model.blocks):
        if site.module is block:
            return i if site.is_input else i + 1
        if any(site.module is module for module in block.modules()):
            return i
    return 0


@contextmanager
def _kept(block: nn.Module, keep: Any) -> Iterator[None]:
    """Show what a block gives out."""
    handle = block.register_forward_hook(lambda _module, _args, output: keep(_copied(output)))
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def _skipped(blocks: Sequence[nn.Module], output: Any) -> Iterator[None]:
    """Have blocks give out this, whatever they are given, without computing anything."""
    before = [vars(block).get("forward") for block in blocks]  # as other libraries put there
    for block in blocks:
        block.forward = lambda *_args, **_kwargs: _copied(output)
    try:
        yield
    finally:
        for block, forward in zip(blocks, before, strict=True):
            del block.forward
            vars(block).update({} if forward is None else {"forward": forward})


def _copied(output: Any) -> Any:
    if isinstance(output, tuple | list):
        return type(output)(_copied(part) for part in output)
    return output.clone() if isinstance(output, Tensor) else output
