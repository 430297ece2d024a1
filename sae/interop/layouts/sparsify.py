"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named for the module.

The folder lies in that of the run, whose `config.json` says what it was trained on.
"""

import re
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from activation_cache.common.errors import InputError
from activation_cache.common.files import write_json, write_together
from sae.base import SAE
from sae.interop.exporting import as_pretrained, biases, has_equal_rows, refuse_inexpressible
from sae.interop.layout import Hints, facts, processing
from sae.interop.pretrained import Activation, PretrainedConfig, PretrainedSAE
from sae.interop.sources import DOWNLOAD, Source, Tensors, json_of
from sae.provenance import Provenance
from sae.serialization import contiguous

NAME = "sparsify"
WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
RUN_CONFIG_FILE = "config.json"

ACTIVATIONS: tuple[Activation, ...] = ("topk", "groupmax")

KEYS: dict[str, tuple[type, Any]] = {
    "activation": (str, "topk"),
    "expansion_factor": (int, 32),
    "num_latents": (int, 0),
    "k": (int, None),
    "d_in": (int, None),
    "skip_connection": (bool, False),
    "transcode": (bool, False),
    "signed": (bool, False),
    "normalize_decoder": (bool, True),
    "multi_topk": (bool, False),
}
"""The keys of the config, with what they mean where they are missing. The last two say how the
dictionary was trained: with unit rows, and with a second loss."""

ADDS_TO_THE_STREAM = ("gpt2", "llama", "mistral", "pythia", "qwen", "smollm")
"""Models whose attention and MLP modules return just what is added to the residual stream."""

MODULES = {
    "mlp": "hook_mlp_out",
    "attn": "hook_attn_out",
    "attention": "hook_attn_out",
    "self_attn": "hook_attn_out",
}
"""TransformerLens' names of the outputs of the modules in a block."""

# Reading -----------------------------------------------------------------------------------------


def recognises(source: Source) -> bool:
    is_named = source.path.is_dir() or source.path.name in (CONFIG_FILE, WEIGHTS_FILE)
    if not is_named or not source.has(CONFIG_FILE, WEIGHTS_FILE):
        return False
    return {"d_in", "k", "expansion_factor"} <= source.config(CONFIG_FILE).keys()


def read(source: Source, hints: Hints) -> PretrainedSAE:
    settings, path = _settings(source), source.folder / CONFIG_FILE
    if settings["signed"]:
        raise InputError(
            f"{path} says signed true: versions of sparsify differ in what that computes"
        )
    tensors = _tensors(source, settings["skip_connection"])
    d_sae, d_in = tensors["W_dec"].shape
    latents = settings["num_latents"] or settings["d_in"] * settings["expansion_factor"]
    if (latents, settings["d_in"]) != (d_sae, d_in):
        raise InputError(
            f"{path} says {latents} latents of width {settings['d_in']}, and {WEIGHTS_FILE} holds "
            f"{d_sae} of width {d_in}; {DOWNLOAD}"
        )
    cfg = PretrainedConfig(
        d_sae=d_sae,
        activation=settings["activation"],
        k=settings["k"],
        subtracts_b_dec=not settings["transcode"],
    )
    return PretrainedSAE(cfg, tensors, _provenance(source, is_transcoder=settings["transcode"]))


def _settings(source: Source) -> dict[str, Any]:
    path, config = source.folder / CONFIG_FILE, source.config(CONFIG_FILE)
    unknown = sorted(set(config) - set(KEYS) - {"metadata"})
    if unknown:
        raise InputError(
            f"{path} has unknown keys: {', '.join(unknown)[:200]}: what the dictionary computes is "
            f"not known"
        )
    settings: dict[str, Any] = {}
    for name, (kind, default) in KEYS.items():
        settings[name] = config.get(name, default)
        if type(settings[name]) is not kind:
            raise InputError(f"{path} has {json_of(settings[name])} for {name}; {DOWNLOAD}")
    if settings["activation"] not in ACTIVATIONS:
        raise InputError(
            f"{path} has the unknown activation {json_of(settings['activation'])}: known are "
            f"{', '.join(ACTIVATIONS)}"
        )
    return settings


