"""The whole algorithm in one file is the library's algorithm: advantages, token losses, gradients, updates."""

import ast
import copy
import runpy
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo import objectives
from ngrpo.policy import Policy
from ngrpo.rollout import SampleRequest, Sampling, ScriptedEngine
from ngrpo.train.rows import even_parts, group_rows
from ngrpo.train.step import TrainingRow
from ngrpo.train.step import update as library_update
from ngrpo.types import Completion, Group, Outcome, Prompt

PATH = Path(__file__).parents[2] / "examples" / "02_single_file.py"
single_file = SimpleNamespace(**runpy.run_path(str(PATH)))

CLIP = {"clip_low": 0.16, "clip_high": 0.24}


@pytest.fixture(autouse=True)
def _same_random_numbers_and_threads():
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # more would cost more than they do: the models are tiny
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield
    torch.set_num_threads(num_threads)


def small_model():
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return single_file.make_model(
        0, vocab_size=len(single_file.SYMBOLS), num_key_value_heads=2, initializer_range=0.2, **sizes
    )


def as_policy(model) -> Policy:
    return Policy(model, tokenizer=None, eos_token_ids=(single_file.EOS,), pad_token_id=0, max_positions=None)


def random_rows(num_rows: int, *, seed: int) -> list[tuple]:
    """Rows of the single file: ragged prompts and completions, old log-probabilities away from the model's own."""
    generator = torch.Generator().manual_seed(seed)

    def tokens(longest: int) -> list[int]:
        size = torch.randint(1, longest + 1, (), generator=generator)
        return torch.randint(1, len(single_file.SYMBOLS), (size,), generator=generator).tolist()

    rows = []
    for _ in range(num_rows):
        completion = tokens(7)
        old = (-2.0 - torch.rand(len(completion), generator=generator)).tolist()
        rows.append((tokens(5), completion, old, torch.randn((), generator=generator).item()))
    return rows


# ------------------------------------------------------------------------------------------------------ the file itself


def test_is_at_most_250_lines():
    assert len(PATH.read_text().splitlines()) <= 250


def test_imports_nothing_of_the_package():
    imported = set()
    for node in ast.walk(ast.parse(PATH.read_text())):
        if isinstance(node, ast.Import):
            imported |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0
            imported.add(node.module.split(".")[0])
    assert imported - sys.stdlib_module_names == {"torch", "transformers"}
    assert not imported & {"importlib", "runpy", "subprocess"}  # nor by another way


def test_methods_are_the_catalogs():
    ngrpo, grpo = objectives.get("ngrpo"), objectives.get("grpo")
    for name, objective in (("ngrpo", ngrpo), ("grpo", grpo)):
        ours = single_file.METHODS[name]
        assert ours["num_virtual"] == objective.advantage.virtual.num_virtual
        assert (ours["clip_low"], ours["clip_high"]) == (objective.policy.clip_low, objective.policy.clip_high)


# ------------------------------------------------------------------------------------------------- equal to the library


def as_groups(rewards_PG):
    return torch.arange(len(rewards_PG)).repeat_interleave(rewards_PG.shape[1])


@given(
    rewards=st.integers(2, 6).flatmap(
        lambda size: st.lists(
            st.lists(st.sampled_from([0.0, 0.1, 0.3, 0.5, 0.9, 1.0]), min_size=size, max_size=size),
            min_size=1,
            max_size=5,
        )
    ),
    num_virtual=st.integers(0, 3),
    virtual_reward=st.sampled_from([1.0, 1.7]),
)
@settings(max_examples=60, deadline=None)
def test_advantages_equal_the_librarys(rewards, num_virtual, virtual_reward):
    rewards_PG = torch.tensor(rewards, dtype=torch.float64)
    options = {"num_virtual": num_virtual, "virtual_reward": virtual_reward}
    library = objectives.get("ngrpo", **options).advantages(rewards_PG.flatten(), as_groups(rewards_PG))
    ours = single_file.ngrpo_advantages(rewards_PG, **options)
    torch.testing.assert_close(ours.flatten(), library, rtol=1e-12, atol=1e-12)


def test_advantages_of_grpo_equal_the_librarys():
    rewards_PG = (torch.rand(40, 8, dtype=torch.float64) < torch.rand(40, 1)).double()
    library = objectives.get("grpo").advantages(rewards_PG.flatten(), as_groups(rewards_PG))
    ours = single_file.ngrpo_advantages(rewards_PG, num_virtual=0)
    torch.testing.assert_close(ours.flatten(), library, rtol=1e-12, atol=1e-12)


def test_advantages_by_hand():
    # All wrong, G = 8: mean 1/9, sample variance (8/9) / 8 = 1/9, so each is -(1/9) / (1/3) = -1/3 = -1 / sqrt(9).
    # All right: everything is 1.
    rewards_PG = torch.tensor([[0.0] * 8, [1.0] * 8], dtype=torch.float64)
    ours = single_file.ngrpo_advantages(rewards_PG)
    assert ours[0].tolist() == pytest.approx([-1 / 3] * 8, rel=1e-5)
    assert ours[1].tolist() == [0.0] * 8
    assert single_file.ngrpo_advantages(rewards_PG, num_virtual=0).tolist() == [[0.0] * 8] * 2


