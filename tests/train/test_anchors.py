"""Given solutions: refused in time where they cannot be used, and put in exactly where the reference never succeeds."""

import json
from dataclasses import replace

import pytest
import torch
from companion_helpers import Answers, bare_run, group_of, never
from run_helpers import forbid_models, newest, run_to_end, short_config
from update_helpers import TEMPERATURE
from update_helpers import logprobs_of as plain_logprobs_of

from helpers import EOS, make_completion, make_prompt, small_tokenizer
from ngrpo import objectives
from ngrpo.config import Data, load_config
from ngrpo.data import PromptOrder
from ngrpo.errors import ConfigError, DataError
from ngrpo.objectives.plan import GoldAnchors, ReferenceValues, RolloutPlan
from ngrpo.train import assemble, reference_values
from ngrpo.train.anchors import anchor_of, check_anchors, with_anchors
from ngrpo.train.facts import rollout_facts
from ngrpo.train.prompt_choice import InOrder
from ngrpo.train.reference_values import ReferenceBaseline
from ngrpo.train.rollout import collect
from ngrpo.train.rows import group_rows, with_retaken_logprobs

DATA = Data(source="rows.jsonl", anchor_column="solution", anchor_logprobs_column="author")
SOLUTION = make_completion("1+2")  # four tokens with its end


def with_columns(prompt, /, **columns):
    return replace(prompt, columns=columns)


def anchored_run(engine=None, *, columns, overrides=(), **others):
    """A run whose first prompts have these columns."""
    run = bare_run(engine, overrides=["data.anchor_column=solution", *overrides], **others)
    rest = run.prompts[len(columns) :]
    own = (with_columns(prompt, **each) for prompt, each in zip(run.prompts, columns, strict=False))
    run.prompts = (*own, *(with_columns(prompt, solution=None) for prompt in rest))
    return run


# ---- before a model is loaded ----


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"solution": 3, "author": [0.0]}, r"row 2, field 'solution': an anchor must be a text, got 3"),
        ({"solution": " ", "author": [0.0]}, r"row 2, field 'solution': an anchor must be a text, got ' '.* or null"),
        ({"solution": "1+2", "author": None}, r"row 2, field 'author': a list of log-probabilities .*, got None"),
        ({"solution": "1+2", "author": "0000"}, r"row 2, field 'author': a list of log-probabilities .*, got '0000'"),
        ({"solution": "1+2", "author": [0.0] * 3}, r"row 2, field 'author': 3 log-probabilities for an anchor of 4 t"),
        ({"solution": "1+2", "author": [0.0] * 5}, r"row 2, field 'author': 5 log-probabilities for an anchor of 4 t"),
        ({"solution": "1+2", "author": [0, 0.5, 0, 0]}, r"row 2, field 'author': .* of 0 or less, in nats, got 0\.5"),
        ({"solution": "1+2", "author": [0, float("nan"), 0, 0]}, r"row 2, field 'author': .* finite .*, got nan"),
        ({"solution": "1+2", "author": [0, None, 0, 0]}, r"row 2, field 'author': .* finite .*, got None"),
        (
            {"solution": "1+é", "author": [0.0] * 3},
            r"row 2, field 'solution': .* cannot read all .*'1\+é' becomes '1\+'",
        ),
        ({"solution": "é", "author": [0.0]}, r"row 2, field 'solution': .* cannot read all .*: 'é' becomes ''"),
        ({"solution": "1<|endoftext|>2", "author": [0.0] * 4}, r"row 2, field 'solution': .* which ends a completion"),
    ],
)
def test_a_row_that_cannot_be_used_is_named(row, message):
    good = with_columns(make_prompt("1,2=3:"), solution="1+2", author=[0.0, -1.5, -2, 0])
    none = with_columns(make_prompt("1,3=4:"), solution=None, author=None)
    check_anchors(DATA, [good, none], small_tokenizer())
    bad = replace(with_columns(make_prompt("1,4=5:"), **row), source="rows.jsonl row 2")
    with pytest.raises(DataError, match=message):
        check_anchors(DATA, [good, bad], small_tokenizer())


def test_a_column_that_does_not_exist_is_said_with_those_that_do():
    prompts = [with_columns(make_prompt("1,2=3:"), prompt="1,2=3:", solution="1+2")]
    with pytest.raises(DataError, match=r"no column 'author' \(data\.anchor_logprobs_column\).*are: prompt, solution"):
        check_anchors(DATA, prompts, small_tokenizer())
    check_anchors(Data(source="rows.jsonl"), prompts, small_tokenizer())


