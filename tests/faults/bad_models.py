"""Language models and texts that cannot be read, or would like to run code."""

import json
import os
from collections.abc import Callable

from bad_flags import SMALL, WITHOUT_TEXT
from workshop import UNREADABLE, Bad, Workshop, pickled

Prepare = Callable[[Workshop], object]
REMEDY = "give 'tiny', a hub id while online, a folder with config.json"
FAILS = rf"cannot load the model 'm' \(.*\): {REMEDY}"


def config(**its: object) -> Prepare:
    return lambda shop: shop.model(**its)


def file(name: str, content: bytes | str) -> Prepare:
    return lambda shop: shop.model_with(name, content)


def lacking(*names: str) -> Prepare:
    return lambda shop: shop.model_without(*names)


def program(folder: str, name: str) -> str:
    """Python that makes the folder `trace` when it is imported."""
    return f"import os\nos.mkdir({f'{folder}/trace'!r})\nclass {name}: pass\n"


def remote_code(shop: Workshop) -> None:
    shop.model(auto_map={"AutoConfig": "evil.Evil"}, model_type="evil")
    shop.write("m/evil.py", program(str(shop.folder), "Evil"))


def pickled_weights(shop: Workshop) -> None:
    shop.model_without("model.safetensors")
    shop.write("m/pytorch_model.bin", pickled(shop.folder))


def weights_elsewhere(shop: Workshop) -> None:
    """An index of weights that names a file above the folder."""
    path = shop.model() / "model.safetensors"
    path.rename(shop.folder / "w.safetensors")
    content = {"metadata": {}, "weight_map": {"transformer.wte.weight": "../w.safetensors"}}
    shop.write("m/model.safetensors.index.json", json.dumps(content))


MODELS: dict[str, tuple[Prepare, str]] = {
    "an empty folder": (lambda shop: (shop.folder / "m").mkdir(), FAILS),
    "without a tokenizer": (
        lacking("tokenizer.json", "tokenizer_config.json"),
        "the model 'm' has no tokenizer: add tokenizer.json",
    ),
    "without weights": (lacking("model.safetensors"), FAILS),
    "with a broken config": (file("config.json", "{"), FAILS),
    "of an unknown type": (config(model_type="magic"), FAILS),
    "of five layers, with weights of four": (config(n_layer=5), "'m' lacks weights.*h.4.*random"),
    "of 10**12 words": (config(vocab_size=10**12), FAILS),
    "of a list for its quantisation": (config(quantization_config=[]), FAILS),
    "that brings its own code": (remote_code, FAILS),
    "of pickled weights": (pickled_weights, FAILS),
    "with a header of 2**60 bytes": (
        file("model.safetensors", (2**60).to_bytes(8, "little")),
        FAILS,
    ),
    "with weights above its folder": (
        weights_elsewhere,
        r"'m' has weights outside its folder, '../w.safetensors'",
    ),
    "with a broken tokenizer": (file("tokenizer.json", "{"), FAILS),
}

GGUF: dict[str, tuple[bytes, str]] = {
    "of garbage": (b"GGUF" + bytes(range(256)) * 4, "GGUF"),
    "of no tensors": (b"GGUF\3\0\0\0" + bytes(16), "general.architecture"),
}

TEXTS: dict[str, tuple[str, bytes | str, str]] = {
    "of spaces": ("t.txt", " \n" * 5000, "holds 0 tokens.*give more text"),
    "of UTF-16": ("t.txt", "Text ".encode("utf-16") * 2000, "cannot read.*'utf-8'.*give a hub"),
    "of another format": (
        "t.docx",
        "text\nx",
        "cannot read text from .*t.docx: must end in one of",
    ),
    "of deep JSON lines": (
        "t.jsonl",
        '{"text":' * 10_000 + "1" + "}" * 10_000,
        "t.jsonl: line 1 is nested too deeply",
    ),
    "of numbers": ("t.jsonl", '{"text": 5}\n', "t.jsonl has no text column 'text'"),
    "of a column twice": ("t.jsonl", '{"text": "a", "text": "b"}\n', "cannot read.*twice.*give"),
    "of half characters": (
        "t.jsonl",
        '{"text": "\\ud800"}\n' * 3000,
        "cannot read.*surrogate.*give",
    ),
    "of broken parquet": (
        "t.parquet",
        b"PAR1" + b"\xff" * 100 + b"PAR1",
        "cannot read.*Parquet.*give",
    ),
}

NO_TEXT: dict[str, tuple[str, Prepare, str]] = {
    "a pipe": (
        "t.txt",
        lambda shop: os.mkfifo(shop.folder / "t.txt"),
        "no text file at .*t.txt: give",
    ),
    "a file that cannot be read": (
        "t.txt",
        lambda shop: (shop.folder / "t.txt").symlink_to(UNREADABLE),
        "t.txt.*give",
    ),
    "a program": (
        "t",
        lambda shop: shop.write("t/t.py", program(str(shop.folder), "T")),
        "the folder .*t holds no text: give",
    ),
}


def gguf_of(content: bytes) -> Prepare:
    return lambda shop: shop.write("m.gguf", content)


def text_of(name: str, content: bytes | str) -> Prepare:
    return lambda shop: shop.write(name, content)


BAD_MODELS = {
    **{
        f"train, a model {name}": Bad("train", f"{SMALL} --model m", says, prepare)
        for name, (prepare, says) in MODELS.items()
    },
    **{
        f"train, a .gguf file {name}": Bad(
            "train",
            f"{SMALL} --model m.gguf",
            f"cannot load the model 'm.gguf'.*{reason}.*: {REMEDY}",
            gguf_of(content),
        )
        for name, (content, reason) in GGUF.items()
    },
    "train, a .gguf file that is a folder": Bad(
        "train",
        f"{SMALL} --model m.gguf",
        "no GGUF file at m.gguf: give the path",
        lambda shop: (shop.folder / "m.gguf").mkdir(),
    ),
    **{
        f"train, a text {name}": Bad(
            "train", f"{WITHOUT_TEXT} --dataset {path}", says, text_of(path, content)
        )
        for name, (path, content, says) in TEXTS.items()
    },
    **{
        f"train, a text that is {name}": Bad(
            "train", f"{WITHOUT_TEXT} --dataset {path}", says, prepare
        )
        for name, (path, prepare, says) in NO_TEXT.items()
    },
}
