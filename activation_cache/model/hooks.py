"""Read or replace what passes a module of a torch model. Knows no hook names."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Site:
    """The module that a hook name belongs to, and on which side of it the activation passes."""

    block: nn.Module
    module: nn.Module
    is_input: bool
    is_forked: bool
    """Whether the block also carries the tensor around the module, as the residual stream does."""


@contextmanager
def editing(site: Site, edit: Callable[[Tensor], Tensor | None]) -> Iterator[None]:
    """Show what passes a site while the context lasts; a tensor that `edit` returns replaces it."""
    differences: list[Tensor] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = args[0] if args else kwargs["hidden_states"]
        edited = edit(x)
        if edited is None:
            return None
        edited = edited.to(x.dtype)
        if site.is_forked:
            differences.append(edited - x)
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        return _first_edited(output, edit)

    def carry(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        # The block adds the unedited tensor to its output, so the edit has to be added as well.
        return _first_edited(output, lambda x: x + differences.pop() if differences else None)

    with ExitStack() as hooks:
        if site.is_input:
            hooks.enter_context(site.module.register_forward_pre_hook(before, with_kwargs=True))
        else:
            hooks.enter_context(site.module.register_forward_hook(after))
        if site.is_forked:
            # First of all, so that an edit of the block's output has the last word.
            hooks.enter_context(site.block.register_forward_hook(carry, prepend=True))
        yield


def _first_edited(output: Any, edit: Callable[[Tensor], Tensor | None]) -> Any:
    """A module's output, a tensor or a tuple that begins with one, or None where it stays."""
    x, *others = output if isinstance(output, tuple) else (output,)
    edited = edit(x)
    if edited is None:
        return None
    return (edited.to(x.dtype), *others) if isinstance(output, tuple) else edited.to(x.dtype)
