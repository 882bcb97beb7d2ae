"""`ngrpo launch verl` without verl: what is translated, refused and written. tests/parity has verl itself."""

import json
import re
import socket
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from ngrpo import objectives
from ngrpo.cli import launch_command
from ngrpo.config import load_config, preset_names
from ngrpo.config.fields import field_table, section_of
from ngrpo.errors import CheckpointError, ConfigError, DataError, MissingExtraError, RewardError, RunFolderError
from ngrpo.integrations import verl_cluster, verl_launch, verl_status
from ngrpo.integrations.verl_config import LaunchFiles, Machines, hydra_arguments, translate
from ngrpo.integrations.verl_data import VERBATIM_TEMPLATE, write_prompts
from ngrpo.integrations.verl_keys import KEYS
from ngrpo.integrations.verl_methods import NO_DUAL_CLIP, VERL_OWN, filter_name, loss_of, support
from ngrpo.integrations.verl_reward import compute_score
from ngrpo.policy import load_tokenizer
from ngrpo.types import Prompt

PAGE = Path(__file__).parents[2] / "docs" / "integrations_verl.md"
PAPER = [name for name in preset_names() if name.startswith("paper/")]


def translated(source, *overrides):
    return translate(load_config(source, list(overrides)), LaunchFiles(Path("/runs/x")), Machines())


def invoke(*arguments):
    """The command; an error of ours is raised, as `main` would print it."""
    result = CliRunner().invoke(launch_command.app, ["verl", *arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


# Keys.


def test_every_key_of_a_run_file_has_a_fate():
    leaves = {key for key, info in field_table().items() if section_of(info) is None}
    assert leaves == KEYS.keys()


def test_every_fate_says_something():
    for key, fate in KEYS.items():
        assert (fate.keys and fate.fate == "translated") or (fate.why and fate.fate != "translated"), key


@pytest.mark.parametrize("preset", [*PAPER, "gpu_1x"])
def test_presets_for_gpus_translate(preset):
    assert translated(preset)["trainer.n_gpus_per_node"] == 8


def test_the_papers_run_by_hand():
    got = translated("paper/ngrpo")
    expected = {
        "algorithm.adv_estimator": "ngrpo", "+algorithm.ngrpo.virtual_reward": 1.0,
        "actor_rollout_ref.actor.clip_ratio_low": 0.16, "actor_rollout_ref.actor.clip_ratio_high": 0.24,
        "actor_rollout_ref.actor.clip_ratio_c": NO_DUAL_CLIP, "actor_rollout_ref.actor.ppo_mini_batch_size": 256,
        "+trainer.v1.sampler.sampler_kwargs.group_filter": "drop_all_correct", "data.train_batch_size": 1024,
    }  # fmt: skip
    assert {key: got[key] for key in expected} == expected


@pytest.mark.parametrize(
    ("overrides", "kind", "cap"),
    [
        ([], None, None),
        (["rollout.engine=vllm"], "token", 2.0),
        (["rollout.engine=vllm", "update.max_importance_weight=off"], None, None),
        (["update.max_importance_weight=1.5"], "token", 1.5),
    ],
)
def test_importance_weights_are_those_of_the_same_file_here(overrides, kind, cap):
    got, name = translated("gpu_1x", *overrides), "algorithm.rollout_correction"
    assert (got[f"{name}.rollout_is"], got.get(f"{name}.rollout_is_threshold")) == (kind, cap)
    assert got["actor_rollout_ref.rollout.name"] == "vllm"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["objective.name=lens"], "objective.name = 'lens': verl gives an estimator no old_logprobs. verl carries:"),
        (["objective.name=igrpo"], "objective.name = 'igrpo': it changes what is sampled"),
        (["objective.name=disco"], "each optimiser step needs a pass over all its rows first"),
        (["objective.name=dapo", "objective.params.mask_truncated=true"], "verl gives an estimator no is_truncated"),
        (["model.device=cpu"], "model.device = 'cpu': verl trains on all GPUs"),
        (["model.precision=float64"], "model.precision = 'float64'"),
        (["model.lora.alpha=0.5"], "model.lora.alpha = 0.5: verl takes a whole number"),
        (["data.max_prompt_tokens=none"], "data.max_prompt_tokens = None: verl sizes its batches by it"),
        (["rollout.engine=gold"], "rollout.engine = 'gold': verl samples with vLLM"),
        (["update.num_updates_per_step=3"], "update.num_updates_per_step = 3: .* rollout.num_prompts_per_step = 128"),
        (["update.max_microbatch_tokens=1000"], "max_microbatch_tokens = 1000: .* Set it to 1536 or more"),
        (["update.packing_window=8"], "update.packing_window = 8: verl packs by itself"),
        (["optim.schedule=linear"], "optim.schedule = 'linear': verl has constant and cosine"),
        (["reward.shaping=[{name='length', weight=0.1, params={budget_tokens=9, span_tokens=9}}]",
          "objective.name=grpo"], "reward.shaping = 'length': verl tells a judge no number of tokens"),
        (["objective.name=w_reinforce", "reward.shaping=[{name='one_box', weight=0.1}]"],
         "objective.name = 'w_reinforce': it reads the verifier's labels"),
    ],
)  # fmt: skip
def test_what_cannot_go_to_verl_is_refused_by_name(overrides, message):
    with pytest.raises(ConfigError, match=message):
        translated("gpu_1x", *overrides)