@pytest.mark.parametrize("value", [0.1, 0.3, 0.7, 0.9])
def test_constant_groups_have_exactly_no_advantage(value):
    for size in range(2, 18):
        rewards_PG = torch.full((1, size), value)  # float32: its mean is off by a digit for some of the sizes
        assert single_file.ngrpo_advantages(rewards_PG, num_virtual=0).tolist() == [[0.0] * size]
        assert single_file.ngrpo_advantages(rewards_PG, virtual_reward=value).tolist() == [[0.0] * size]


@pytest.mark.parametrize("seed", range(5))
def test_token_losses_and_gradients_equal_the_librarys(seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(1, 9, (40,), generator=generator)
    mask = torch.arange(8) < lengths[:, None]
    old = -3.0 * torch.rand(mask.shape, generator=generator, dtype=torch.float64)
    # Log-ratios of up to 0.6 either way: each bound binds for a good part of the tokens.
    moved = old + 1.2 * torch.rand(mask.shape, generator=generator, dtype=torch.float64) - 0.6
    advantages = torch.randn(40, generator=generator, dtype=torch.float64)

    ours_current = moved.clone().requires_grad_()
    losses, is_high, is_low = single_file.token_loss(
        ours_current[mask], old[mask], advantages.repeat_interleave(lengths), **CLIP
    )
    (losses.sum() / lengths.sum()).backward()

    objective = objectives.get("ngrpo", **CLIP)
    library_current = moved.clone().requires_grad_()
    terms = objective.token_terms(library_current, old, advantages, mask)
    objective.reduce(terms, mask).backward()

    torch.testing.assert_close(losses, terms.loss[mask], rtol=1e-13, atol=0)
    assert is_high.any()
    assert is_low.any()
    assert torch.equal(is_high, terms.is_clipped_high[mask])
    assert torch.equal(is_low, terms.is_clipped_low[mask])
    torch.testing.assert_close(ours_current.grad, library_current.grad, rtol=1e-13, atol=0)


@pytest.mark.parametrize(("rows_per_microbatch", "max_microbatch_tokens"), [(64, 10000), (4, 40), (64, 1), (1, 10000)])
def test_update_equals_the_librarys(rows_per_microbatch, max_microbatch_tokens):
    rows = random_rows(11, seed=3)
    ours = small_model().double()
    library = copy.deepcopy(ours)
    ours_optimizer = torch.optim.SGD(ours.parameters(), lr=0.1)
    library_optimizer = torch.optim.SGD(library.parameters(), lr=0.1)

    measured = single_file.update(
        ours, ours_optimizer, rows, **CLIP, max_grad_norm=0.5, rows_per_microbatch=rows_per_microbatch
    )
    stats = library_update(
        as_policy(library),
        library_optimizer,
        objectives.get("ngrpo", **CLIP),
        [TrainingRow(tuple(prompt), tuple(completion), tuple(old), value) for prompt, completion, old, value in rows],
        temperature=1.0,
        max_microbatch_tokens=max_microbatch_tokens,
        max_grad_norm=0.5,
    )

    assert measured["loss"] == pytest.approx(stats.loss, rel=1e-6)
    assert measured["grad_norm"] == pytest.approx(stats.grad_norm, rel=1e-6)
    assert measured["grad_norm"] > 0.5  # the norm is bounded, too
    assert measured["clip_high_frac"] == stats.clipped_high_tokens / stats.num_positive_tokens > 0
    assert measured["clip_low_frac"] == stats.clipped_low_tokens / stats.num_negative_tokens > 0
    for (name, expected), parameter in zip(library.named_parameters(), ours.parameters(), strict=True):
        # float32 inside the model's RMSNorm, and padding on the other side
        torch.testing.assert_close(parameter, expected, rtol=1e-6, atol=1e-7, msg=name)


def test_learn_equals_the_librarys_steps():
    # Three groups: all wrong, all right (leaves), mixed; two updates, so one group each.
    rows = random_rows(12, seed=5)
    prompts = [rows[4 * (n // 4)][0] for n in range(12)]
    completions, old = [row[1] for row in rows], [row[2] for row in rows]
    rewards_PG = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]], dtype=torch.float64)
    ours = small_model().double()
    library = copy.deepcopy(ours)
    measured = single_file.learn(
        ours,
        single_file.make_optimizer(ours),
        prompts,
        completions,
        old,
        rewards_PG,
        num_updates=2,
        num_virtual=1,
        **CLIP,
    )

    objective = objectives.get("ngrpo", **CLIP)
    groups = [
        Group(
            Prompt(str(p), "", tuple(prompts[4 * p]), ""),
            tuple(Completion(tuple(completions[n]), tuple(old[n]), "", "eos") for n in range(4 * p, 4 * p + 4)),
            tuple(Outcome(reward, correct=reward == 1) for reward in rewards_PG[p].tolist()),
        )
        for p in range(3)
    ]
    keep = objective.keep(rewards_PG.flatten(), as_groups(rewards_PG))[::4].tolist()
    kept = [group for group, is_kept in zip(groups, keep, strict=True) if is_kept]
    optimizer = single_file.make_optimizer(library)
    expected = [
        library_update(
            as_policy(library),
            optimizer,
            objective,
            [row for group in part for row in group],
            temperature=1.0,
            max_microbatch_tokens=50,
            max_grad_norm=1.0,
        )
        for part in even_parts(group_rows(objective, kept), 2)
    ]
    assert [update["loss"] for update in measured] == pytest.approx([stats.loss for stats in expected], rel=1e-6)
    norms = [stats.grad_norm for stats in expected]
    assert [update["grad_norm"] for update in measured] == pytest.approx(norms, rel=1e-6)


# ------------------------------------------------------------------------------------------------------------- sampling


def test_sampled_logprobs_are_the_models_own():
    model = small_model().double()
    prompts = [single_file.make_problem(single_file.random.Random(seed))[0] for seed in range(3)]
    completions, logprobs = single_file.sample(model, prompts, 5)
    repeated = [prompt for prompt in prompts for _ in range(5)]
    expected = single_file.completion_logprobs(model, repeated, completions)
    assert [value for values in logprobs for value in values] == pytest.approx(expected.tolist(), abs=1e-6)
    assert all(single_file.EOS not in completion[:-1] for completion in completions)
    assert len(set(map(len, completions))) > 1
    assert all(completion[-1] == single_file.EOS or len(completion) == 8 for completion in completions)


def test_completion_logprobs_equal_the_librarys():
    model = small_model().double()
    rows = random_rows(9, seed=1)
    # The scripted engine appends the end of sequence itself.
    tokenizer = SimpleNamespace(
        encode=lambda text, add_special_tokens: [int(each) for each in text.split()],
        batch_decode=lambda ids, **_: ["" for _ in ids],
    )
    policy = Policy(model, tokenizer, eos_token_ids=(single_file.EOS,), pad_token_id=0, max_positions=None)
    engine = ScriptedEngine(policy, lambda request: request.prompt.text)
    requests = [SampleRequest(Prompt("", " ".join(map(str, row[1])), tuple(row[0]), ""), (0,)) for row in rows]
    library = [value for each in engine.sample(requests, Sampling(20)) for value in each.logprobs]
    completions = [[*row[1], single_file.EOS] for row in rows]
    ours = single_file.completion_logprobs(model, [row[0] for row in rows], completions).tolist()
    assert ours == pytest.approx(library, abs=1e-6)


# ----------------------------------------------------------------------------------------------------------------- task


def ids(text):
    return [single_file.SYMBOLS.index(symbol) for symbol in text]


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("3+5*2.", 1.0),  # (3 + 5) * 2
        ("5+3*2.", 1.0),
        ("2*5+3.", 0.0),  # 13
        ("3+5*2", 0.0),  # does not end
        ("3+5+5.", 0.0),  # other digits
        ("8*2.", 0.0),
        ("_3+5*2.", 0.0),
        ("", 0.0),
    ],
)
def test_reward(answer, expected):
    assert single_file.reward(ids("352=16:"), ids(answer)) == expected


