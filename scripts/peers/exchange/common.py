"""What every peer's program shares: `python exchange_NAME.py save|load FOLDER`.

`save` writes a dictionary of every class that the package trains, each into a folder of its own,
and beside it what the package itself makes of some rows. `load` reads every dictionary that lies in
the folder, and writes beside it what the package makes of the rows that lie there.

It stands alone (torch, safetensors and the standard library): each peer has its own environment.
"""

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

D_IN, D_SAE, K = 24, 96, 6
N_ROWS = 256
FURTHEST = 1.3
"""Times that a disturbed decoder row is as long as before, at most."""

Use = Callable[[Tensor], tuple[Tensor, Tensor]]
"""Features and reconstruction of rows, as the package has them."""


def rows(d_in: int) -> Tensor:
    """Rows whose mean is not zero: that is where mistakes with biases show."""
    generator = torch.Generator().manual_seed(1)
    return torch.randn(N_ROWS, d_in, generator=generator) * 2 + 1.5


@torch.no_grad()
def disturb(module: nn.Module, seed: int) -> None:
    """Let no parameter be what it was initialised to: no zero biases, no rows of unit norm."""
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in module.named_parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter)
        if "threshold" in name:
            parameter.copy_(noise.abs() * 0.3)
        else:
            parameter.add_(0.2 * noise)
        if name in ("W_dec", "decoder.weight"):
            longer = 1 + (FURTHEST - 1) * torch.rand(D_SAE, generator=generator)
            parameter.mul_(longer[:, None] if parameter.shape[0] == D_SAE else longer)


def run(save: Callable[[Path], Iterator[tuple[str, Use]]], load: Callable[[Path], Use]) -> None:
    """Do what the command line asks for; prints a JSON object of what could not be loaded."""
    task, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    failed: dict[str, str] = {}
    if task == "save":
        for name, use in save(folder):
            write(folder, name, rows(D_IN), use)
    else:
        for path in sorted(path for path in folder.iterdir() if path.is_dir()):
            x = load_file(folder / f"{path.name}.safetensors")["x"]
            try:
                write(folder, path.name, x, load(path))
            except Exception as error:  # whatever it is: the table says that it did not load
                failed[path.name] = f"{type(error).__name__}: {error}"
    print(json.dumps(failed))


@torch.no_grad()
def write(folder: Path, name: str, x: Tensor, use: Use) -> None:
    features, reconstruction = (of.detach().float().contiguous() for of in use(x))
    save_file(
        {"x": x, "features": features, "reconstruction": reconstruction},
        folder / f"{name}.safetensors",
    )
