"""Folders of dictionaries that are damaged, hostile, or not what a flag needs."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from workshop import UNREADABLE, Bad, Workshop, header_of, pickled, safetensors_of

Prepare = Callable[[Workshop], object]
AGAIN = "restore it from a copy"


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


def halved(tensors: dict[str, torch.Tensor]) -> None:
    tensors |= {name: tensor.half() for name, tensor in tensors.items()}


def tied(shop: Workshop) -> None:
    """Says that it is tied, with other weights for the encoder."""
    shop.tensors(lambda tensors: tensors["W_enc"].mul_(2))
    shop.edit_config(lambda content: content["metadata"]["featureloom"]["config"].update(tied=True))


def again(shop: Workshop) -> None:
    shop.dictionary()
    (shop.folder / "d" / "cfg.json").write_text('{"d_in": 1, "d_in": 2}')


OVERLAPPING = header_of(W_dec=("F32", [8, 192], [0, 6144]), b_enc=("F32", [8], [6140, 6172]))
OVERFLOWING = header_of(W_dec=("F32", [2**40, 2**40], [0, 8]))
SMALLER = header_of(W_dec=("F32", [8, 192], [0, 8]))
DAMAGED = f"is damaged: sae_weights.safetensors: .*{AGAIN}"
NO_FIT = "sae_weights.safetensors does not fit its config: "
MISSING = "is missing; name the --out of a run"
NO_DICTIONARY = "no dictionary at d: .*; name the --out of a run"

DICTIONARIES: dict[str, tuple[Prepare, str]] = {
    "not there": (nowhere, NO_DICTIONARY),
    "an empty folder": (
        lambda shop: (shop.folder / "d").mkdir(),
        NO_DICTIONARY,
    ),
    "a file": (lambda shop: shop.write("d", "x"), NO_DICTIONARY),
    "a link to itself": (
        lambda shop: (shop.folder / "d").symlink_to("d"),
        NO_DICTIONARY,
    ),
    "without weights": (
        in_place_of("sae_weights.safetensors", lambda path: None),
        f"d/sae_weights.safetensors {MISSING}",
    ),
    "with a folder for a config": (in_place_of("cfg.json", Path.mkdir), NO_DICTIONARY),
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
    "with weights that cannot be read": (
        in_place_of("sae_weights.safetensors", linked(UNREADABLE)),
        "cannot read the dictionary at d .*: name the --out",
    ),
    # The config
    "with an empty config": (config_of(""), f"is damaged: cfg.json: Expecting value.*{AGAIN}"),
    "with a binary config": (config_of(b"\x80\0\xff"), f"cfg.json: 'utf-8' codec.*{AGAIN}"),
    "with a deep config": (config_of("[" * 100_000), f"cfg.json: .*recursion.*{AGAIN}"),
    "with a list for a config": (config_of("[]"), f"cfg.json.*must hold one JSON object.*{AGAIN}"),
    "with a config of 2 MB": (config_of(" " * 2_000_000), f"cfg.json.*1,048,576 bytes.*{AGAIN}"),
    "with a width twice": (again, f"cfg.json: it says 'd_in' twice.*{AGAIN}"),
    "with a width of 5000 digits": (
        config_of(f'{{"d_in": {"1" * 5000}}}'),
        f"5000 digits.*{AGAIN}",
    ),
    "with a config that is a pickle": (
        lambda shop: (shop.dictionary(), shop.write("d/cfg.json", pickled(shop.folder))),
        f"is damaged: cfg.json: .*{AGAIN}",
    ),
    "of another project": (top(metadata={}), "does not say its model_name.*give it as a flag"),
    "with a list for metadata": (
        top(metadata=[]),
        "does not say its model_name.*give it as a flag",
    ),
    "of an unknown architecture": (
        own(architecture="magic"),
        "unknown architecture 'magic': known",
    ),
    "of a list of architectures": (own(architecture=["topk"]), "architecture a list: known are"),
    "without settings": (own(config=None), "not saved by this project.*load it with"),
    "without its size": (own(config={"k": 2}), f"cfg.json lacks the keys d_sae; {AGAIN}"),
    "with an unknown key": (top(magic=1), f"cfg.json has unknown keys: magic; {AGAIN}"),
    "with an unknown setting": (settings(magic=1), f"has unknown keys: magic; {AGAIN}"),
    "with an unknown key of ours": (own(magic=1), f"has unknown keys: magic; {AGAIN}"),
    "with a name of Python's": (settings(__class__=1), f"unknown keys: __class__; {AGAIN}"),
    "of '8' features": (settings(d_sae="8"), f"has '8' for d_sae, .*no whole number; {AGAIN}"),
    "of true features": (settings(d_sae=True), f"has True for d_sae, .*no whole number; {AGAIN}"),
    "of 8.0 features": (settings(d_sae=8.0), f"has 8.0 for d_sae, .*no whole number; {AGAIN}"),
    "of null features": (settings(d_sae=None), f"has None for d_sae, .*no whole number; {AGAIN}"),
    "of -8 features": (settings(d_sae=-8), f"d_sae must be at least 1, got -8; {AGAIN}"),
    "of 10**12 features": (
        settings(d_sae=10**12),
        rf"W_dec is of shape \(8, 192\), expected \({10**12}, 192\); {AGAIN}",
    ),
    "of 2**63 features": (settings(d_sae=2**63), f"has {2**63} for d_sae.*{AGAIN}"),
    "with a list for k": (settings(k=[2]), f"has a list for k, .*no whole number; {AGAIN}"),
    "with more active features than all": (settings(k=9), f"k must be in 1..d_sae.*got 9; {AGAIN}"),
    "with a weight that is no number": (
        settings(auxk_coeff=math.nan),
        f"has nan for auxk_coeff, .*no finite number; {AGAIN}",
    ),
    "with an infinite weight": (settings(auxk_coeff=math.inf), f"has inf for auxk_coeff.*{AGAIN}"),
    "with 1 for tied": (settings(tied=1), f"has 1 for tied, .*true or false.*{AGAIN}"),
    "with '192' for d_in": (top(d_in="192"), f"has '192' for d_in, .*no whole number; {AGAIN}"),
    "with another width": (top(d_in=191), rf"\(8, 192\), expected \(8, 191\); {AGAIN}"),
    "with no width": (top(d_in=0), rf"\(8, 192\), expected \(8, 0\); {AGAIN}"),
    "that says two sizes": (
        top(d_sae=16),
        f"says d_sae 16, and the dictionary in it has 8; {AGAIN}",
    ),
    "that says two architectures": (
        top(architecture="standard"),
        f"architecture 'standard'.*{AGAIN}",
    ),
    "that SAELens would centre otherwise": (
        top(apply_b_dec_to_input=False),
        f"says apply_b_dec_to_input False, .*{AGAIN}",
    ),
    "that SAELens would normalise": (
        top(normalize_activations="layer_norm"),
        f"says normalize_activations 'layer_norm', .*{AGAIN}",
    ),
    "that says two types": (top(dtype="float16"), f"says dtype 'float16', .*'float32'; {AGAIN}"),
    # The weights
    "with empty weights": (weights_of(b""), f"header too small.*{AGAIN}"),
    "with seven bytes of weights": (weights_of(b"1234567"), f"header too small.*{AGAIN}"),
    "with a header of 2**60 bytes": (weights_of(safetensors_of(b"{}", b"", 2**60)), DAMAGED),
    "with a header of 10**15 bytes": (weights_of(safetensors_of(b"{}", b"", 10**15)), DAMAGED),
    "with a header that is no JSON": (weights_of(safetensors_of(b"x" * 16)), DAMAGED),
    "with tensors that overlap": (weights_of(safetensors_of(OVERLAPPING, bytes(6172))), DAMAGED),
    "with more numbers than can be": (weights_of(safetensors_of(OVERFLOWING, bytes(8))), DAMAGED),
    "with more numbers than there are": (weights_of(safetensors_of(SMALLER, bytes(8))), DAMAGED),
    "with weights cut off": (lambda shop: shop.weights(lambda data: data[:-10]), DAMAGED),
    "with something behind the weights": (lambda shop: shop.weights(lambda d: d + b"x"), DAMAGED),
    "with weights that are a pickle": (
        lambda shop: shop.weights(lambda _: pickled(shop.folder)),
        DAMAGED,
    ),
    "without a tensor": (
        without("b_dec"),
        rf"{NO_FIT}b_dec is missing, expected \(192,\); {AGAIN}",
    ),
    "with a tensor more": (tensor(x=torch.zeros(1)), f"{NO_FIT}it has unknown tensors x; {AGAIN}"),
    "with a tensor of another shape": (
        tensor(b_enc=torch.zeros(4, 2)),
        rf"{NO_FIT}b_enc is of shape \(4, 2\), expected \(8,\); {AGAIN}",
    ),
    "with whole numbers for weights": (
        tensor(b_enc=torch.zeros(8, dtype=torch.int32)),
        f"{NO_FIT}b_enc is of the type I32 .*{AGAIN}",
    ),
    "with weights of two types": (
        tensor(b_enc=torch.zeros(8, dtype=torch.float16)),
        f"{NO_FIT}b_enc is of the type F16 .*{AGAIN}",
    ),
    "with weights of another type": (lambda shop: shop.tensors(halved), f"says dtype.*{AGAIN}"),
    "with its matrices swapped": (
        lambda shop: shop.tensors(swapped),
        rf"{NO_FIT}W_dec is of shape \(192, 8\), expected \(8, 192\); {AGAIN}",
    ),
    "with NaN in its decoder": (filled("W_dec", math.nan), "W_dec holds NaN or Inf; train.*again"),
    "with NaN in its encoder": (filled("W_enc", math.nan), "W_enc holds NaN or Inf; train.*again"),
    "with Inf in a bias": (filled("b_dec", -math.inf), "b_dec holds NaN or Inf; train.*again"),
    "with an encoder that is not the decoder's": (tied, f"{NO_FIT}.*is tied, and W_enc.*{AGAIN}"),
    # What an evaluation needs
    "of a number for a site": (metadata(hook_name=5), "hook_name of the dictionary.*got 5"),
    "of a site above the folder": (
        metadata(hook_name="../../x"),
        "unknown hook name '../../x': use",
    ),
    "of a number for a model": (metadata(model_name=5), "model_name of the dictionary.*got 5"),
    "of a model that is not there": (metadata(model_name="no/x"), "cannot load the model 'no/x'"),
    "of a model that is another one now": (
        metadata(model_weights="00"),
        "another model than.*tiny",
    ),
    "of a model that was folded": (
        metadata(processing="folded"),
        "processing of the dictionary.*raw.*centred.*got 'folded'",
    ),
    "of a function for a type": (metadata(model_dtype="load"), "model_dtype.*float32.*got 'load'"),
    "of a list for a type": (metadata(model_dtype=[]), "model_dtype of the dictionary.*got a list"),
    "of a number for a text": (metadata(dataset_path=5), "dataset_path of the dictionary.*got 5"),
    "of a text that is not there": (
        metadata(dataset_path="/no/x.txt"),
        "no text file at /no/x.txt",
    ),
    "of a word for a context": (metadata(context_size="many"), "context_size.*whole.*got 'many'"),
    "of a context of no tokens": (metadata(context_size=0), "context_size of.*cannot be 0: give"),
    "of a list for a column": (metadata(text_column=[]), "text_column of the dict.*got a list"),
    "of 'no' for an answer": (metadata(prepend_bos="no"), "prepend_bos.*true or false, got 'no'"),
    "of -1 tokens to evaluate on": (metadata(eval_tokens=-1), "eval_tokens.*cannot be -1: give it"),
    "that clears the screen": (metadata(model_name="\x1b[2J"), r"model_name.*got '\\x1b\[2J'"),
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
        r"start_from d.*\(topk, 192 to 8\).*\(topk, 192 to 64\): start from one of the same",
        valid,
    ),
}
