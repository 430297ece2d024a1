"""Places where nothing can be written, and files that are not what a flag takes them for."""

from collections.abc import Callable

from bad_flags import HARVEST_SMALL, LONG, SMALL
from workshop import Bad, Workshop


def mine(shop: Workshop) -> None:
    shop.write("f", "mine")


def link(to: str) -> Callable[[Workshop], None]:
    """The name `f` for something else."""
    return lambda shop: (shop.folder / "f").symlink_to(to)


EXISTS, CANNOT = "folder f exists: .*name another one with --out", "cannot write in .*name another"
GRID = "d_sae: 64\ngrid: [{k: 4}]"

PLACES: dict[str, tuple[str, str, Callable[[Workshop], object]]] = {
    "a file": ("f", EXISTS, mine),
    "a folder with something in it": ("f", EXISTS, lambda shop: shop.write("f/x", "mine")),
    "a link to nowhere": ("f", EXISTS, link("nowhere")),
    "far below a file": ("f/x/y/z", "cannot write in f/x/y/z: Not a directory.*name", mine),
    "a folder of the system": ("/sys/run", "cannot write in /sys/run: .*name another", mine),
    "a name too long": (LONG, "cannot write in xxx.*too long.*name another", mine),
    "the folder itself": (".", r"folder \. exists: .*name another one with --out", mine),
}


def grid(shop: Workshop) -> None:
    shop.write("g.yaml", GRID)


BAD_PLACES = {
    **{
        f"train, --out is {name}": Bad("train", f"{SMALL} --out {out}", says, prepare)
        for name, (out, says, prepare) in PLACES.items()
    },
    "sweep, --out is below the grid": Bad("sweep", "g.yaml --out g.yaml/x", CANNOT, grid),
    "sweep, --resume in a file": Bad("sweep", "g.yaml --out g.yaml --resume", CANNOT, grid),
    "train, --resume in a cache": Bad(
        "train",
        f"{SMALL} --out c --resume",
        "c is not the folder of a run.*no config.json.*name another",
        lambda shop: shop.cache(),
    ),
    "harvest, --out is below a file": Bad("harvest", f"{HARVEST_SMALL} --out f/x", CANNOT, mine),
    "train_tiny_lm, --out is a file": Bad(
        "train_tiny_lm", "--out f", "f is no folder: name another one with --out", mine
    ),
}