def test_all_refusals_come_at_once():
    with pytest.raises(ConfigError, match="3 settings cannot go to verl") as caught:
        translated("tiny")
    assert [line.split(" = ")[0].strip() for line in str(caught.value).splitlines()[1:]] == [
        "model.path", "model.device", "data.max_prompt_tokens",
    ]  # fmt: skip


def test_a_method_that_cannot_train_here_is_refused_as_ever():
    with pytest.raises(ConfigError, match="objective 'ppo' needs a critic"):
        translated("gpu_1x", "objective.name=ppo")


# The command.


def test_dry_run_prints_the_command_and_writes_nothing(tmp_path):
    result = invoke("paper/ngrpo", f"run.dir={tmp_path}", "--dry-run", "--gpus", "4", "--verl", "data.seed=9")
    lines = [line.strip(" \\") for line in result.stdout.splitlines()]
    assert lines[0] == "python -m verl.trainer.main_ppo"
    assert "trainer.n_gpus_per_node=4" in lines
    assert lines[-1] == "data.seed=9"  # the user's own come last, and win
    assert "actor_rollout_ref.actor.clip_ratio_low=0.16" in lines
    assert not list(tmp_path.iterdir())


def test_a_setting_of_verls_that_sets_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"--verl 'data\.seed' sets nothing\. Give KEY=VALUE"):
        invoke("paper/ngrpo", "--dry-run", "--verl", "data.seed")
    assert invoke("paper/ngrpo", "--dry-run", "--verl", "~data.seed").stdout.rstrip().endswith("'~data.seed'")


def test_keys_prints_what_becomes_of_each():
    lines = invoke("paper/ngrpo", "--keys").stdout.splitlines()
    assert "optim.lr\ttranslated\tactor_rollout_ref.actor.optim.lr" in lines
    assert any(line.startswith("refill.max_empty_steps\tnot applicable\t") for line in lines)
    assert not any(line.startswith("critic.") for line in lines)


def test_without_verl_it_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(verl_status, "_version", lambda name: None)
    with pytest.raises(MissingExtraError, match=re.escape('pip install "ngrpo[verl]"')):
        invoke("paper/ngrpo", f"run.dir={tmp_path}")
    assert not list(tmp_path.iterdir())
    assert verl_status.verl_status() == []


@pytest.fixture
def with_verl(monkeypatch):
    """verl as it would be, for what is asked before it starts."""
    monkeypatch.setattr(verl_status, "_version", lambda name: verl_status.TESTED)
    monkeypatch.setattr(verl_status, "plugin_complaint", lambda: None)


