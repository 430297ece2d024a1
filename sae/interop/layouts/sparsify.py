"""EleutherAI's sparsify: `cfg.json` and `sae.safetensors` in a folder named for the module.

The folder lies in that of the run, whose `config.json` holds what it was trained on.
"""

import re
from pathlib import Path
from typing import Any

from activation_cache.common.errors import InputError
from sae.base import SAE
from sae.interop.exporting import (
    as_pretrained,
    biases,
    contiguous,
    has_equal_rows,
    refuse_inexpressible,
    write_files,
)
from sae.interop.layout import Hints, facts, processing
from sae.interop.pretrained import Activation, PretrainedConfig, PretrainedSAE
from sae.interop.sources import LINEAR, Source, keys
from sae.provenance import Provenance

NAME = "sparsify"
WEIGHTS_FILE = "sae.safetensors"
CONFIG_FILE = "cfg.json"
RUN_CONFIG_FILE = "config.json"

ACTIVATIONS: tuple[Activation, ...] = ("topk", "groupmax")

COMPUTED = keys("activation expansion_factor num_latents k d_in skip_connection transcode signed")
HARMLESS = keys("normalize_decoder multi_topk metadata")
"""How it was trained: with unit rows, and with a second loss. `metadata` is ours."""

NAMES = LINEAR | {"W_dec": "W_dec", "b_dec": "b_dec"}

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
    config, file = source.config(CONFIG_FILE), source.tensors(WEIGHTS_FILE)
    config.refuse_unknown(COMPUTED | HARMLESS)
    if config.value("signed", bool, False):
        raise InputError("cfg.json has signed true: versions of sparsify differ in what it does")
    d_in = config.value("d_in", int)
    d_sae = config.value("num_latents", int, 0) or d_in * config.value("expansion_factor", int, 32)
    tensors = file.named(NAMES, d_in, d_sae)
    if config.value("skip_connection", bool, False):
        tensors["W_skip"] = file.take("W_skip", None, d_in).T
    file.finish()
    is_transcoder = config.value("transcode", bool, False)
    cfg = PretrainedConfig(
        d_sae=d_sae,
        activation=config.one_of("activation", ACTIVATIONS, "topk"),
        k=config.value("k", int),
        subtracts_b_dec=not is_transcoder,
    )
    return PretrainedSAE(cfg, tensors, _provenance(source, is_transcoder=is_transcoder))


def _provenance(source: Source, *, is_transcoder: bool) -> Provenance:
    """What folder and run say. Chunks of text need not begin with a token of their own, so nothing
    is known of BOS; of a transcoder, the name of the module is where its output is."""
    folder = source.folder.resolve()
    is_seed = re.fullmatch(r"seed\d+", folder.name) is not None
    hookpoint = folder.parent.name if is_seed else folder.name
    name = f"../../{RUN_CONFIG_FILE}" if is_seed else f"../{RUN_CONFIG_FILE}"
    run: dict[str, Any] = source.config(name)
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
    refuse_inexpressible(given, NAME, ACTIVATIONS, skips=True)
    known = sae.provenance
    is_transcoder = bool(known.others.get("transcode") or known.hook_name_out)
    folded = biases(given, subtracts_b_dec=not is_transcoder)
    encoder = contiguous(given.W_enc.T)
    is_tied = encoder.data_ptr() == given.W_dec.data_ptr()  # safetensors keeps nothing twice
    tensors = {
        "encoder.weight": encoder.clone() if is_tied else encoder,
        "encoder.bias": folded["b_enc"],
        "W_dec": given.W_dec,
        "b_dec": given.b_dec,
    }
    if given.W_skip is not None:
        tensors["W_skip"] = given.W_skip.T
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
    write_files(folder, WEIGHTS_FILE, tensors, CONFIG_FILE, config)
