"""`gradients.json`, whole: what its docstring promises, on groups of every and of one kind, of any size and model."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from gradient_helpers import (
    SIX,
    TEMPERATURE,
    config_of,
    cosine_of,
    exact_policy,
    make_groups,
    measured,
    norm_of,
)

from helpers import small_policy
from ngrpo.errors import ConfigError, RunFolderError
from ngrpo.lab.gradient_measure import spread
from ngrpo.lab.gradient_products import cosine
from ngrpo.lab.gradient_tables import as_rich, number, tables
from ngrpo.lab.gradients import GradientOptions, run_gradients
from ngrpo.policy.load import _with_adapter

NAMES = ("all_wrong", "mixed", "all_right", "natural")


@pytest.fixture(scope="module")
def policy():
    return small_policy()


def kinds_there(told):
    return {each["name"] for each in told["batches"] if each["num_groups"]}


def no_nan(value):
    """JSON that any reader takes: neither NaN nor infinity."""
    return json.loads(json.dumps(value, allow_nan=False))


def dressed(told):
    """With what `run_gradients` adds, so that tables can be made."""
    for batch in told["batches"]:
        batch["num_wanted"] = 9
    added = {"model": "m", "data": "d", "temperature": 0.7, "group_size": 4, "seed": 0, "num_parts": 2, "lr": 1e-4}
    labels = dict.fromkeys(each["method"] for each in told["norms"])
    return {**added, **told, "methods": [{"label": label} for label in labels]}


@pytest.mark.parametrize(
    ("labels", "there"),
    [
        ([[0] * 4] * 3, {"all_wrong", "natural"}),
        ([[1, 0, 0, 0], [1] * 4], {"mixed", "all_right", "natural"}),
        ([[0, 0], [1, 0]], {"all_wrong", "mixed", "natural"}),
        ([[1, 1]], {"all_right", "natural"}),
    ],
)
def test_whatever_kinds_of_group_there_are(policy, tmp_path, labels, there):
    groups = make_groups(exact_policy(), labels)
    told = no_nan(measured(policy, groups, tmp_path))
    assert kinds_there(told) == there
    assert {each["batch"] for each in told["norms"]} == {each["batch"] for each in told["effects"]} == there
    assert len(told["norms"]) == 6 * len(there)
    assert len(told["cosines"]) == 6 * len(there) * (6 * len(there) - 1) / 2
    for batch in there - {"natural"}:
        for method in SIX:
            is_zero = {
                "all_wrong": method in ("grpo", "dapo", "psr"),
                "all_right": method in ("grpo", "dapo", "ngrpo", "nsr"),
            }.get(batch, False)
            assert (norm_of(told, method, batch)["whole"] == 0.0) is is_zero, (method, batch)
            effects = [each for each in told["effects"] if (each["method"], each["batch"]) == (method, batch)]
            assert [each["is_zero"] for each in effects] == [is_zero] * 2
            assert all(bool(each["changes"]) is not is_zero for each in effects)
    for table in tables(dressed(told)):
        assert as_rich(table).renderables[1].row_count == len(table.rows) > 0
        assert "group size 4, temperature 0.7, seed 0" in table.caption
        assert "m on d; groups: " in table.caption
    assert not list(tmp_path.iterdir())  # the gradients themselves are not kept


def test_groups_of_one(policy, tmp_path):
    groups = make_groups(exact_policy(), [[0], [1], [0]])
    told = no_nan(measured(policy, groups, tmp_path, methods=("ngrpo", "nsr")))
    assert kinds_there(told) == {"all_wrong", "all_right", "natural"}
    assert told["virtual"] == []  # without the virtual sample there is no standard deviation
    # A = (0 - 1/2) / sqrt(1/2) = -1/sqrt(2) of a failure beside a virtual success.
    ratio = norm_of(told, "ngrpo", "all_wrong")["whole"] / norm_of(told, "nsr", "all_wrong")["whole"]
    assert ratio == pytest.approx(2**-0.5, rel=1e-5)


def test_one_part_has_no_interval_and_establishes_nothing(policy, tmp_path):
    groups = make_groups(exact_policy())
    told = measured(policy, groups, tmp_path, methods=("grpo", "ngrpo"), num_parts=1)
    for entry in (*told["norms"], *told["cosines"]):
        assert (entry["low"], entry["high"], entry["established"]) == (None, None, None)
    entry = norm_of(told, "ngrpo", "mixed")
    assert entry["estimate"] == pytest.approx(entry["whole"], rel=1e-6)


def test_more_parts_than_groups_are_as_many_as_groups(policy, tmp_path):
    told = measured(policy, make_groups(exact_policy()), tmp_path, methods=("ngrpo",), num_parts=5)
    assert {each["name"]: each["num_parts"] for each in told["batches"]} == {
        "all_wrong": 3, "mixed": 2, "all_right": 1, "natural": 5}  # fmt: skip
    assert cosine_of(told, ("ngrpo", "all_wrong"), ("ngrpo", "mixed"))["num_parts"] == 2


def test_the_virtual_samples_share_of_the_gradient(policy, tmp_path):
    told = measured(policy, make_groups(exact_policy()), tmp_path, methods=("ngrpo", "grpo"))
    share = {each["batch"]: each for each in told["virtual"]}
    assert set(share) == set(NAMES)
    assert share["all_wrong"]["gradient_frac"] == 1.0  # there is nothing else
    assert share["all_right"]["gradient_frac"] is None
    one, other = (norm_of(told, method, "mixed")["whole"] for method in ("ngrpo", "grpo"))
    product = cosine_of(told, ("ngrpo", "mixed"), ("grpo", "mixed"))["whole"] * one * other
    expected = (one**2 - 2 * product + other**2) ** 0.5 / one
    assert share["mixed"]["gradient_frac"] == pytest.approx(expected, rel=1e-4)
    assert share["mixed"]["gradient_without"] == "grpo"
    alone = measured(policy, make_groups(exact_policy()), tmp_path, methods=("ngrpo",))
    assert {each["gradient_without"] for each in alone["virtual"]} == {None}


def test_arithmetic_in_bfloat16(policy, tmp_path):
    groups = make_groups(exact_policy())
    half = measured(replace(policy, autocast_dtype=torch.bfloat16), groups, tmp_path, methods=("grpo", "ngrpo"))
    # What the sampler said is not what this arithmetic says: old log-probabilities are taken again, as in training.
    others = [
        replace(
            group,
            completions=tuple(replace(each, logprobs=(-9.0,) * len(each.logprobs)) for each in group.completions),
        )
        for group in groups
    ]
    again = measured(replace(policy, autocast_dtype=torch.bfloat16), others, tmp_path, methods=("grpo", "ngrpo"))
    assert again["norms"] == half["norms"]
    full = measured(policy, groups, tmp_path, methods=("grpo", "ngrpo"))
    for one, other in zip(half["norms"], full["norms"], strict=True):
        assert one["whole"] == pytest.approx(other["whole"], rel=0.05)
        assert one["whole"] != other["whole"] or one["whole"] == 0


def test_an_adapter_has_gradients_of_its_own_weights_alone(tmp_path):
    pytest.importorskip("peft")
    policy = small_policy()
    before = {name: tensor.clone() for name, tensor in policy.model.state_dict().items()}
    policy.model = _with_adapter(policy.model, None, rank=2, alpha=4.0, target_modules="all-linear").eval()
    told = measured(policy, make_groups(exact_policy()), tmp_path, methods=("grpo", "ngrpo"))
    trainable = policy.trainable_parameters()
    assert told["num_parameters"] == sum(each.numel() for each in trainable) < sum(map(torch.numel, before.values()))
    assert {each["part"] for each in told["layers"]} == {"attention", "feed_forward"}
    # Matrix B of a new adapter is zero: A has no gradient yet.
    assert norm_of(told, "ngrpo", "all_wrong")["whole"] > 0


def test_a_spread_by_hand():
    """Of 1, 2 and 3: mean 2, standard error 1/sqrt(3), Student's t of two degrees 4.30265."""
    told = spread(1.5, 1.25, [1.0, 2.0, 3.0], least=-10, most=10)
    half = pytest.approx(4.30265 / 3**0.5, rel=1e-5)
    assert (2.0 - told.pop("low"), told.pop("high") - 2.0) == (half, half)
    assert told == {"whole": 1.5, "expected": 1.25, "num_parts": 3, "estimate": 2.0, "established": False}
    assert spread(0.9, None, [0.8, 0.9], least=-1, most=1)["high"] == 1
    assert spread(0.9, None, [0.90, 0.91], least=-1, most=1)["established"] is True