def test_without_vllm_it_says_where_it_is_wanted(tmp_path, with_verl):
    with pytest.raises(MissingExtraError, match=r"vllm is not installed: .* pip install .* Or give --ray-address"):
        invoke("paper/ngrpo", f"run.dir={tmp_path}")
    assert not list(tmp_path.iterdir())


def test_another_version_of_verl_is_refused_by_name(monkeypatch):
    monkeypatch.setattr(verl_status, "_version", lambda name: "0.12.0")
    with pytest.raises(ConfigError, match=rf"verl 0\.12\.0 is installed, .* pip install verl=={verl_status.TESTED}"):
        verl_status.require_verl()


def test_several_nodes_need_a_cluster_and_a_cluster_an_answer(tmp_path, with_verl):
    with pytest.raises(ConfigError, match="--nodes 2 needs a Ray cluster"):
        invoke("paper/ngrpo", "--nodes", "2", "--dry-run")
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]  # bound and not listening: nobody answers
        with pytest.raises(ConfigError, match=f"no Ray cluster answers at 127.0.0.1:{port}"):
            invoke("paper/ngrpo", f"run.dir={tmp_path}", "--ray-address", f"127.0.0.1:{port}")
        listener.listen()
        verl_cluster.check_address(f"ray://127.0.0.1:{port}")
    for address in ("head", "head:", ":6379", "head:99999", "ray://head"):
        with pytest.raises(ConfigError, match=f"--ray-address '{address}' is none"):
            verl_cluster.check_address(address)


def test_a_models_folder_is_absolute_for_workers_and_a_hub_name_stays(tmp_path, monkeypatch):
    (tmp_path / "my/model").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    key = "actor_rollout_ref.model.path"
    assert translated("gpu_1x", "model.path=my/model")[key] == str(tmp_path / "my/model")
    assert translated("gpu_1x", "model.path=Org/name")[key] == "Org/name"


# The run folder.

ROWS = [
    {"problem": "1,2,3=6:", "answer": "6"},
    {"problem": "3,5,7,2=14:", "answer": "1/2"},
    {"problem": "9,9,9=81:", "answer": "3"},
]


@pytest.fixture
def run(tmp_path, model_folder):
    """A small run on a file of three rows: its configuration."""
    data = tmp_path / "rows.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    def configured(*overrides):
        return load_config(
            "gpu_1x",
            [
                f"run.dir={tmp_path}/runs", f"model.path={model_folder}", f"data.source={data}", "data.subset=none",
                "data.template=none", "data.system_prompt=none", "data.max_prompt_tokens=30", "validation=none",
                "rollout.max_completion_tokens=20", "rollout.num_prompts_per_step=2", "update.num_updates_per_step=1",
                *overrides,
            ],
        )  # fmt: skip

    return configured


def prepared(config):
    return verl_launch.prepare(config, verl_launch.arguments_for(config, Machines()), resume=False)


def test_the_run_folder_has_data_judge_and_command(run):
    config = run()
    script = prepared(config)
    folder = script.parent
    assert sorted(file.name for file in folder.iterdir()) == ["launch.sh", "reward.json", "run.toml", "train.parquet"]
    assert load_config(folder / "run.toml") == config
    rows = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()
    assert [row["prompt"] for row in rows] == [[{"role": "user", "content": row["problem"]}] for row in ROWS]
    assert [row["reward_model"] for row in rows] == [{"style": "rule", "ground_truth": row["answer"]} for row in ROWS]
    assert rows[0]["data_source"] == config.data.source
    assert (rows[1]["extra_info"]["index"], rows[1]["extra_info"]["columns"]) == (1, "")


def test_the_script_runs_the_very_arguments(run, tmp_path, monkeypatch):
    """A stand-in for Python that prints what it was given."""
    stand_in = tmp_path / "python"
    stand_in.write_text('#!/bin/sh\nfor each in "$@"; do printf "%s\\n" "$each"; done\nexit 3\n')
    stand_in.chmod(0o755)
    monkeypatch.setattr(verl_launch.sys, "executable", str(stand_in))
    config = run("run.name='a b'")
    script = prepared(config)
    done = subprocess.run(["/bin/sh", str(script), "trainer.nnodes=1"], capture_output=True, text=True, check=False)
    expected = ["-m", verl_launch.MAIN, *verl_launch.arguments_for(config, Machines()), "trainer.nnodes=1"]
    assert done.stdout.splitlines() == expected


