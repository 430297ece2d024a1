"""The Triton kernels without a GPU: what they compute, and that the real compiler takes them."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import torch
from kernel_cases import Case, backend, needs_triton
from torch import Tensor

TYPES = {
    torch.float32: "*fp32",
    torch.bfloat16: "*bf16",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


@needs_triton
@pytest.mark.slow
def test_interpreted_kernels_pass_the_tests_of_every_backend() -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            str(Path(__file__).with_name("test_kernel_backends.py")),
        ],
        env=os.environ | {"TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)


class Recorder:
    """Stands for a kernel, and keeps what it is launched with."""

    def __init__(self, kernel: Any) -> None:
        self.kernel = kernel
        self.launches: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def __getitem__(self, grid: tuple[int, int]) -> Any:
        return lambda *args, **constants: self.launches.append((args, constants))


def compiled(kernel: Any, args: tuple[Any, ...], constants: dict[str, Any]) -> str:
    """The PTX for an H100 of a kernel launched so; ptxas has taken it too."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    n_warps = constants.pop("num_warps")
    signature: dict[str, str] = {}
    divisible: dict[tuple[int], Any] = {}
    for place, (name, arg) in enumerate(zip(kernel.arg_names, args, strict=False)):
        if not isinstance(arg, Tensor) and arg == 1:  # Triton makes a constant of it
            constants[name] = 1
            continue
        signature[name] = TYPES[arg.dtype] if isinstance(arg, Tensor) else "i32"
        if isinstance(arg, Tensor) or arg % 16 == 0:
            divisible[(place,)] = [["tt.divisibility", 16]]
    signature |= dict.fromkeys(constants, "constexpr")
    source = ASTSource(kernel, signature, constants, divisible)
    made = triton.compile(source, GPUTarget("cuda", 90, 32), options={"num_warps": n_warps})
    assert made.asm["cubin"]
    return made.asm["ptx"]


@needs_triton
@pytest.mark.parametrize("index_dtype", [torch.int32, torch.int64])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("k", "d"), [(32, 768), (3, 5), (1, 1)])
def test_every_kernel_compiles_for_an_h100(
    k: int,
    d: int,
    dtype: torch.dtype,
    index_dtype: torch.dtype,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    by: Any = backend("triton_backend")
    names = [name for name in vars(by) if name.endswith("_kernel")]
    recorders = {name: Recorder(getattr(by, name)) for name in names}
    case = Case(batch=4, k=k, n=8, d=d, seed=0, index_dtype=index_dtype, dtype=dtype)
    with patch.multiple(by, **recorders):
        by.sum_rows(case.features, case.values, case.table)
        by.dot_rows(case.features, case.x, case.table)
        by.scatter_rows(case.features, case.values, case.x)
    assert len(names) == 4
    for recorder in recorders.values():
        ((args, constants),) = recorder.launches
        ptx = compiled(recorder.kernel, args, constants)
        assert (".v4." in ptx) == (d == 768)  # reads 16 bytes at once where rows allow it
