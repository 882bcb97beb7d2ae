"""What tests of whole runs share: settings of a run of a second or two, how to start it, and how two runs compare."""

import json
import signal
import textwrap
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from ngrpo.config import RunConfig, load_config
from ngrpo.train import TrainingRun, assemble, train

# A barely trained base gets next to nothing right: this reward makes groups of all kinds.
REWARD_FILE = textwrap.dedent('''
    def has_times(completions, **_):
        """Right when there is a product in it."""
        return [float("*" in text) for text in completions]
''')

SHORT_RUN = (
    "data.size=24",
    "rollout.num_prompts_per_step=4",
    "rollout.num_samples_per_prompt=4",
    "rollout.max_completion_tokens=10",
    "update.num_updates_per_step=2",
    "optim.lr=1e-3",
    "optim.warmup_steps=1",
    "refill.max_batches=2",
    "train.num_steps=5",
    "validation.every_steps=2",
    "validation.num_samples=2",
    "validation.data.size=4",
    "checkpoint.every_steps=2",
    "record.tensorboard=false",
)


def write_reward(folder: Path) -> str:
    """Writes the reward function and returns its `reward.name`."""
    (folder / "reward.py").write_text(REWARD_FILE)
    return f"{folder / 'reward.py'}:has_times"


def settings(runs: Path, base: Path, *overrides: str) -> list[str]:
    """The arguments of `ngrpo train` for a short run `run` below `runs`."""
    runs.mkdir(parents=True, exist_ok=True)
    own = (f"run.dir={runs}", "run.name=run", f"model.path={base}", f"reward.name={write_reward(runs.parent)}")
    return [*own, *SHORT_RUN, *overrides]


def short_config(runs: Path, base: Path, *overrides: str) -> RunConfig:
    return load_config("tiny", settings(runs, base, *overrides))


def run_to_end(config: RunConfig, *, resume: bool = False) -> TrainingRun:
    """Trains in this process, and returns what is left of the run."""
    run = assemble(config, resume=resume)
    try:
        train(run, on_step=lambda _: None)
    finally:
        run.close()
    return run


def forbid_models(monkeypatch) -> None:
    """Makes the test fail where a model is loaded."""
    import transformers

    def fail(*_, **__):
        pytest.fail("a model was loaded")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_pretrained", fail)


def stop_at(step: int, number: signal.Signals = signal.SIGINT):
    """An `on_step` that sends this process a signal once so many steps are done."""

    def on_step(done: int) -> None:
        if done == step:
            signal.raise_signal(number)

    return on_step


def records(folder: Path) -> dict[str, Any]:
    """What a run left on disk, but for times: what must be equal where two runs are said to be."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "metrics": [{name: row[name] for name in row if not name.startswith("time/")} for row in metrics],
        "groups": (folder / "groups.jsonl").read_text(),
        "samples": (folder / "samples.jsonl").read_text(),
    }


def newest(folder: Path) -> Path:
    return max((folder / "checkpoints").glob("step_*"))


def assert_same_run(one: Path, other: Path) -> None:
    """Weights, optimiser state, where the run is, and records: all bit for bit."""
    assert records(one) == records(other)
    assert_same_checkpoint(newest(one), newest(other))


def assert_same_checkpoint(one: Path, other: Path) -> None:
    assert one.name == other.name
    assert json.loads((one / "trainer.json").read_text()) == json.loads((other / "trainer.json").read_text())
    names = {path.name for path in one.glob("*.safetensors")}
    assert names == {path.name for path in other.glob("*.safetensors")} != set()
    for name in names:
        assert_same_tensors(load_file(one / name), load_file(other / name))
    states = [torch.load(folder / "optimizer.pt", weights_only=True) for folder in (one, other)]
    assert states[0]["param_groups"] == states[1]["param_groups"]
    assert states[0]["state"].keys() == states[1]["state"].keys() != set()
    for index, state in states[0]["state"].items():
        assert_same_tensors(state, states[1]["state"][index])


def assert_same_tensors(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


def weights_of(run: TrainingRun) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().clone() for name, tensor in run.policy.model.state_dict().items()}