def test_the_command_takes_the_place_of_the_launch(tmp_path):
    """So that a signal for the launch is verl's, and verl's exit code the launch's."""
    (tmp_path / "launch.sh").write_text("echo $$\nexit 3\n")
    code = f"from ngrpo.integrations.verl_launch import start; start({str(tmp_path / 'launch.sh')!r})"
    started = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    out, _ = started.communicate()
    assert (int(out), started.returncode) == (started.pid, 3)


def test_a_folder_that_is_taken_and_one_that_is_not_there(run):
    config = run()
    arguments = verl_launch.arguments_for(config, Machines())
    with pytest.raises(RunFolderError, match=r"holds no run of verl: it has no train\.parquet"):
        verl_launch.prepare(config, arguments, resume=True)
    script = prepared(config)
    before = (script.parent / "train.parquet").stat().st_mtime_ns
    with pytest.raises(RunFolderError, match="exists already"):
        prepared(config)
    verl_launch.prepare(config, [*arguments, "trainer.total_training_steps=9"], resume=True)
    assert "trainer.total_training_steps=9" in script.read_text()
    assert (script.parent / "train.parquet").stat().st_mtime_ns == before


def test_a_run_goes_on_with_its_own_settings_but_for_those_that_may_change(run):
    """Prompts are not written again: another template would be in run.toml and nowhere else."""
    folder = prepared(run()).parent
    before = (folder / "run.toml").read_text()
    for change, said in (("data.template='{prompt}!'", "data.template"), ("reward.profile=lenient", "reward.profile")):
        config = run(change)
        with pytest.raises(CheckpointError, match=f"was started with other settings:\n  {re.escape(said)}: "):
            verl_launch.prepare(config, [], resume=True)
    assert (folder / "run.toml").read_text() == before
    verl_launch.prepare(run("reward.timeout_s=9", "train.num_steps=99"), [], resume=True)
    assert json.loads((folder / "reward.json").read_text())["reward"]["timeout_s"] == 9
    assert load_config(folder / "run.toml").train.num_steps == 99


def test_too_few_prompts_for_a_step(run):
    config = run("rollout.num_prompts_per_step=4")
    with pytest.raises(DataError, match=r"has 3 prompts, fewer than rollout.num_prompts_per_step = 4"):
        prepared(config)
    assert not list(verl_launch.absolute_folder(config).iterdir())  # so that the mended command can use the folder


def test_validation_has_a_file_of_its_own(run):
    config = run()
    data = config.data.model_copy(update={"limit": 1})
    with_validation = load_config("gpu_1x").validation.model_copy(update={"data": data})
    folder = prepared(config.model_copy(update={"validation": with_validation})).parent
    rows = pyarrow.parquet.read_table(folder / "validation.parquet").to_pylist()
    assert [row["extra_info"]["split"] for row in rows] == ["validation"]
    assert json.loads((folder / "reward.json").read_text())["data"]["validation"]["limit"] == 1


# The judge, as verl's workers call it.


def judged(folder, answer, gold, **info):
    return compute_score("x", answer, gold, {"split": "train", **info}, settings=str(folder / "reward.json"))


def test_the_judge_gives_value_and_label_apart(run):
    folder = prepared(run("reward.shaping=[{name='one_box', weight=0.25}]", "objective.name=grpo")).parent
    assert judged(folder, r"so \boxed{0.5}", "1/2", id="7") == {
        "score": 1.25, "acc": 1.0, "failed": 0.0, "prompt_id": "7",
    }  # fmt: skip
    assert judged(folder, r"\boxed{2}", "1/2")["acc"] == 0.0
    assert judged(folder, "no answer", "1/2") == {"score": 0.0, "acc": 0.0, "failed": 0.0, "prompt_id": ""}