def test_a_cosine_of_estimates_that_contradict_each_other_is_unknown():
    products = np.array([[1.0, 2.1, 0.5], [2.1, 4.0, 0.0], [0.5, 0.0, -0.1]])
    assert cosine(products, 0, 1) is None  # 2.1 / 2 is above 1
    assert cosine(products, 0, 2) is None  # a length squared below 0
    assert cosine(np.array([[1.0, 2.0], [2.0, 4.0]]) * (1 + 1e-12), 0, 1) == 1.0


def test_numbers_as_text():
    assert [number(each, signed=True) for each in (0.12345, -2.0, 0.0, 1e-7)] == ["+0.123", "-2", "0", "+1e-07"]


# The whole of it, from a folder of a model.


@pytest.fixture
def ask(model_folder, tmp_path):
    def run(folder="out", *, overrides=(), model=None, **options):
        config = config_of(
            f"model.path={model or model_folder}", "rollout.max_rows=16", "data.size=40",
            "rollout.max_completion_tokens=8",
            *overrides, group_size=2,
        )  # fmt: skip
        asked = {"methods": ("grpo", "ngrpo"), "num_groups": 4, "max_prompts": 12, "num_parts": 2, **options}
        return run_gradients(tmp_path / folder, config, GradientOptions(**asked), model="small", command=["ngrpo"])

    return run


