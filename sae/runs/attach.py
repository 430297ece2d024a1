"""Dictionaries in a language model: the door to `sae.inside`."""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from activation_cache.common.errors import InputError
from sae.base import SAE
from sae.inside import AttachableModel, Inside
from sae.provenance import refuse_other_processing

Dictionaries = SAE[Any] | Iterable[SAE[Any]] | Mapping[str, SAE[Any]]


@contextmanager
def attach(model: Any, dictionaries: Dictionaries) -> Iterator[Inside]:
    """Put dictionaries into a language model: see what features are active, and change them.

    `model` is of `load_model`, a model of Hugging Face transformers, or a TransformerBridge; it is
    used as always, forward passes and generation. `dictionaries` is one, several, or a mapping
    from hook names, for those that do not know their site. A transcoder reads at its `hook_name`
    and writes at its `hook_name_out`.

        with sae.attach(model, dictionary) as inside:
            logits = model.logits(tokens)
            features = inside.features(hook_name)  # [batch, pos, d_sae]
            inside.ablate(hook_name, features[0, -1].argmax().item())
            without = model.logits(tokens)

    Nothing of it is left in the model afterwards. Raises `InputError` for dictionaries that do not
    fit the model.
    """
    placed = _by_site(dictionaries)
    if not isinstance(model, AttachableModel):
        from activation_cache.model.loading import as_language_model

        first = next(iter(placed.values()))
        model = as_language_model(model, processing=first.provenance.processing or "raw")
    for hook_name, sae in placed.items():
        _refuse_unfit(sae, hook_name, model)
    with Inside(placed).within(model) as inside:
        yield inside


def _by_site(dictionaries: Dictionaries) -> dict[str, SAE[Any]]:
    if isinstance(dictionaries, Mapping):
        return {str(name): sae for name, sae in dictionaries.items()}
    placed: dict[str, SAE[Any]] = {}
    for sae in [dictionaries] if isinstance(dictionaries, SAE) else dictionaries:
        if sae.hook_name is None:
            raise InputError("the dictionary does not know its site: give {hook_name: dictionary}")
        if sae.hook_name in placed:
            raise InputError(f"two dictionaries at {sae.hook_name}: attach one at a time")
        placed[sae.hook_name] = sae
    if not placed:
        raise InputError("no dictionary to attach: give one, several, or {hook_name: dictionary}")
    return placed


def _refuse_unfit(sae: SAE[Any], hook_name: str, model: AttachableModel) -> None:
    refuse_other_processing(sae.provenance, model)
    d_out = sae.W_dec.shape[1]
    out = sae.provenance.hook_name_out or hook_name
    for name, ours in ((hook_name, sae.d_in), (out, d_out)):
        if (width := model.width(name)) != ours:
            raise InputError(
                f"the dictionary is for activations of width {ours}, and {name} of the model has "
                f"{width}: give the site and the model that it was trained on"
            )
    if sae.device.type != model.device.type:
        raise InputError(
            f"the dictionary is on {sae.device} and the model on {model.device}: "
            f"dictionary.to({str(model.device)!r})"
        )