@pytest.mark.parametrize(
    ("overrides", "error", "message"),
    [
        (["objective.name=pvpo"], ConfigError, r"'pvpo' needs a given solution .*anchor_column=.*gold_anchors=false"),
        (["data.anchor_column=gold"], ConfigError, r"data\.anchor_column = 'gold' has no effect: objective 'ngrpo'"),
        (
            ["objective.name=pvpo", "data.anchor_column=golden"],
            DataError,
            r"world:countdown has no column 'golden' \(data\.anchor_column\)\. Its columns are: .*gold",
        ),
        (
            ["objective.name=pvpo", "objective.params.gold_anchors=false", "data.anchor_column=gold"],
            ConfigError,
            r"data\.anchor_column = 'gold' has no effect",
        ),
    ],
)
def test_it_is_said_before_a_model_is_loaded(base, runs, monkeypatch, overrides, error, message):
    forbid_models(monkeypatch)
    with pytest.raises(error, match=message):
        assemble(short_config(runs, base, *overrides))


def test_anchors_without_reference_values_are_refused(base, runs, monkeypatch):
    forbid_models(monkeypatch)
    method = replace(objectives.get("pvpo"), rollout=RolloutPlan(anchors=GoldAnchors()))
    monkeypatch.setattr(objectives, "get", lambda name, **params: method)
    with pytest.raises(ConfigError, match=r"which prompts the reference model never solves: .* reference_values too"):
        assemble(short_config(runs, base, "objective.name=pvpo", "data.anchor_column=gold"))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.anchor_logprobs_column=lp"], r"data\.anchor_logprobs_column = 'lp' has no effect without data\.anchor"),
        (["validation.data.anchor_column=gold"], r"validation\.data\.anchor_column = 'gold' .*have no effect"),
    ],
)
def test_settings_without_effect_are_refused(base, runs, overrides, message):
    with pytest.raises(ConfigError, match=message):
        short_config(runs, base, *overrides)


# ---- as completions ----


def test_an_anchor_is_its_text_and_an_end_by_a_certain_author():
    run = anchored_run(columns=[{"solution": "1+2"}])
    anchor = anchor_of(run, run.prompts[0])
    assert anchor.token_ids == SOLUTION.token_ids
    assert anchor.token_ids[-1] == EOS
    assert anchor.logprobs == (0.0,) * 4
    assert (anchor.text, anchor.finish_reason, anchor.is_anchor) == ("1+2", "eos", True)
    assert anchor_of(run, run.prompts[1]) is None


def test_an_anchor_has_its_authors_logprobs_and_is_cut_as_a_completion_would_be():
    columns = [{"solution": "1+2", "author": [-1, -0.5, -0.25, -2.0]}]
    options = ["data.anchor_logprobs_column=author", "rollout.max_completion_tokens=3"]
    run = anchored_run(columns=columns, overrides=options)
    anchor = anchor_of(run, run.prompts[0])
    assert anchor.token_ids == SOLUTION.token_ids[:3]
    assert anchor.logprobs == (-1.0, -0.5, -0.25)
    assert (anchor.text, anchor.finish_reason) == ("1+2", "length")
    run = anchored_run(columns=columns, overrides=[*options[:1], "rollout.max_completion_tokens=4"])
    assert anchor_of(run, run.prompts[0]).finish_reason == "eos"


def test_the_last_completion_of_the_wanted_groups_is_replaced_and_judged():
    judged = []

    def reward(prompts, completions):
        judged.extend((prompt.id, completion.text) for prompt, completion in zip(prompts, completions, strict=True))
        return [outcome for _ in prompts for outcome in group_of(None, "1").outcomes]

    run = anchored_run(columns=[{"solution": "1+2"}, {"solution": "2+2"}, {"solution": None}], reward=reward)
    groups = [group_of(prompt, "0", "3") for prompt in run.prompts[:3]]
    found = with_anchors(run, groups, [True, False, True])
    assert judged == [("p0", "1+2")]
    assert found[1:] == groups[1:]
    assert found[0].completions == (groups[0].completions[0], anchor_of(run, run.prompts[0]))
    assert found[0].outcomes[0] == groups[0].outcomes[0]
    assert found[0].outcomes[1].value == 1.0
    assert with_anchors(run, groups, [False, False, True]) == groups
    assert len(judged) == 1


# ---- in a step ----


