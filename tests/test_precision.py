"""Sixteen bits are slow on a CPU without instructions for them, and whoever asks is told."""

from pathlib import Path

import pytest
import torch
from in_process import called

from activation_cache.common.dtypes import emulation_warning
from sae.commands import harvest as harvest_script
from sae.commands import train as train_script

CPU, GPU = torch.device("cpu"), torch.device("cuda")
SMALL = (
    *("--n-tokens", 256, "--batch-tokens", 128, "--buffer-tokens", 256, "--eval-tokens", 128),
    *("--d-sae", 64, "--wandb", "off", "--device", "cpu"),
)
FROM_CACHE = (*SMALL, "--cache")


def cpu_is(monkeypatch: pytest.MonkeyPatch, capability: str) -> None:
    monkeypatch.setattr("torch.backends.cpu.get_cpu_capability", lambda: capability)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bits_are_emulated_by_an_x86_cpu_without_avx512_alone(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_is(monkeypatch, "AVX2")
    warning = emulation_warning("--dtype", dtype, CPU)
    assert warning is not None and warning.endswith("leave --dtype at float32")
    assert emulation_warning("--dtype", torch.float32, CPU) is None
    assert emulation_warning("--dtype", dtype, GPU) is None
    for capability in ("AVX512", "NEON", "DEFAULT"):
        cpu_is(monkeypatch, capability)
        assert emulation_warning("--dtype", dtype, CPU) is None


def test_a_training_tells_which_flags_are_slow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_is(monkeypatch, "AVX2")
    flags = ("--products", "bfloat16", "--dtype", "bfloat16", "--out", tmp_path / "run")
    done = called(train_script.main, *SMALL, *flags)
    assert done.code == 0, done.err
    warnings = [line for line in done.out.splitlines() if line.startswith("warning: this CPU")]
    assert [line.split()[-3] for line in warnings] == ["--dtype", "--products"]


def test_a_harvest_tells_that_its_data_type_is_slow_and_a_training_from_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cpu_is(monkeypatch, "AVX2")
    sizes = ("--n-tokens", 256, "--held-out-tokens", 128, "--device", "cpu")
    flags = (*sizes, "--dtype", "bfloat16", "--out", tmp_path / "cache")
    done = called(harvest_script.main, *flags)
    assert done.code == 0, done.err
    assert "no instructions for bfloat16" in done.out

    trained = called(train_script.main, *FROM_CACHE, tmp_path / "cache", "--out", tmp_path / "run")
    assert trained.code == 0, trained.err
    assert "no instructions" not in trained.out  # it could not be helped any more
