"""Language models from the hub, a folder, a GGUF file, or the package itself."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import torch

from activation_cache.common.errors import InputError, described
from activation_cache.common.network import hub_is_reachable
from activation_cache.common.schema import convert
from activation_cache.common.types import Processing
from activation_cache.model.language_model import LanguageModel

TINY = "tiny"
TINY_FOLDER = Path(__file__).parents[1] / "data" / "tiny_lm"


def load_model(
    source: str,
    *,
    device: str = "auto",
    dtype: torch.dtype = torch.float32,
    revision: str = "main",
    processing: Processing = "raw",
) -> LanguageModel:
    """Load a causal language model for reading and editing its activations.

    `source` is `"tiny"` (the embedded model, needs no network), a Hugging Face hub id such as
    `"gpt2"`, a local folder in the Hugging Face layout, or a `.gguf` file (which is dequantised and
    needs the package gguf). `device` is `"auto"` (CUDA where there is one) or a torch
    device. `processing` is for dictionaries that were trained on a centred residual stream. Raises
    `InputError` where the model cannot be had.
    """
    import transformers

    convert(Processing, processing, "processing")
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()  # what is wrong, the error says
    target = resolve_device(device)
    folder, options = _locate(source)
    _refuse_weights_elsewhere(Path(folder), source)
    options |= {"revision": revision, "trust_remote_code": False}  # and it is not asked for either
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, **options)
        loader: Any = transformers.AutoModelForCausalLM
        hf, found = loader.from_pretrained(folder, dtype=dtype, output_loading_info=True, **options)
    except Exception as error:  # files that are no model make the readers raise any kind
        raise InputError(
            f"cannot load the model {source!r} ({described(error)}): give 'tiny', a hub id while "
            f"online, a folder with config.json, weights and tokenizer, or a .gguf file"
        ) from error
    if found["missing_keys"]:
        missing = ", ".join(sorted(found["missing_keys"])[:3])
        raise InputError(f"the model {source!r} lacks weights ({missing}): they would be random")
    if not tokenizer("text")["input_ids"]:
        raise InputError(f"the model {source!r} has no tokenizer: add tokenizer.json to its folder")
    hf = hf.eval().requires_grad_(False).to(target)
    return LanguageModel(source, hf, tokenizer, revision, processing)


def as_language_model(model: Any, processing: Processing = "raw") -> LanguageModel:
    """A model that is in memory, as one with named sites: of Hugging Face, or a TransformerBridge.

    The model itself is used, and left as it is. `InputError` for anything else.
    """
    import transformers

    if isinstance(model, LanguageModel):
        return model
    hf = getattr(model, "original_model", model)  # of a bridge, which runs it
    if not isinstance(hf, transformers.PreTrainedModel):
        raise InputError(
            f"the model must be of load_model, of Hugging Face transformers, or a "
            f"TransformerBridge, got {type(model).__name__}"
        )
    name = getattr(hf.config, "_name_or_path", "") or type(hf).__name__
    tokenizer: Any = getattr(model, "tokenizer", None)  # which sites do without
    return LanguageModel(name, hf, tokenizer, processing=processing)


def resolve_device(device: str) -> torch.device:
    """The torch device of a `--device` value; `"auto"` is CUDA where there is one."""
    if device == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        return torch.zeros(1, device=device).to("cpu").to(device).device
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise InputError(
            f"device {device!r} cannot be used here: use auto, cpu, or cuda where torch finds it"
        ) from error


def _locate(source: str) -> tuple[str, dict[str, Any]]:
    """Where transformers shall load from, and the options that the source needs."""
    if source == TINY:
        return str(TINY_FOLDER), {}
    if source.endswith(".gguf"):
        path = Path(source)
        if not path.is_file():
            raise InputError(f"no GGUF file at {source}: give the path of an existing one")
        if importlib.util.find_spec("gguf") is None:
            raise InputError(f"reading {source} needs the package gguf: pip install 'gguf>=0.17'")
        return str(path.parent), {"gguf_file": path.name}
    return source, {"local_files_only": not hub_is_reachable()}


def _refuse_weights_elsewhere(folder: Path, source: str) -> None:
    """The index of weights in several files could name files anywhere on the disk."""
    try:
        indices = sorted(folder.glob("*.index.json"))
    except OSError:
        return
    for index in indices:
        try:
            names = set(json.loads(index.read_bytes())["weight_map"].values())
        except Exception:  # whoever reads it will say what is wrong
            continue
        for name in sorted(map(str, names)):
            if Path(name).name != name:
                raise InputError(f"the model {source!r} has weights outside its folder, {name!r}")
