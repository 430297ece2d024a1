"""Folders of dictionaries that are damaged, hostile, or not what a flag needs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from workshop import UNREADABLE, Bad, Workshop, header_of, safetensors_of

Prepare = Callable[[Workshop], object]
AGAIN = "restore it from a copy"
WHOLE = r"must be a whole number \(of 64 bits at most\), got"


def nowhere(_shop: Workshop) -> None:
    """No folder at all."""


def in_place_of(name: str, put: Callable[[Path], object]) -> Prepare:
    def prepare(shop: Workshop) -> None:
        shop.dictionary()
        shop.exchange(f"d/{name}", put)

    return prepare


def config_of(content: bytes | str) -> Prepare:
    data = content.encode() if isinstance(content, str) else content
    return in_place_of("cfg.json", lambda path: path.write_bytes(data))


def linked(to: str) -> Callable[[Path], object]:
    return lambda path: path.symlink_to(to)


def settings(**its: Any) -> Prepare:
    return lambda shop: shop.settings(**its)


def top(**its: Any) -> Prepare:
    return lambda shop: shop.dictionary(**its)


def metadata(**its: Any) -> Prepare:
    return lambda shop: shop.metadata(**its)


def own(**its: Any) -> Prepare:
    """Under `metadata.featureloom`."""
    return metadata(featureloom={"architecture": "topk", "config": {"d_sae": 8, "k": 2}} | its)


def weights_of(data: bytes) -> Prepare:
    return lambda shop: shop.weights(lambda _: data)


def tensor(**its: torch.Tensor) -> Prepare:
    return lambda shop: shop.tensors(lambda tensors: tensors.update(its))


def without(name: str) -> Prepare:
    return lambda shop: shop.tensors(lambda tensors: tensors.pop(name))


def filled(name: str, value: float) -> Prepare:
    return lambda shop: shop.tensors(lambda tensors: tensors[name].view(-1)[:1].fill_(value))


def swapped(tensors: dict[str, torch.Tensor]) -> None:
    tensors["W_enc"], tensors["W_dec"] = tensors["W_dec"].clone(), tensors["W_enc"].clone()


def tied(shop: Workshop) -> None:
    """Says that it is tied, with other weights for the encoder."""
    shop.tensors(lambda tensors: tensors["W_enc"].mul_(2))
    shop.edit_config(lambda content: content["metadata"]["featureloom"]["config"].update(tied=True))


def again(shop: Workshop) -> None:
    shop.dictionary()
    (shop.folder / "d" / "cfg.json").write_text('{"d_in": 1, "d_in": 2}')


OVERLAPPING = header_of(W_dec=("F32", [8, 192], [0, 6144]), b_enc=("F32", [8], [6140, 6172]))
SMALLER = header_of(W_dec=("F32", [8, 192], [0, 8]))
FILE = "d/sae_weights.safetensors"
DAMAGED = f"{FILE} cannot be read .*{AGAIN}"
MISSING = "is missing; name the --out of a run"
NO_DICTIONARY = "no dictionary at d: .*; name the --out of a run"

DICTIONARIES: dict[str, tuple[Prepare, str]] = {
    "not there": (nowhere, NO_DICTIONARY),
    "a link to itself": (
        lambda shop: (shop.folder / "d").symlink_to("d"),
        NO_DICTIONARY,
    ),
    "without weights": (
        in_place_of("sae_weights.safetensors", lambda path: None),
        f"d/sae_weights.safetensors {MISSING}",
    ),
    "with a config without an end": (
        in_place_of("cfg.json", linked("/dev/zero")),
        NO_DICTIONARY,
    ),
    "with weights without an end": (
        in_place_of("sae_weights.safetensors", linked("/dev/zero")),
        f"d/sae_weights.safetensors {MISSING}",
    ),
    "with a config that cannot be read": (
        in_place_of("cfg.json", linked(UNREADABLE)),
        "cannot read the dictionary at d .Input/output error.: name the --out",
    ),
    # The config
    "with a deep config": (
        config_of("[" * 100_000),
        f"cfg.json is not valid JSON: .*recursion.*{AGAIN}",
    ),
    "with a list for a config": (config_of("[]"), f"cfg.json.*must hold one JSON object.*{AGAIN}"),
    "with a config of 2 MB": (config_of(" " * 2_000_000), f"cfg.json.*1,048,576 bytes.*{AGAIN}"),
    "with a width twice": (again, f"cfg.json is not valid JSON: it has 'd_in' twice.*{AGAIN}"),
    "of another project": (top(metadata={}), "no usable model_name .None.*give it as a flag"),
    "of an unknown architecture": (
        own(architecture="magic"),
        "architecture 'magic': known are",
    ),
    "without settings": (
        own(config=None),
        f"cfg.json cannot be used: its config must be a mapping, got None; {AGAIN}",
    ),
    "without its size": (
        own(config={"k": 2}),
        f"cfg.json cannot be used: its config lacks d_sae; {AGAIN}",
    ),
    "with an unknown key": (top(magic=1), f"cfg.json has unknown keys: magic; {AGAIN}"),
    "with an unknown setting": (settings(magic=1), f"has unknown keys: magic; {AGAIN}"),
    "of '8' features": (settings(d_sae="8"), f"its config.d_sae {WHOLE} '8'; {AGAIN}"),
    "of true features": (settings(d_sae=True), f"its config.d_sae {WHOLE} True; {AGAIN}"),
    "of -8 features": (settings(d_sae=-8), f"d_sae must be at least 1, got -8; {AGAIN}"),
    "of 10**12 features": (
        settings(d_sae=10**12),
        rf"W_dec in {FILE} is of shape \(8, 192\), expected \({10**12}, 192\); {AGAIN}",
    ),
    "of 2**63 features": (settings(d_sae=2**63), f"its config.d_sae {WHOLE} {2**63}; {AGAIN}"),
    "with a weight that is no number": (
        settings(auxk_coeff=math.nan),
        f"its config.auxk_coeff must be a finite number, got nan; {AGAIN}",
    ),
    "with 1 for tied": (settings(tied=1), f"its config.tied must be true or false, got 1; {AGAIN}"),
    "with '192' for d_in": (top(d_in="192"), f"d_in in cfg.json {WHOLE} '192'"),
    "with another width": (top(d_in=191), rf"\(8, 192\), expected \(8, 191\); {AGAIN}"),
    "that says two sizes": (
        top(d_sae=16),
        f"has d_sae 16, and the dictionary in it has 8; {AGAIN}",
    ),
    "that SAELens would normalise": (
        top(normalize_activations="layer_norm"),
        f"has normalize_activations 'layer_norm', .*{AGAIN}",
    ),
    # The weights
    "with a header of 2**60 bytes": (weights_of(safetensors_of(b"{}", b"", 2**60)), DAMAGED),
    "with tensors that overlap": (weights_of(safetensors_of(OVERLAPPING, bytes(6172))), DAMAGED),
    "with more numbers than there are": (weights_of(safetensors_of(SMALLER, bytes(8))), DAMAGED),
    "with weights cut off": (lambda shop: shop.weights(lambda data: data[:-10]), DAMAGED),
    "without a tensor": (
        without("b_dec"),
        f"{FILE} lacks the tensor b_dec; {AGAIN}",
    ),
    "with a tensor more": (
        tensor(x=torch.zeros(1)),
        f"{FILE} holds x, which this layout does not have",
    ),
    "with whole numbers for weights": (
        tensor(b_enc=torch.zeros(8, dtype=torch.int32)),
        f"b_enc in {FILE} is no tensor of real numbers; {AGAIN}",
    ),
    "with a bias of another data type": (
        tensor(b_enc=torch.zeros(8, dtype=torch.float64)),
        f"{FILE} holds tensors of several data types; {AGAIN}",
    ),
    "with its matrices swapped": (
        lambda shop: shop.tensors(swapped),
        rf"W_dec in {FILE} is of shape \(192, 8\), expected \(8, 192\); {AGAIN}",
    ),
    "with NaN in its decoder": (filled("W_dec", math.nan), f"W_dec in {FILE} holds NaN or Inf"),
    "with an encoder that is not the decoder's": (
        tied,
        f"{FILE} is of a tied dictionary, and W_enc is not .*{AGAIN}",
    ),
    # What an evaluation needs
    "of a site above the folder": (
        metadata(hook_name="../../x"),
        "unknown hook name '../../x': use",
    ),
    "of a number for a model": (metadata(model_name=5), "model_name must be a text, got 5"),
    "of a model that is not there": (metadata(model_name="no/x"), "cannot load the model 'no/x'"),
    "of a model that is another one now": (
        metadata(model_weights="00"),
        "another model than.*tiny",
    ),
    "of a model that was folded": (
        metadata(processing="folded"),
        "processing must be one of raw, centred.*got 'folded'",
    ),
    "of a function for a type": (metadata(model_dtype="load"), "model_dtype.*float32.*got 'load'"),
    "of a text that is not there": (
        metadata(dataset_path="/no/x.txt"),
        "no text file at /no/x.txt",
    ),
    "of a context of no tokens": (
        metadata(context_size=0),
        "no usable context_size .0.: give it as a flag",
    ),
    "of 'no' for an answer": (metadata(prepend_bos="no"), "prepend_bos.*true or false, got 'no'"),
    "that clears the screen": (metadata(model_name="\x1b[2J"), r"the model '\\x1b\[2J'"),
}


def valid(shop: Workshop) -> None:
    shop.dictionary()


BAD_DICTIONARIES = {
    **{
        f"evaluate, a dictionary {name}": Bad("evaluate", "d", says, prepare)
        for name, (prepare, says) in DICTIONARIES.items()
    },
    "train, from a dictionary of another size": Bad(
        "train",
        "--start-from d --d-sae 64 --wandb off --out run",
        r"start_from d.*\(topk, 192 to 8\).*\(batch_topk, 192 to 64\): start from one of the same",
        valid,
    ),
}
