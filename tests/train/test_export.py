"""A clean folder out of a run: it loads, computes what the run computed, and appears whole or not at all."""

import json
import shutil

import pytest
import torch
from run_helpers import newest, run_to_end, short_config
from transformers import AutoModelForCausalLM, AutoTokenizer

from helpers import make_prompts
from ngrpo.errors import CheckpointError, ModelError, RunFolderError
from ngrpo.train.export import choose_checkpoint, export_model


@pytest.fixture(scope="module")
def finished(base, tmp_path_factory):
    return run_to_end(short_config(tmp_path_factory.mktemp("finished") / "runs", base, "run.name=a [b] run"))


@pytest.fixture(scope="module")
def adapted(base, tmp_path_factory):
    pytest.importorskip("peft")
    overrides = ["model.lora.rank=4", "optim.lr=1e-2", "validation=none"]
    return run_to_end(short_config(tmp_path_factory.mktemp("adapted") / "runs", base, *overrides))


def logits(model):
    prompts = [torch.tensor([prompt.token_ids]) for prompt in make_prompts()]
    with torch.no_grad():
        return [model.eval()(ids).logits for ids in prompts]


def test_the_exported_model_computes_what_the_run_computed(finished, tmp_path):
    assert export_model(finished.folder, tmp_path / "model", step="last") == newest(finished.folder)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "model")
    for one, other in zip(logits(model), logits(finished.policy.model), strict=True):
        assert torch.equal(one, other)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    text = "3,5,7,2=14:"
    assert tokenizer.decode(tokenizer.encode(text)) == text


def test_only_what_a_model_needs_is_exported(finished, tmp_path):
    export_model(finished.folder, tmp_path / "model", step="last")
    names = {path.name for path in (tmp_path / "model").iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "README.md"} <= names
    assert not names & {"optimizer.pt", "trainer.json"}
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_an_adapter_is_merged_into_its_base(adapted, base, tmp_path):
    export_model(adapted.folder, tmp_path / "model", step="last")
    assert not (tmp_path / "model" / "adapter_config.json").exists()
    merged = logits(AutoModelForCausalLM.from_pretrained(tmp_path / "model"))
    trained, before = logits(adapted.policy.model), logits(AutoModelForCausalLM.from_pretrained(base))
    for one, other, untrained in zip(merged, trained, before, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
        assert (other - untrained).abs().max() > 0.01


def test_an_adapter_whose_base_is_gone_is_said(adapted, tmp_path):
    run = shutil.copytree(adapted.folder, tmp_path / "run")
    described = json.loads((run / "run.json").read_text())
    described["config"]["model"]["path"] = str(tmp_path / "gone")
    (run / "run.json").write_text(json.dumps(described))
    with pytest.raises(ModelError, match=r"no model folder at '.*gone'"):
        export_model(run, tmp_path / "model", step="last")
    assert not (tmp_path / "model").exists()


def test_a_step_by_number_the_best_and_the_last(finished, tmp_path):
    checkpoints = finished.folder / "checkpoints"
    assert choose_checkpoint(checkpoints, "last").name == "step_000005"
    assert choose_checkpoint(checkpoints, "4").name == "step_000004"
    if finished.state.best_step > 0:
        assert choose_checkpoint(checkpoints, "best").name == f"step_{finished.state.best_step:06d}"


def set_best(folder, step):
    file = folder / "step_000005" / "trainer.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "best_step": step}))


@pytest.mark.parametrize(
    ("best_step", "step", "message"),
    [
        (4, "3", r"has no checkpoint of step 3 \(--step 3\)\. It has: .*4, 5"),
        (3, "best", r"has no checkpoint of step 3 \(--step best\)"),
        (-1, "best", r"has no validation that says which is best"),
        (0, "best", r"no checkpoint is better on validation than the model trained from"),
        (4, "newest", r"--step 'newest' must be last, best, or a step number"),
        (4, "-1", r"--step '-1' must be last, best, or a step number"),
    ],
)
def test_a_step_that_is_not_there_is_said(finished, tmp_path, best_step, step, message):
    checkpoints = shutil.copytree(finished.folder / "checkpoints", tmp_path / "checkpoints")
    shutil.rmtree(checkpoints / "step_000003", ignore_errors=True)
    set_best(checkpoints, best_step)
    with pytest.raises(CheckpointError, match=message):
        choose_checkpoint(checkpoints, step)


def test_the_best_is_found(finished, tmp_path):
    checkpoints = shutil.copytree(finished.folder / "checkpoints", tmp_path / "checkpoints")
    set_best(checkpoints, 4)
    assert choose_checkpoint(checkpoints, "best").name == "step_000004"


def test_nothing_to_export(tmp_path, finished):
    with pytest.raises(RunFolderError, match=r"nothing holds no run: its run\.json cannot be read"):
        export_model(tmp_path / "nothing", tmp_path / "model", step="last")
    (tmp_path / "started").mkdir()
    shutil.copy(finished.folder / "run.json", tmp_path / "started")
    with pytest.raises(CheckpointError, match=r"there is no complete checkpoint in .*started"):
        export_model(tmp_path / "started", tmp_path / "model", step="last")


def test_damaged_records_are_said(finished, tmp_path):
    run = shutil.copytree(finished.folder, tmp_path / "run")
    (run / "metrics.jsonl").write_text("[1]\n")
    with pytest.raises(RunFolderError, match=r"records in .*run cannot be read"):
        export_model(run, tmp_path / "model", step="last")


@pytest.mark.parametrize("kind", ["folder", "file"])
def test_what_exists_is_left_alone(finished, tmp_path, kind):
    (tmp_path / "there").mkdir() if kind == "folder" else (tmp_path / "there").write_text("mine")
    with pytest.raises(RunFolderError, match=r"there exists already\. Give another folder with --to"):
        export_model(finished.folder, tmp_path / "there", step="last")


def test_a_place_that_cannot_be_written_is_said(finished, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write .*Give another folder with --to"):
        export_model(finished.folder, tmp_path / "file" / "model", step="last")


def test_an_export_that_was_killed_leaves_no_trace_in_the_next(finished, tmp_path):
    (tmp_path / ".writing_model").mkdir()
    (tmp_path / ".writing_model" / "junk").write_text("")
    export_model(finished.folder, tmp_path / "deep" / "model", step="last")
    export_model(finished.folder, tmp_path / "model", step="last")
    assert not (tmp_path / "model" / "junk").exists()


def test_the_card_says_how_it_was_made(finished, base, tmp_path):
    export_model(finished.folder, tmp_path / "model", step="4")
    card = (tmp_path / "model" / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: transformers\n")
    row = next(
        row
        for row in map(json.loads, (finished.folder / "metrics.jsonl").read_text().splitlines())
        if row["step"] == 4 and "validation/pass_at_1" in row
    )
    for fact in (
        f"base_model: {json.dumps(str(base))}",
        "# a [b] run, step 4",
        "- objective: `ngrpo` {}",
        "- data: `countdown`, 24 prompts",
        "- 4 rollout steps of 4 prompts x 4 completions at temperature 1.0, 2 updates each, learning rate 0.001",
        f"pass@1 {row['validation/pass_at_1']:.4f} with 2 samples per prompt at temperature 1.0, on world:countdown",
    ):
        assert fact in card
