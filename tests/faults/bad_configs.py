"""Files of settings and of grids that are damaged or wrong."""

from collections.abc import Callable

from workshop import Bad, Workshop

FORM = "give a JSON or YAML file that maps"
WHOLE = r"must be a whole number.*got"


CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "c.yaml must map flag names to values"),
    "Latin-1": ("k: 4 # Grüße".encode("latin-1"), f"cannot read.*'utf-8' codec.*{FORM}"),
    "5,000 lists in each other": ("[" * 5_000, f"cannot read.*recursion.*{FORM}"),
    "a key twice": ("k: 4\nk: 8", f"it has 'k' twice in line 2.*{FORM}"),
    "code": ("k: !!python/object/apply:os.mkdir [trace]", f"python/object.*in line 1.*{FORM}"),
    "an unknown setting that clears the screen": (r'"\e[2J": 4', r"topk: '\\x1b\[2J'"),
    "a number of settings": ('{"settings": 5}', "c.yaml must map.*to values under `settings`"),
    "a word for k": ("k: x", f"k {WHOLE} 'x'.*c.yaml"),
    "yes for k": ("k: true", f"k {WHOLE} True.*c.yaml"),
    "an infinity for k": ("k: .inf", f"k {WHOLE} inf.*c.yaml"),
    "1e999 for lr": ("lr: 1e999", "lr must be a finite number, got '1e999'.*c.yaml"),
    "2**63 for seed": (f"seed: {2**63}", f"seed {WHOLE} {2**63}.*c.yaml"),
    "1 for tied": ("tied: 1", "tied must be true or false, got 1.*c.yaml"),
    "yes for wandb": ("wandb: yes", "wandb must be one of off, offline, online, got True.*c.yaml"),
    "a zero byte in out": (r'out: "a\0b"', r"out must be.*without control characters.*'a\\x00b'"),
    "half a character in out": (
        r'out: "a\ud800"',
        r"out must be a path without.*'a\\ud800'.*c.yaml",
    ),
    "a date for the model": ("model: 2001-01-01", "model must be a text.*got a date.*c.yaml"),
    "a number for a site": ("hook_name: [5]", "hook_name must be a text.*got 5.*c.yaml"),
}


def with_config(content: str | bytes) -> Callable[[Workshop], object]:
    return lambda shop: shop.write("c.yaml", content)


def linked(to: str) -> Callable[[Workshop], None]:
    return lambda shop: (shop.folder / "c.yaml").symlink_to(to)


def settings_file(content: str | bytes, says: str) -> Bad:
    flags = "--config c.yaml" if b"out" in with_bytes(content) else "--config c.yaml --out run"
    return Bad("train", flags, says, with_config(content))


def with_bytes(content: str | bytes) -> bytes:
    return content.encode() if isinstance(content, str) else content


GRIDS: dict[str, tuple[str, str]] = {
    "a start that is a file": ("grid: [{start_from: g.yaml}]", "no dictionary at g.yaml.*name"),
}


def grid_file(content: str, says: str, flags: str = "") -> Bad:
    shared = "g.yaml --out run --wandb off"
    return Bad("sweep", f"{shared} {flags}", says, lambda shop: shop.write("g.yaml", content))


BAD_CONFIGS = {
    **{f"train, a config of {name}": settings_file(*case) for name, case in CONTENTS.items()},
    "train, a config that is not there": Bad(
        "train", "--config c.yaml --out run", f"c.yaml: No such file.*{FORM}"
    ),
    **{f"sweep, a grid of {name}": grid_file(*case) for name, case in GRIDS.items()},
    "sweep, a grid that is not there": Bad(
        "sweep", "no.yaml --out run", f"no.yaml: No such.*{FORM}"
    ),
    "sweep, no grid": Bad("sweep", "", "GRID must be given"),
    "sweep, no members in a pass": grid_file(
        "grid: [{k: 4}]", "members_per_pass must be at least 1, got 0", "--members-per-pass 0"
    ),
}
