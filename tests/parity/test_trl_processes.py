"""Two processes on one machine do what one does: the same census, records, advantages and weights."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from trl_helpers import GROUP
from trl_processes import METHODS, ROWS

import ngrpo
from helpers import small_model
from ngrpo.record import read_jsonl

SCRIPT = Path(__file__).parent / "trl_processes.py"
# The launcher of several GPUs: the one that starts several processes. The script's own use_cpu makes them gloo's.
LAUNCH = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_machines=1", "--num_processes=2"]
LAUNCH += ["--main_process_port=0", "--mixed_precision=no", "--dynamo_backend=no"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """What one process left, and what two did."""
    folder = tmp_path_factory.mktemp("processes")
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(ngrpo.__file__).parents[1]),
        "HF_HUB_OFFLINE": "1",
    }
    commands = {
        "one": [sys.executable, str(SCRIPT), str(folder / "one")],
        "two": [sys.executable, *LAUNCH, str(SCRIPT), str(folder / "two")],
    }
    for command in commands.values():
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
    return folder


def told(folders, name, method):
    return json.loads((folders / name / method / "told.json").read_text())


@pytest.mark.parametrize("method", METHODS)
def test_two_processes_do_what_one_does(folders, method):
    one, two = (told(folders, name, method) for name in ("one", "two"))
    assert (one["processes"], two["processes"]) == (1, 2)
    generations = [line for line in one["lines"] if "groups/num_kept" in line]
    assert len(generations) == 2
    for mine, other in zip(one["lines"], two["lines"], strict=True):
        assert other == pytest.approx(mine, abs=1e-6)
    assert two["advantages"] == pytest.approx(one["advantages"], abs=1e-5)
    weights = [torch.load(folders / name / method / "weights.pt") for name in ("one", "two")]
    start = small_model().state_dict()
    assert max((value - start[name]).abs().max() for name, value in weights[0].items()) > 2e-3
    for name, value in weights[0].items():  # AdamW magnifies the last digits of the smallest gradients
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_groups_are_written_once_and_whole(folders, method):
    one, two = (read_jsonl(folders / name / method / "groups.jsonl") for name in ("one", "two"))
    assert len(one) == 2 * ROWS // GROUP
    for mine, other in zip(one, two, strict=True):
        assert other.pop("advantages") == pytest.approx(mine.pop("advantages"), abs=1e-5)
        assert other == mine


def test_the_generations_have_groups_of_every_fate(folders):
    """Otherwise the comparison would say less than it seems to."""
    lines = read_jsonl(folders / "two" / "ngrpo" / "groups.jsonl")
    assert {line["kept"] for line in lines} == {True, False}
    assert any("error" in line["kinds"] for line in lines)
    assert any(line["kept"] and not any(line["correct"]) for line in lines)
    assert any(line["kept"] and any(line["correct"]) for line in lines)