def test_made_problems_are_answered_rightly():
    rng = single_file.random.Random(0)
    for _ in range(200):
        prompt, answer = single_file.make_problem(rng)
        assert len(prompt) == 7
        assert single_file.reward(prompt, answer) == 1.0


# -------------------------------------------------------------------------------------------------------------- running


def test_learns_what_is_rewarded():
    # Rewarded: a completion that begins with 5. A random model does that about once in seventeen times.
    model = small_model()
    optimizer = single_file.make_optimizer(model)
    prompts = [ids("352=16:"), ids("123=06:")] * 4
    means = []
    for step in range(25):
        single_file.set_rate(optimizer, 0.01, step, warmup_steps=2)
        completions, logprobs = single_file.sample(model, prompts, 8)
        rewards = torch.tensor([float(each[0] == ids("5")[0]) for each in completions])
        repeated = [prompt for prompt in prompts for _ in range(8)]
        method = single_file.METHODS["ngrpo"]
        single_file.learn(
            model, optimizer, repeated, completions, logprobs, rewards.view(8, 8), num_updates=2, **method
        )
        means.append(rewards.mean().item())
    assert means[0] < 0.3
    assert sum(means[-3:]) / 3 > 0.8


@pytest.mark.parametrize("objective", ["ngrpo", "grpo"])
def test_runs_end_to_end(objective, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [str(PATH), "--steps", "3", "--warm-steps", "3", "--objective", objective])
    runpy.run_path(str(PATH), run_name="__main__")
    assert "step   3  reward 0." in capsys.readouterr().out
