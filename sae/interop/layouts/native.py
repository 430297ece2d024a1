"""Ours: `cfg.json` and `sae_weights.safetensors`, which SAELens v6 can read.

What SAELens has no key for (that a dictionary is tied, the settings it was trained with) is under
`metadata.featureloom`. Nothing is allocated before the config and the shapes in the file agree, and
what the config holds twice must be the same.
"""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from activation_cache.common.dtypes import name_of
from activation_cache.common.errors import InputError
from activation_cache.common.schema import convert, listed, shown
from sae.architectures import ARCHITECTURES
from sae.architectures.older import dictionary_as_now
from sae.base import SAE
from sae.interop.exporting import write_files
from sae.interop.layout import Hints
from sae.interop.sources import AGAIN, Config, Source
from sae.provenance import Provenance
from sae.trainable import TrainableConfig, TrainableSAE

NAME = "featureloom"
CONFIG_FILE = "cfg.json"
WEIGHTS_FILE = "sae_weights.safetensors"

LAYOUT_VERSION = "6.0.0"
"""Without it, SAELens takes a file for one of version 5 and forgets its metadata."""

FOREIGN_NAMES = {"relu": "standard"}
"""SAELens' names of what a saved dictionary computes, where they are not ours."""


def recognises(source: Source) -> bool:
    if not {CONFIG_FILE, WEIGHTS_FILE} & set(source.names):
        return False
    metadata = source.config(CONFIG_FILE).get("metadata")
    return isinstance(metadata, dict) and "featureloom" in metadata


def read(source: Source, hints: Hints) -> TrainableSAE:
    """Bit for bit what was written."""
    config, file = source.config(CONFIG_FILE), source.tensors(WEIGHTS_FILE)
    cfg, provenance = _described(config)
    d_in = config.value("d_in", int)
    stored = {"W_dec": file.take("W_dec", cfg.d_sae, d_in)}  # a file vouches for what is allocated
    sae = cfg.build(d_in)
    weights = _stored(sae)
    rest = {name: weight for name, weight in weights.items() if name not in stored}
    stored |= {name: file.take(name, *weight.shape) for name, weight in rest.items()}
    file.finish()
    if len({tensor.dtype for tensor in stored.values()}) > 1:
        raise InputError(f"{file.path} holds tensors of several data types; {AGAIN}")
    W_enc = stored.pop("W_enc")
    if sae.untied_W_enc_rows is not None:
        sae.untied_W_enc_rows.data = W_enc.T.contiguous()
    for name, tensor in stored.items():
        weights[name].data = tensor
    if sae.gain is not None:
        gain = _own(config).get("gain", 1.0)
        sae.gain.data = torch.tensor(convert(float, gain, "gain"), dtype=sae.dtype)
    if cfg.tied and not torch.equal(W_enc, sae.W_enc):
        raise InputError(
            f"{file.path} is of a tied dictionary, and W_enc is not the transpose of W_dec times "
            f"its gain; {AGAIN}"
        )
    sae.provenance = provenance
    sae.is_fresh = False
    _refuse_contradictions(config, _to_json(sae))
    return sae


def write(sae: SAE, folder: str | Path) -> None:
    """Write a dictionary so that `load` returns it bit for bit, and SAELens v6 can read it.

    Each file is written aside and then renamed, the config last. `InputError` for a dictionary of
    another project.
    """
    if not isinstance(sae, TrainableSAE):
        raise InputError(
            f"a dictionary that is {sae.cfg.architecture} is none of ours: write it with "
            f"sae.interop.export in a layout that can express it"
        )
    write_files(Path(folder), WEIGHTS_FILE, _stored(sae), CONFIG_FILE, _to_json(sae))


def _stored(sae: SAE) -> dict[str, Tensor]:
    """The parameters and buffers by the names that saved files call them, the encoder always."""
    named = (*sae.named_parameters(), *sae.named_buffers())
    by_name = {sae.STORED_NAMES.get(name, name): tensor for name, tensor in named}
    by_name.pop("gain", None)  # in the config: SAELens would refuse a tensor that it does not know
    return {**by_name, "W_enc": sae.W_enc}


# The config --------------------------------------------------------------------------------------


def _to_json(sae: TrainableSAE) -> dict[str, Any]:
    architecture, activation = sae.cfg.architecture, sae.cfg.activation
    computed: str = activation or architecture
    own: dict[str, Any] = {"architecture": architecture, "config": asdict(sae.cfg)}
    if sae.gain is not None and sae.gain != 1:
        own["gain"] = sae.gain.item()
    known = sae.provenance.to_metadata()
    layout = saelens_config(
        sae,
        FOREIGN_NAMES.get(computed, computed),
        {**known, "sae_lens_version": LAYOUT_VERSION, "featureloom": own},
    )
    if str(sae.hook_name).endswith("hook_z"):  # SAELens then flattens the heads
        layout["reshape_activations"] = "hook_z"
    if activation == "topk":
        layout |= {"k": own["config"]["k"], "rescale_acts_by_decoder_norm": False}
    return layout


def saelens_config(sae: SAE, architecture: str, metadata: Mapping[str, Any]) -> dict[str, Any]:
    """What SAELens v6 has to know of every dictionary."""
    return {
        "architecture": architecture,
        "d_in": sae.d_in,
        "d_sae": sae.d_sae,
        "dtype": name_of(sae.dtype),
        "device": "cpu",
        "apply_b_dec_to_input": True,
        "normalize_activations": "none",
        "reshape_activations": "none",
        "metadata": metadata,
    }


def _described(config: Config) -> tuple[TrainableConfig, Provenance]:
    metadata = dict(config["metadata"])
    metadata.pop("sae_lens_version", None)
    try:
        own = Config("metadata.featureloom", convert(dict, metadata.pop("featureloom"), "it"))
        cls = ARCHITECTURES[own.one_of("architecture", ARCHITECTURES)]
        settings = own.get("config")
        settings = dictionary_as_now(settings) if isinstance(settings, dict) else settings
        cfg = convert(cls, settings, "its config")
        return cfg, Provenance.from_metadata(metadata)
    except InputError as error:
        raise InputError(f"{config.file} cannot be used: {error}; {AGAIN}") from error


def _own(config: Config) -> Mapping[str, Any]:
    return config["metadata"]["featureloom"]


def _refuse_contradictions(config: Config, layout: Mapping[str, Any]) -> None:
    """What SAELens reads must be what was read here: it does not know `metadata.featureloom`."""
    own, known = _own(config), layout["metadata"]["featureloom"]
    unknown = (set(config) - set(layout)) | (set(own) - set(known))
    if unknown:
        raise InputError(f"{config.file} has unknown keys: {listed(unknown)}; {AGAIN}")
    for name, value in layout.items():
        if name not in ("metadata", "device") and config.get(name, value) != value:
            raise InputError(
                f"{config.file} has {name} {shown(config[name])}, and the dictionary in it has "
                f"{value!r}; {AGAIN}"
            )
