"""`ngrpo lab gradients`: what its options become, and what is refused before anything is loaded."""

import json

import pytest
import typer
from typer.testing import CliRunner

from ngrpo.cli.lab_gradients import gradients
from ngrpo.errors import ConfigError

app = typer.Typer(rich_markup_mode="markdown")
app.command()(gradients)


def run(*arguments):
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "100"})


def test_tables_of_100_columns_and_a_folder(model_folder, tmp_path):
    data = tmp_path / "sums.jsonl"
    rows = [{"prompt": f"{a},{b},1=9:", "gold": str(a), "way": f"{a}*{b}"} for a in range(1, 5) for b in (2, 3)]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    done = run(
        "--model", model_folder, "--data", data, "--groups", 3, "--group-size", 2, "--max-prompts", 6, "--parts", 3,
        "--max-completion-tokens", 6, "--method", "ngrpo:num_virtual=2", "--method", "grpo", "--gold-column", "way",
        "--folder", tmp_path / "out", "--device", "cpu", "reward.name=exact",
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert max(map(len, done.stdout.splitlines()[:-1])) <= 100
    for words in ("Gradient norms", "ngrpo:num_virtual=2", "What one update does", "3 of 3"):
        assert words in done.stdout
    told = json.loads((tmp_path / "out" / "gradients.json").read_text())
    assert (told["group_size"], told["lr"], told["num_parts"]) == (2, 1e-6, 3)  # no tiny world: a run file's rate
    assert told["methods"][0]["params"] == {"num_virtual": 2}
    assert told["sgd_norm"] == pytest.approx(1e-6 * told["num_parameters"] ** 0.5)
    assert any(change["of"] == "gold of all_wrong" for each in told["effects"] for change in each["changes"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "my/model"], "--data has to say"),
        (["--method", "ppo"], "needs a critic"),
        (["--sgd-norm", "0"], "--sgd-norm must be"),
        (["optim.lr=1"], "cannot be set here"),
        (["data.sise=3"], "data.sise"),
        (["--temperature", "0"], "rollout.temperature"),
        (["--lr", "-1"], "optim.lr"),
        (["reward.choices=AB"], "has no effect"),
        (["--model", "world:nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_refused_before_a_base_is_built(arguments, message, monkeypatch):
    monkeypatch.setattr("ngrpo.cli.models.local_model", lambda _: pytest.fail("a base was built"))
    done = run(*arguments)
    assert done.exit_code != 0
    assert message in str(done.exception)
    if "nowhere" not in message:
        assert isinstance(done.exception, ConfigError)


def test_help_has_examples():
    done = run("--help")
    assert "ngrpo lab gradients --model Qwen/Qwen2.5-0.5B --data math.jsonl --groups 16" in " ".join(
        done.stdout.replace("│", " ").split()
    )
