import builtins

import pytest

from ngrpo.errors import ConfigError, DataError, MissingExtraError, RewardError
from ngrpo.rewards import GymReward
from ngrpo.rewards.pool import Reply
from ngrpo.rewards.reasoning_gym import EXECUTING_TASKS, extract_answer, open_task
from ngrpo.types import Completion, Prompt

pytest.importorskip("reasoning_gym")


def prompts_of(task, count=3, **params):
    dataset = open_task(task, params=params, seed=1, size=count)
    return [
        Prompt(str(i), "?", (), dataset[i]["answer"] or "", f"gym:{task} row {i + 1}", dataset[i]) for i in range(count)
    ]


def outcome_of(reward, prompt, text):
    return reward([prompt], [Completion((), (), text, "eos")])[0]


@pytest.fixture(scope="module")
def sums():
    reward = GymReward("chain_sum", seed=1, size=3)
    yield reward
    reward.close()


@pytest.mark.parametrize(
    "form", ["{}", "  {}\n", "so <answer> {} </answer>", r"so \boxed{{{}}}.", "<think>7</think>{}"]
)
def test_the_oracle_is_right_in_every_form(sums, form):
    for prompt in prompts_of("chain_sum"):
        outcome = outcome_of(sums, prompt, form.format(prompt.gold))
        assert (outcome.value, outcome.correct, outcome.kind, outcome.extracted) == (1.0, True, "scored", prompt.gold)


def test_partial_credit_is_none(sums):
    prompt = prompts_of("chain_sum")[0]
    outcome = outcome_of(sums, prompt, f"The answer is {prompt.gold}")
    assert (outcome.value, outcome.correct, outcome.kind) == (0.0, False, "scored")
    assert 0 < float(outcome.detail.removeprefix("score ")) < 1


def test_partial_credit_counts_from_a_lower_threshold():
    prompt = prompts_of("chain_sum")[0]
    lenient = GymReward("chain_sum", correct_at=0.1, seed=1, size=3)
    outcome = outcome_of(lenient, prompt, f"It is {prompt.gold}")
    assert (outcome.value, outcome.correct) == (1.0, True)
    lenient.close()


def test_rounding_just_below_the_threshold_is_forgiven(monkeypatch, sums):
    prompt = prompts_of("chain_sum")[0]
    for score, correct in ((1 - 1e-10, True), (1 - 1e-8, False)):
        monkeypatch.setattr(sums._pool, "map", lambda _, score=score: [Reply("ok", score)])
        assert outcome_of(sums, prompt, "5").correct is correct


def test_the_last_marker_counts():
    assert extract_answer(r"<answer>1</answer> no, \boxed{2}") == "2"
    assert extract_answer(r"\boxed{2} no, <answer>1</answer>") == "1"
    assert extract_answer("<answer>1</answer> <answer>2") == "1"
    assert extract_answer("<think><answer>1</answer></think> 3 ") == "3"


def test_no_answer_is_unparsed(sums):
    prompt = prompts_of("chain_sum")[0]
    for text, detail in ((" \n", "nothing was answered"), ("<answer></answer>", "nothing was answered"),
                         (f"<think>{prompt.gold}", "<think> is not closed")):  # fmt: skip
        outcome = outcome_of(sums, prompt, text)
        assert (outcome.kind, outcome.value, outcome.detail) == ("unparsed", 0.0, detail)


def test_a_scorer_that_raises_is_an_error():
    reward = GymReward("prime_factorization", seed=1, size=3)
    outcome = outcome_of(reward, prompts_of("prime_factorization")[0], "no idea")
    assert (outcome.kind, outcome.value, outcome.correct) == ("error", 0.0, False)
    assert outcome.detail.startswith("ValueError: invalid literal for int()")
    reward.close()


def test_a_scorer_that_hangs_is_a_timeout():
    # Fraction("1e9999999999") writes out ten thousand million digits.
    reward = GymReward("coin_flip", seed=1, size=3, timeout_s=0.5)
    prompt = prompts_of("coin_flip")[0]
    assert outcome_of(reward, prompt, prompt.gold).correct
    texts = ["0.123", "1e9999999999", "", prompt.gold]  # one batch: each has its own verdict
    outcomes = reward([prompt] * 4, [Completion((), (), text, "eos") for text in texts])
    assert [(outcome.kind, outcome.correct) for outcome in outcomes] == [
        ("scored", False),
        ("timeout", False),
        ("unparsed", False),
        ("scored", True),
    ]
    reward.close()


def test_rows_of_another_source_are_refused(sums):
    with pytest.raises(DataError, match=r"d\.jsonl row 1 has no 'metadata'.*for prompts of a gym: source"):
        outcome_of(sums, Prompt("0", "?", (), "5", "d.jsonl row 1", {"question": "?", "answer": "5"}), "5")


@pytest.mark.parametrize("task", sorted(EXECUTING_TASKS))
def test_scorers_that_execute_are_refused_by_name(task):
    with pytest.raises(RewardError, match=rf"'{task}' executes.*reward\.allow_execution = \[\"{task}\"\]"):
        GymReward(task, allow_execution=["another"])


def test_an_allowed_scorer_that_executes_cannot_harm_this_process(tmp_path):
    target = tmp_path / "created"
    reward = GymReward("spiral_matrix", seed=1, size=3, timeout_s=5.0, allow_execution=["spiral_matrix"])
    prompt = prompts_of("spiral_matrix")[0]
    assert outcome_of(reward, prompt, prompt.gold).correct
    # This shows that text is executed, by the worker: the refusal above is not for nothing.
    outcome_of(reward, prompt, f"[open({str(target)!r}, 'w').write('x')]")
    assert target.exists()
    assert outcome_of(reward, prompt, "[exit()]").kind in ("error", "scored")
    assert outcome_of(reward, prompt, "[__import__('os')._exit(1)]").kind == "error"
    assert outcome_of(reward, prompt, prompt.gold).correct
    reward.close()


def test_an_unknown_task_lists_the_nearest():
    with pytest.raises(ConfigError, match=r"no task 'chain_sums'\. The nearest of its 10\d: chain_sum, "):
        GymReward("chain_sums")


def test_wrong_parameters_are_named():
    with pytest.raises(ConfigError, match=r"'chain_sum' has no parameter 'max_term' .*It has: min_terms, max_terms"):
        GymReward("chain_sum", params={"max_term": 3})
    with pytest.raises(ConfigError, match=r"refuses its parameters \{'min_terms': 5, 'max_terms': 2\}.*max_terms must"):
        GymReward("chain_sum", params={"min_terms": 5, "max_terms": 2})
    with pytest.raises(ConfigError, match=r"no parameter 'seed' \(data\.params; seed and size are data\.seed"):
        GymReward("chain_sum", params={"seed": 5})


def test_without_reasoning_gym_the_extra_is_named(monkeypatch):
    real_import = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("reasoning_gym"):
            raise ImportError(f"No module named {name!r}")
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(MissingExtraError, match=r"'chain_sum' needs reasoning-gym .*pip install \"ngrpo\[gym\]\""):
        GymReward("chain_sum")


def test_every_gold_is_fine(sums):
    assert sums.check_golds(["", "x"]) == [None, None]