@pytest.fixture
def step_run(monkeypatch):
    """The reference model solves p1 once in two, p0 and p2 never; p2 has no anchor."""
    engine = Answers(lambda request: "1" if request.prompt.id == "p1" and request.key[-1] else "0")
    monkeypatch.setattr(reference_values, "reference_engine", lambda run: engine)
    run = anchored_run(
        Answers(lambda request: "0"),
        num_prompts=3,
        columns=[{"solution": "1", "author": [-0.75, -0.25]}, {"solution": "1", "author": [-3, -3]}],
        overrides=[
            "data.anchor_logprobs_column=author",
            "rollout.num_prompts_per_step=3",
            "rollout.num_samples_per_prompt=3",
        ],
        objective=objectives.get("pvpo", num_reference_samples=2),
        prompt_choice=InOrder(PromptOrder(3, seed=0)),
    )
    run.companions = (ReferenceBaseline(ReferenceValues(2), GoldAnchors()),)
    return run


def test_rows_have_the_anchor_and_its_authors_logprobs_only_where_the_reference_never_succeeds(step_run):
    rollout = collect(step_run, never)
    groups = {group.prompt.id: group for group in rollout.groups}
    marks = {name: [each.is_anchor for each in group.completions] for name, group in groups.items()}
    assert marks == {"p0": [False, False, True], "p1": [False] * 3, "p2": [False] * 3}
    rows = group_rows(step_run.objective, rollout.groups, rollout_facts(step_run, rollout.groups, never))
    by_prompt = dict(zip(groups, rows, strict=False))
    anchor = by_prompt["p0"][-1]
    assert (anchor.completion_ids, anchor.old_logprobs) == (make_completion("1").token_ids, (-0.75, -0.25))
    # The reference earns nothing at p0, half at p1.
    assert [row.advantage for row in by_prompt["p0"]] == [0.0, 0.0, 1.0]
    assert [row.advantage for row in by_prompt["p1"]] == [-0.5] * 3
    metrics = step_run.companions[0].learn(step_run, rollout.kept_groups)
    assert metrics["anchors/num_anchors"] == 1


def test_what_the_policy_sampled_is_told_without_anchors(step_run):
    rollout = collect(step_run, never)
    assert not any(each.is_anchor for group in rollout.sampled for each in group.completions)
    assert [group.num_correct for group in rollout.sampled] == [0, 0, 0]
    assert sorted(group.num_correct for group in rollout.groups) == [0, 0, 1]
    assert (rollout.num_completions, rollout.num_completion_tokens) == (9, 18)


def test_an_anchor_keeps_its_authors_logprobs_where_old_ones_are_retaken(step_run):
    rollout = collect(step_run, never)
    config = load_config("tiny", [f"rollout.temperature={TEMPERATURE}", "update.max_microbatch_tokens=1000"])
    retaken, metrics = with_retaken_logprobs(step_run.policy, rollout.groups, config)
    sampled_gap = 0.0
    for before, after in zip(rollout.groups, retaken, strict=True):
        ids = [each.token_ids for each in before.completions]
        news = plain_logprobs_of(step_run.policy, [before.prompt.token_ids] * 3, ids)
        for old, new, plain in zip(before.completions, after.completions, news, strict=True):
            if old.is_anchor:
                assert new == old
            else:
                assert new.logprobs == pytest.approx(plain, abs=1e-5)
                sampled_gap = max(sampled_gap, *(abs(a - b) for a, b in zip(new.logprobs, old.logprobs, strict=True)))
    assert metrics["policy/sampler_gap_nats"] == pytest.approx(sampled_gap)


# ---- in a whole run ----


def test_a_run_trains_on_the_anchors_of_prompts_that_the_reference_never_solves(base, runs):
    options = ["objective.name=pvpo", "objective.params.num_reference_samples=2", "data.anchor_column=gold"]
    run = run_to_end(short_config(runs, base, *options, "data.size=10", "validation=none"))
    state = torch.load(newest(runs / "run") / "companion_reference_values.pt", weights_only=True)["measured"]
    golds = {prompt.id: len(prompt.gold) + 1 for prompt in run.prompts}
    groups = [json.loads(line) for line in (runs / "run" / "groups.jsonl").read_text().splitlines()]
    metrics = [json.loads(line) for line in (runs / "run" / "metrics.jsonl").read_text().splitlines()]
    num_anchors = [0] * 5
    for group in groups:
        _, _, num_correct = state[group["prompt"]]
        if num_correct == 0:
            assert group["tokens"][-1] == min(10, golds[group["prompt"]])
            num_anchors[group["step"] - 1] += group["kept"]
    assert [row["anchors/num_anchors"] for row in metrics] == num_anchors
    assert 0 < sum(num_anchors) < len(groups)