def test_a_function_of_the_users_gets_its_row(run, tmp_path, monkeypatch):
    (tmp_path / "mine.py").write_text(
        "def score(prompts, completions, golds, rows):\n"
        "    return [(0.5, row['answer'] == text) for row, text in zip(rows, completions)]\n"
    )
    monkeypatch.chdir(tmp_path)
    folder = prepared(run("reward.name='mine.py:score'", "objective.name=grpo")).parent
    monkeypatch.chdir("/")  # a worker's working folder is another
    row = pyarrow.parquet.read_table(folder / "train.parquet").to_pylist()[0]
    outcome = compute_score("x", "6", "6", row["extra_info"], settings=str(folder / "reward.json"))
    assert (outcome["score"], outcome["acc"]) == (0.5, 1.0)
    with pytest.raises(RewardError, match="answer"):
        judged(folder, "6", "6")  # without its row


def test_a_worker_that_cannot_see_the_run_folder_says_so():
    with pytest.raises(ConfigError, match=r"/nowhere/reward\.json cannot be read here .* every node"):
        compute_score("x", "1", "1", {}, settings="/nowhere/reward.json")


def test_a_prompt_that_verl_would_read_otherwise_is_refused(run):
    config = run()
    tokenizer = load_tokenizer(config.model.path)
    odd = Prompt("0", "1,2=3:", (5, 5, 5), "3", "rows.jsonl row 0")
    with pytest.raises(DataError, match=r"rows\.jsonl row 0 would have other tokens in verl"):
        write_prompts((odd,), Path("x"), data=config.data, reward=config.reward, split="train", tokenizer=tokenizer)


def test_the_template_that_verl_is_given_changes_nothing(run):
    tokenizer = load_tokenizer(run().model.path)
    for text in (" a\n\n", "{% if %}{{ x }}", "<|im_start|>assistant\n"):
        chat = [{"role": "user", "content": text}]
        given = tokenizer.apply_chat_template(
            chat, chat_template=VERBATIM_TEMPLATE, tokenize=False, add_generation_prompt=True
        )
        assert given == text


# The page.


def test_the_page_lists_every_method_as_it_is():
    rows = re.findall(r"^\| `(\w+)` \| (.*) \| (.*) \|$", PAGE.read_text(encoding="utf-8"), re.M)
    assert rows == [method_row(name) for name in objectives.names()]


def method_row(name):
    """Method; what verl is told; what differs, or why not."""
    found = support(name)
    if found.obstacles:
        return (name, "not", "; ".join(found.obstacles))
    params = {each.name: 0.5 for each in objectives.describe(name).parameters if each.is_required}
    loss = loss_of(objectives.get(name, **params)).loss_mode
    whose = ", verl's own" if name in VERL_OWN else ""
    kinds = filter_name(objectives.get(name, **params))
    told = f"`{found.estimator}`{whose}, loss `{loss}`" + ("" if kinds == "keep_all" else f", `{kinds}`")
    return (name, told, "; ".join(found.differences) or "same")


def test_the_page_has_the_command_for_the_papers_run():
    text = PAGE.read_text(encoding="utf-8")
    assert "ngrpo launch verl paper/ngrpo --gpus 8" in text
    assert f"verl {verl_status.TESTED}" in text


def key_row(key):
    fate = KEYS[key]
    told = "; ".join(part for part in (", ".join(f"`{name}`" for name in fate.keys), fate.why) if part)
    return f"| `{key}` | {fate.fate} | {told} |"


def test_the_page_lists_every_key():
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    table = lines[lines.index("| key | fate | in verl |") + 2 :]
    rows = [key_row(key) for key in KEYS if not key.startswith("validation.data.")]
    assert table[: len(rows)] == rows


def test_arguments_are_quoted_for_hydra():
    got = hydra_arguments({"a": "x", "b": "it's", "c": {"d": [1, "y z"]}, "e": 1e-6, "f": "true", "g": "end\\"})
    assert got == ["a=x", r"b='it\'s'", "c={d:[1,'y z']}", "e=1e-06", "f='true'", "g='end\\\\'"]
