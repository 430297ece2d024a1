"""Read or replace what passes a module of a torch model. Knows no hook names."""

import copy
import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

from torch import Tensor, nn

from activation_cache.common.types import Edit, Pass

Args = tuple[Any, ...]
Kwargs = dict[str, Any]


@runtime_checkable
class Part(Protocol):
    """A part of what a module gives out, or what it was made from, that has a name of its own."""

    def read(self, given: Tensor, output: Tensor) -> Tensor:
        """The part, of a module's input and output."""
        ...

    def write(self, given: Tensor, output: Tensor, part: Tensor) -> Tensor:
        """The module's output with another part."""
        ...


class Whole:
    """All that a module gives out."""

    def read(self, given: Tensor, output: Tensor) -> Tensor:
        return output

    def write(self, given: Tensor, output: Tensor, part: Tensor) -> Tensor:
        return part


@dataclass(frozen=True)
class Site:
    """The module that a hook name belongs to, and on which side of it the activation passes."""

    module: nn.Module
    is_input: bool
    block: nn.Module | None = None
    """The block that also carries the tensor around the module, as the residual stream does."""
    part: Part = Whole()  # noqa: RUF009 - it has no state
    is_overwritten: bool = False
    """Whether the model writes into the tensor later on, so that a reader needs a copy."""


def by_position(x: Tensor, shape: tuple[int, ...]) -> Tensor:
    """What passes a module as [batch, pos, width].

    Some models flatten batch and pos, some keep heads apart. Anything else comes back as it is:
    which sites hold what is proven before they are used.
    """
    if isinstance(x, Tensor) and x.ndim == 2 and len(x) == math.prod(shape):
        return x.view(*shape, -1)
    return x.flatten(2) if isinstance(x, Tensor) and x.ndim > 3 else x


@contextmanager
def following(model: nn.Module) -> Iterator[Pass]:
    """Which forward pass a Hugging Face model without its head is in, while the context lasts."""
    now = Pass()

    def look(_module: nn.Module, args: Args, kwargs: Kwargs) -> None:
        ids: Any = args[0] if args else kwargs.get("input_ids")
        batch, pos = (kwargs["inputs_embeds"] if ids is None else ids).shape[:2]
        cache = kwargs.get("past_key_values", kwargs.get("cache"))  # which it is called from 5.40
        mask = kwargs.get("attention_mask")
        now.shape = (batch, pos)
        now.start = 0 if cache is None else int(cache.get_seq_length())
        now.present = None
        if isinstance(mask, Tensor) and mask.ndim == 2:
            now.present = mask[:, now.start : now.start + pos].bool()

    handle = model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield now
    finally:
        handle.remove()


@contextmanager
def editing(site: Site, edit: Edit, now: Pass) -> Iterator[None]:
    """Show what passes a site while the context lasts; a tensor that `edit` returns replaces it.

    `edit` sees [batch, pos, width], whatever the model makes of it.
    """
    differences: list[Tensor] = []

    def edited(x: Tensor) -> Tensor | None:
        returned = edit(by_position(x, now.shape))
        return None if returned is None else returned.to(x.dtype).reshape(x.shape)

    def before(_module: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs] | None:
        x = _first(args, kwargs)
        if (returned := edited(x)) is None:
            return None
        if site.block is not None:
            differences.append(returned - x)
        return _with_first(args, kwargs, returned)

    def after(_module: nn.Module, args: Args, kwargs: Kwargs, output: Any) -> Any:
        given = _first(args, kwargs)

        def change(x: Tensor) -> Tensor | None:
            returned = edited(site.part.read(given, x))
            return None if returned is None else site.part.write(given, x, returned)

        return _changed(output, change)

    def carry(_module: nn.Module, _args: Args, output: Any) -> Any:
        # The block adds the unedited tensor to its output, so the edit has to be added as well.
        return _changed(output, lambda x: x + differences.pop().view_as(x) if differences else None)

    with ExitStack() as hooks:
        if site.is_input:
            hooks.enter_context(site.module.register_forward_pre_hook(before, with_kwargs=True))
        else:
            hooks.enter_context(site.module.register_forward_hook(after, with_kwargs=True))
        if site.block is not None:
            # First of all, so that an edit of the block's output has the last word.
            hooks.enter_context(site.block.register_forward_hook(carry, prepend=True))
        yield


def _first(args: Args, kwargs: Kwargs) -> Any:
    """The tensor that a module was given, by position or by name."""
    return args[0] if args else kwargs[_name_of_first(kwargs)]


def _with_first(args: Args, kwargs: Kwargs, x: Tensor) -> tuple[Args, Kwargs]:
    return ((x, *args[1:]), kwargs) if args else (args, {**kwargs, _name_of_first(kwargs): x})


def _name_of_first(kwargs: Kwargs) -> str:
    names = [name for name, value in kwargs.items() if isinstance(value, Tensor)]
    return "hidden_states" if "hidden_states" in names else names[0]


def _changed(output: Any, change: Callable[[Tensor], Tensor | None]) -> Any:
    """A module's output, a tensor or several of which it is the first, or None where it stays."""
    several = isinstance(output, tuple | list)
    x, *others = output if several else (output,)
    if (changed := change(x)) is None:
        return None
    return type(output)((changed, *others)) if several else changed


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Without dropout, and with every module as it was afterwards."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def twin(model: nn.Module) -> Any:
    """A model of the same weights, which are shared, for passes that leave something behind."""
    tensors = (*model.parameters(), *model.buffers())
    return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
