"""Read or replace what passes a module of a torch model. Knows no hook names."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from activation_cache.common.types import Edit


@dataclass(frozen=True)
class Site:
    """The module that a hook name belongs to, and on which side of it the activation passes."""

    block: nn.Module
    module: nn.Module
    is_input: bool
    is_forked: bool
    """Whether the block also carries the tensor around the module, as the residual stream does."""


@contextmanager
def reading(site: Site, read: Callable[[Tensor], None]) -> Iterator[None]:
    """Show what passes a site while the context lasts."""

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        read(_first(args, kwargs))

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> None:
        read(output[0] if isinstance(output, tuple) else output)

    if site.is_input:
        handle = site.module.register_forward_pre_hook(before, with_kwargs=True)
    else:
        handle = site.module.register_forward_hook(after)
    with handle:
        yield


@contextmanager
def editing(site: Site, edit: Edit) -> Iterator[None]:
    """Replace what passes a site while the context lasts."""
    differences: list[Tensor] = []

    def before(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        x = _first(args, kwargs)
        edited = edit(x).to(x.dtype)
        if site.is_forked:
            differences.append(edited - x)
        if args:
            return (edited, *args[1:]), kwargs
        return args, {**kwargs, "hidden_states": edited}

    def after(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        x = output[0] if isinstance(output, tuple) else output
        edited = edit(x).to(x.dtype)
        return (edited, *output[1:]) if isinstance(output, tuple) else edited

    def carry(_module: nn.Module, _args: tuple[Any, ...], output: Any) -> Any:
        # The block adds the unedited tensor to its output, so the edit has to be added as well.
        difference = differences.pop()
        if isinstance(output, tuple):
            return (output[0] + difference, *output[1:])
        return output + difference

    with ExitStack() as hooks:
        if site.is_input:
            hooks.enter_context(site.module.register_forward_pre_hook(before, with_kwargs=True))
        else:
            hooks.enter_context(site.module.register_forward_hook(after))
        if site.is_forked:
            # First of all, so that an edit of the block's output has the last word.
            hooks.enter_context(site.block.register_forward_hook(carry, prepend=True))
        yield


def _first(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor:
    return args[0] if args else kwargs["hidden_states"]
