"""`featureloom features --serve` as a process: what it prints, answers, and how it ends."""

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
import torch
from small_models import RESID_MID

import sae
import sae.features
from sae.architectures import TopKConfig

pytestmark = pytest.mark.slow


def _ask(url: str, question: dict) -> dict:
    request = urllib.request.Request(url, json.dumps(question).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.loads(answer.read())


def test_pages_are_served_until_ctrl_c(tmp_path: Path) -> None:
    torch.manual_seed(0)
    its = TopKConfig(d_sae=32, k=4).build(192)
    its.provenance = sae.Provenance(model_name="tiny", hook_name=RESID_MID, context_size=64)
    sae.save(its, tmp_path / "dictionary")
    text = tmp_path / "text.txt"
    text.write_text("One paragraph of text, a [bold] one.\n\n" * 500)
    flags = ("--n-tokens", "1000", "--dataset", text, "--out", tmp_path / "features", "--serve")
    command = [sys.executable, "-m", "featureloom", "features", tmp_path / "dictionary", *flags]
    process = subprocess.Popen(
        [*map(str, command)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    url = next((line.split()[1] for line in lines if line.startswith("served")), None)
    assert url is not None, process.communicate()[1]
    with urllib.request.urlopen(url, timeout=60) as page:
        assert b"data-served" in page.read()
    base = re.sub(r"/index.html$", "", url)
    found = _ask(f"{base}/api/prompt", {"text": "Returns a list"})
    assert len(found["active"]) == len(found["tokens"]) and len(found["active"][-1]) == 4
    assert _ask(f"{base}/api/note", {"feature": 3, "note": "three"}) == {"3": "three"}
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in errors
    assert sae.features.open(tmp_path / "features")[3].note == "three"