def test_the_folder_and_the_same_command_again(ask, tmp_path, monkeypatch):
    told = ask()
    out = tmp_path / "out"
    assert {path.name for path in out.iterdir()} == {"experiment.json", "sampled.jsonl", "gradients.json", "results.md"}
    assert json.loads((out / "gradients.json").read_text()) == no_nan(told)
    described = json.loads((out / "experiment.json").read_text())
    assert (described["kind"], described["world"], described["runs"]) == ("gradients", "countdown", [])
    assert described["settings"]["sampled"]["temperature"] == TEMPERATURE
    assert {"held_equal", "versions", "command"} <= described.keys()
    # Noise is never right: there is one kind of group, and gold completions to look at.
    assert told["census"] == {"all_wrong": 12, "mixed": 0, "all_right": 0, "failed": 0, "groups": 12}
    of = {change["of"] for each in told["effects"] for change in each["changes"]}
    assert of == {"natural", "all_wrong", "wrong in all_wrong", "gold of all_wrong"}
    assert told["batches"][0]["truncated_frac"] > 0
    monkeypatch.setattr("ngrpo.lab.gradients._engine", lambda *_: pytest.fail("sampled again"))
    assert ask() == told
    more = ask(methods=("nsr", "ngrpo"), overrides=["optim.lr=1e-3"], num_groups=6)
    assert norm_of(more, "nsr", "all_wrong")["whole"] > 0
    assert more["batches"][0]["num_groups"] == 6
    text = (out / "results.md").read_text()
    assert "Gradient norms by layer, all wrong batch" in text
    assert "| mixed | 0 of 6 |" in text
    assert "12 groups were sampled. Where a batch has fewer than asked for, no more were found." in text


def test_a_folder_of_other_groups_or_of_something_else_is_refused(ask, tmp_path):
    ask()
    with pytest.raises(RunFolderError, match=r"sampled\.seed: 0 -> 7"):
        ask(overrides=["run.seed=7"])
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").touch()
    with pytest.raises(RunFolderError, match="holds no experiment"):
        ask("else")
    (tmp_path / "out" / "experiment.json").write_text('{"kind": "ablation"}')
    with pytest.raises(RunFolderError, match="holds the experiment 'ablation'"):
        ask()


def test_what_is_wrong_is_said_before_a_model_is_loaded(ask, monkeypatch):
    import transformers

    monkeypatch.setattr(
        transformers.AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded")
    )
    with pytest.raises(ConfigError, match="needs a critic"):
        ask(methods=("ppo",))
    with pytest.raises(ConfigError, match="--gold-column 'solution'"):
        ask(gold_column="solution")
    with pytest.raises(ConfigError, match="leaves no room for a prompt"):
        ask(overrides=["rollout.max_completion_tokens=96"])
