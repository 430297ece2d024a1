"""Files of settings and of grids that are damaged, hostile or wrong."""

from collections.abc import Callable

from workshop import UNREADABLE, Bad, Workshop, pickled

FORM = "give a JSON or YAML file that maps"
WHOLE = r"must be a whole number.*got"


def merges(levels: int) -> str:
    """Merges of merges: ten to the power of `levels` keys in a few lines."""
    lines = ["a0: &a0 {x: 1}"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 10)}]}}")
    return "\n".join(lines)


def lists(levels: int) -> str:
    """Lists of the same lists."""
    lines = ["a0: &a0 [x, x]"]
    for i in range(1, levels):
        lines.append(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 10)}]")
    return "\n".join(lines)


CONTENTS: dict[str, tuple[str | bytes, str]] = {
    "nothing": ("", "c.yaml must map flag names to values"),
    "a list": ("- k", "c.yaml must map flag names to values"),
    "a number": ("5", "c.yaml must map flag names to values"),
    "zero bytes": (b"\0\1\2", f"cannot read.*c.yaml: unacceptable character #x0000.*{FORM}"),
    "Latin-1": ("k: 4 # Grüße".encode("latin-1"), f"cannot read.*'utf-8' codec.*{FORM}"),
    "100,000 lists in each other": ("[" * 100_000, f"cannot read.*recursion.*{FORM}"),
    "300,000 letters": (f"# {'x' * 300_000}\nk: 4", f"more than 262,144 bytes.*{FORM}"),
    "a key twice": ("k: 4\nk: 8", f"it says 'k' twice in line 2.*{FORM}"),
    "a key twice in JSON": ('{"k": 4, "k": 8}', f"it says 'k' twice in line 1.*{FORM}"),
    "a key twice behind a merge": ("a: &a {k: 1, k: 2}\n<<: *a", f"it says 'k' twice.*{FORM}"),
    "merges of merges": (merges(12), "unknown settings: a0, a1"),
    "lists of lists": (f"{lists(12)}\nhook_name: *a11", "unknown settings: a0, a1"),
    "code": ("k: !!python/object/apply:os.mkdir [trace]", f"python/object.*in line 1.*{FORM}"),
    "a tag that does not fit": ("tied: !!bool maybe", f"not of the kind that its tag.*{FORM}"),
    "a date that does not exist": ("model: 2001-13-45", f"cannot read.*month.*{FORM}"),
    "5000 digits": (f"seed: {'1' * 5000}", f"cannot read.*5000 digits.*{FORM}"),
    "an unknown setting": ("kk: 4", "c.yaml has unknown settings: kk"),
    "an unknown setting that clears the screen": (r'"\e[2J": 4', r"settings: '\\x1b\[2J'"),
    "a number of settings": ('{"settings": 5}', "c.yaml must map.*to values under `settings`"),
    "no settings": ('{"settings": null}', "c.yaml must map.*to values under `settings`"),
    "a list of settings": ('{"settings": [{"k": 4}]}', "c.yaml must map.*under `settings`"),
    "a word for k": ("k: x", f"k {WHOLE} 'x'.*c.yaml"),
    "yes for k": ("k: true", f"k {WHOLE} True.*c.yaml"),
    "no number for k": ("k: .nan", f"k {WHOLE} nan.*c.yaml"),
    "1e999 for lr": ("lr: 1e999", "lr must be a number, got '1e999'.*c.yaml"),
    "2**63 for seed": (f"seed: {2**63}", f"seed {WHOLE} {2**63}.*c.yaml"),
    "1e12 for d_sae": ("d_sae: 1.0e+12", "d_sae 1000000000000 is too much.*give fewer"),
    "1 for tied": ("tied: 1", "tied must be true or false, got 1.*c.yaml"),
    "yes for wandb": ("wandb: yes", "wandb must be one of off, offline, online, got True.*c.yaml"),
    "a zero byte in out": (r'out: "a\0b"', r"out must be.*without control characters.*'a\\x00b'"),
    "half a character in out": (r'out: "a\ud800"', r"out must be a text.*'a\\ud800'.*c.yaml"),
    "a command to the terminal": (r'model: "\e[2J"', r"model must be a text.*'\\x1b\[2J'.*c.yaml"),
    "a date for the model": ("model: 2001-01-01", "model must be a text.*got a date.*c.yaml"),
    "a number for a site": ("hook_name: [5]", "hook_name must be a name.*got a list.*c.yaml"),
    "a number for out": ("out: 5", "out must be a text.*got 5.*c.yaml"),
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


FOUR = [f"{name}: [{', '.join(map(str, range(1, 500)))}]" for name in ("seed", "k", "lr", "d_sae")]
GRIDS: dict[str, tuple[str, str]] = {
    "62 billion members": (f"grid: [{{{', '.join(FOUR)}}}]", r"62,001,498,001 members.*fewer"),
    "the same entry 100 times": (
        f"a: &a {{seed: [{', '.join(map(str, range(999)))}]}}\ngrid: [{', '.join(['*a'] * 100)}]",
        "4,995 members, more than 4,096: name fewer",
    ),
    "a name twice": ("grid: [{k: 4, k: 5}]", "it says 'k' twice in line 1"),
    "settings in settings": ("settings: {k: 4}\ngrid: [{k: 4}]", "unknown settings: settings"),
    "more features than memory": ("grid: [{d_sae: 1000000000000}]", "d_sae 10000.*give fewer"),
    "a seed beyond 64 bits": ("data_seed: 99999999999999999999\ngrid: [{k: 4}]", f"seed {WHOLE} 9"),
    "a start that is a file": ("grid: [{start_from: g.yaml}]", "no dictionary at g.yaml.*name"),
    "a long name": (f"grid: [{{{'x' * 900}: 4}}]", "varies xxx.*members share one stream"),
}


def grid_file(content: str, says: str, flags: str = "") -> Bad:
    shared = "g.yaml --out run --wandb off"
    return Bad("sweep", f"{shared} {flags}", says, lambda shop: shop.write("g.yaml", content))


BAD_CONFIGS = {
    **{f"train, a config of {name}": settings_file(*case) for name, case in CONTENTS.items()},
    "train, a config that is not there": Bad(
        "train", "--config c.yaml --out run", f"c.yaml: No such file.*{FORM}"
    ),
    "train, a config that is a folder": Bad(
        "train",
        "--config c.yaml --out run",
        f"c.yaml: Is a directory; {FORM}",
        lambda shop: (shop.folder / "c.yaml").mkdir(),
    ),
    "train, a config that is a link to itself": Bad(
        "train", "--config c.yaml --out run", f"c.yaml: Too many levels.*{FORM}", linked("c.yaml")
    ),
    "train, a config without an end": Bad(
        "train", "--config c.yaml --out run", f"more than 262,144.*{FORM}", linked("/dev/zero")
    ),
    "train, a config that cannot be read": Bad(
        "train",
        "--config c.yaml --out run",
        f"cannot read.*c.yaml: Input/output error; {FORM}",
        linked(UNREADABLE),
    ),
    "train, a config that is a pickle": Bad(
        "train",
        "--config c.yaml --out run",
        f"cannot read.*c.yaml.*{FORM}",
        lambda shop: shop.write("c.yaml", pickled(shop.folder)),
    ),
    **{f"sweep, a grid of {name}": grid_file(*case) for name, case in GRIDS.items()},
    "sweep, a grid that is not there": Bad(
        "sweep", "no.yaml --out run", f"no.yaml: No such.*{FORM}"
    ),
    "sweep, a grid that is a folder": Bad("sweep", ". --out run", f"Is a directory; {FORM}"),
    "sweep, no grid": Bad("sweep", "", "PATH.*YAML file.*required"),
    "sweep, no members in a pass": grid_file(
        "grid: [{k: 4}]", "members_per_pass must be at least 1, got 0", "--members-per-pass 0"
    ),
    "sweep, a word for a number": grid_file(
        "grid: [{k: 4}]", "--members-per-pass takes .*INT, got 'x'", "--members-per-pass x"
    ),
}
