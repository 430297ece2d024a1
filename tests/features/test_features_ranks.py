"""Features that several processes collect together: the bytes of one, and what a failure does.

The processes are real ones that talk through gloo.
"""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from small_features import collect_whole, files, small_text
from small_models import RESID_MID

import sae
from activation_cache import LanguageModel
from sae.architectures import TopKConfig

pytestmark = pytest.mark.slow


RANK = """
import sys
import torch.distributed as dist
from small_features import SMALL, Table, cut, dictionary, files, small_text
import sae, sae.features

def text(fails):
    for number, batch in enumerate(cut(small_text(), [2] * 7)):
        if fails and number == 2:
            raise OSError("the text is gone")
        yield batch

dist.init_process_group("gloo")
rank, folder = dist.get_rank(), sys.argv[1]
for fails in (rank == 1, False):
    try:
        found = sae.features.collect(
            Table(), dictionary(), text(fails), folder, SMALL, progress=False
        )
        print(len(found), found.facts.n_tokens)
    except (OSError, sae.InputError) as error:
        print(type(error).__name__, error)
dist.destroy_process_group()
"""


def test_the_others_leave_when_a_rank_fails_and_all_resume(
    tmp_path: Path,
) -> None:
    """The process that fails stays: nobody is waked by its end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    env = os.environ | {"PYTHONPATH": os.pathsep.join([*sys.path, str(Path(__file__).parent)])}
    env |= {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", RANK, str(tmp_path / "f")],
            env=env | {"RANK": str(rank)},
            stdout=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    others = (
        "InputError another process of this job has failed, and says why; the same call resumes"
    )
    told = [rank.communicate(timeout=100)[0].splitlines() for rank in ranks]
    done = f"9 {int(small_text()[1].sum())}"
    assert told == [[others, done], ["OSError the text is gone", done]]
    whole = collect_whole(small_text(), tmp_path / "whole").folder
    assert files(tmp_path / "f") == files(whole)


def test_the_command_under_torchrun_makes_the_files_of_one_process_and_prints_once(
    tiny: LanguageModel, tmp_path: Path
) -> None:
    its = TopKConfig(d_sae=64, k=4).build(tiny.width(RESID_MID))
    its.provenance = sae.Provenance(model_name="tiny", hook_name=RESID_MID, context_size=64)
    sae.save(its, tmp_path / "dictionary")
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = str(Path(__file__).parents[2] / "scripts" / "features.py")
    command = [script, str(tmp_path / "dictionary"), "--n-tokens", "20000"]
    printed = [
        subprocess.run(
            [sys.executable, *launcher, *command, "--out", str(tmp_path / out)],
            check=True,
            capture_output=True,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        ).stdout
        for launcher, out in ((torchrun, "two"), ([], "one"))
    ]
    assert files(tmp_path / "two") == files(tmp_path / "one")
    assert [out.count("fires on") for out in printed] == [1, 1]
    assert printed[0] == printed[1].replace(str(tmp_path / "one"), str(tmp_path / "two"))