def _tensors(source: Source, has_skip: bool) -> dict[str, Tensor]:
    """W_dec is as ours; the encoder and the skip connection are transposed."""
    found: Tensors = source.tensors(WEIGHTS_FILE)
    tensors = {
        "W_enc": found.matrix("encoder.weight").T,
        "W_dec": found.matrix("W_dec"),
        "b_enc": found.take("encoder.bias"),
        "b_dec": found.take("b_dec"),
    }
    if has_skip:
        tensors["W_skip"] = found.matrix("W_skip").T
    found.finish()
    return tensors


def _provenance(source: Source, *, is_transcoder: bool) -> Provenance:
    """What folder and run say. Chunks of text need not begin with a token of their own, so nothing
    is said of BOS; of a transcoder, the name of the module says where its output is."""
    folder = source.folder.resolve()
    is_seed = re.fullmatch(r"seed\d+", folder.name) is not None
    hookpoint = folder.parent.name if is_seed else folder.name
    name = f"../../{RUN_CONFIG_FILE}" if is_seed else f"../{RUN_CONFIG_FILE}"
    run = source.config(name) if source.has(name) else {}
    run = run if isinstance(run.get("sae"), dict) else {}
    site = _hook_name(hookpoint, str(run.get("model", "")))
    known = facts(
        model_name=run.get("model"),
        hook_name=None if is_transcoder else site,
        hook_name_out=site if is_transcoder else None,
        dataset_path=run.get("dataset"),
        context_size=run.get("ctx_len"),
        processing=processing(None) if run else None,
        hookpoint=hookpoint if site or hookpoint in run.get("hookpoints", ()) else None,
        transcode=True if is_transcoder else None,
    )
    own = source.config(CONFIG_FILE).get("metadata")
    return known.updated(own if isinstance(own, dict) else {})


def _hook_name(hookpoint: str, model: str) -> str | None:
    """The TransformerLens name of a module's output, where it is certain."""
    found = re.fullmatch(r"(?:h|layers)\.(\d+)(?:\.(\w+))?", hookpoint)
    if found is None:
        return None
    layer, module = int(found[1]), found[2]
    if module is None:
        return f"blocks.{layer}.hook_resid_post"
    is_certain = any(family in model.lower() for family in ADDS_TO_THE_STREAM)
    return f"blocks.{layer}.{MODULES[module]}" if is_certain and module in MODULES else None


# Writing -----------------------------------------------------------------------------------------


def write(sae: SAE, folder: Path) -> None:
    """Write what `SparseCoder.load_from_disk` there reads, in float32.

    An autoencoder there subtracts b_dec, and a transcoder does not. `metadata` in the config is
    ours: there, nobody looks at it.
    """
    given = as_pretrained(sae)
    refuse_inexpressible(given, NAME, ACTIVATIONS, skip=True)
    known = sae.provenance
    is_transcoder = bool(known.others.get("transcode") or known.hook_name_out)
    folded = biases(given, subtracts_b_dec=not is_transcoder)
    encoder = contiguous(given.W_enc.T)
    is_tied = encoder.data_ptr() == given.W_dec.data_ptr()  # safetensors keeps nothing twice
    tensors = {
        "encoder.weight": encoder.clone() if is_tied else encoder,
        "encoder.bias": contiguous(folded["b_enc"]),
        "W_dec": contiguous(given.W_dec),
        "b_dec": contiguous(given.b_dec),
    }
    if given.W_skip is not None:
        tensors["W_skip"] = contiguous(given.W_skip.T)
    config = {
        "activation": given.cfg.activation,
        "expansion_factor": max(1, given.d_sae // given.d_in),
        "normalize_decoder": has_equal_rows(given.W_dec, 1.0),
        "num_latents": given.d_sae,
        "k": given.cfg.k,
        "multi_topk": False,
        "skip_connection": given.W_skip is not None,
        "transcode": is_transcoder,
        "d_in": given.d_in,
        "metadata": known.to_metadata(),
    }
    write_together(
        folder,
        {
            WEIGHTS_FILE: lambda part: save_file(tensors, part),
            CONFIG_FILE: lambda part: write_json(part, config),
        },
    )
