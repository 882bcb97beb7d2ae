"""Dense packing: the same numbers from fuller rows, and models it would give others for are refused."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from run_helpers import records, run_to_end, short_config
from update_helpers import METHODS, TEMPERATURE, gradient, make_rows, method, reference_of, take_step

from helpers import MAX_POSITIONS, make_prompts, small_policy
from ngrpo import objectives
from ngrpo.errors import ConfigError, ModelError
from ngrpo.policy import Policy, completion_logprobs, pack_rows, pad_rows
from ngrpo.train import step
from ngrpo.train.measure import update_metrics
from ngrpo.train.packing import check_packing, pack, packed_microbatches
from ngrpo.train.step import TrainingRow, logprobs_of

# The model of these tests could share its prompts, and would never be packed.
pytestmark = pytest.mark.usefixtures("padded_only")

# --- what goes together ---


def test_the_longest_that_fits_within_the_window_joins():
    # 6 opens, 4 left: within 2 ahead (5, 3) only 3 fits, then of (5, 4) none. 5 opens: 4, then of (1, 2) the 1.
    assert pack([6, 5, 3, 4, 1, 2], capacity=10, window=2) == [[0, 2], [1, 3, 4], [5]]
    # Four ahead the 4 is seen at once, and the first row is full; then 5 + 3 + 2 and what is left.
    assert pack([6, 5, 3, 4, 1, 2], capacity=10, window=4) == [[0, 3], [1, 2, 5], [4]]


def test_a_sequence_longer_than_a_row_is_alone():
    assert pack([3, 12, 3], capacity=10, window=5) == [[0, 2], [1]]


@given(st.lists(st.integers(1, 30), max_size=60), st.integers(1, 40), st.integers(1, 70))
def test_every_sequence_once_and_no_row_too_long(lengths, capacity, window):
    rows = pack(lengths, capacity=capacity, window=window)
    assert sorted(place for row in rows for place in row) == list(range(len(lengths)))
    assert all(sum(lengths[place] for place in row) <= capacity or len(row) == 1 for row in rows)
    # Nothing of a later row within reach would have fitted into an earlier one, were the window without end.
    if window >= len(lengths):
        for earlier, row in enumerate(rows):
            room = capacity - sum(lengths[place] for place in row)
            assert all(lengths[place] > room for later in rows[earlier + 1 :] for place in later)


def rows_of(lengths):
    return [
        TrainingRow((place,) * prompt, (1,) * completion, (0.0,) * completion, 1.0)
        for place, (prompt, completion) in enumerate(lengths)
    ]


@given(st.lists(st.tuples(st.integers(1, 20), st.integers(1, 20)), max_size=40), st.integers(1, 200), st.integers(1, 9))
def test_every_microbatch_is_within_the_budget_or_of_one_sequence(lengths, budget, window):
    chunks = list(packed_microbatches(rows_of(lengths), budget, window))
    assert sorted(row.prompt_ids[0] for chunk in chunks for line in chunk for row in line) == list(range(len(lengths)))
    longest = max((prompt + completion for prompt, completion in lengths), default=0)
    for chunk in chunks:
        widths = [sum(len(row.prompt_ids) + len(row.completion_ids) for row in line) for line in chunk]
        assert len(chunk) * max(widths) <= budget or [len(line) for line in chunk] == [1]
        assert max(widths) <= 2 * longest


# --- the numbers ---


def ragged_rows(policy: Policy, num_rows: int = 20) -> list[TrainingRow]:
    """Rows of random tokens, of prompts of six lengths and completions of one to ten tokens."""
    random = torch.Generator().manual_seed(4)
    prompts = make_prompts()
    pairs = [
        (prompts[place % 6].token_ids, tuple(torch.randint(1, 18, (int(length),), generator=random).tolist()))
        for place, length in enumerate(torch.randint(1, 11, (num_rows,), generator=random))
    ]
    olds = logprobs_of(policy, pairs, temperature=TEMPERATURE, max_microbatch_tokens=10**9)
    return [
        TrainingRow(prompt, completion, tuple(value + 0.3 for value in old), 1.0 if place % 3 else -1.0, group=place)
        for place, ((prompt, completion), old) in enumerate(zip(pairs, olds, strict=True))
    ]


@pytest.mark.parametrize("window", [1, 4, 100])
def test_log_probabilities_and_entropies_are_those_of_padded_rows(window):
    policy = small_policy(torch.float64)
    rows = ragged_rows(policy)
    (padded_chunk, padded), *none = step.batches(policy, rows, 10**9, None)
    assert none == []
    expected, expected_entropies = completion_logprobs(policy, padded, temperature=TEMPERATURE, with_entropy=True)
    lines = next(packed_microbatches(rows, 10**9, window))
    assert max(map(len, lines)) >= 2
    chunk = [row for line in lines for row in line]
    batch = pack_rows(
        [[(row.prompt_ids, row.completion_ids) for row in line] for line in lines],
        pad_token_id=policy.pad_token_id,
        device=policy.device,
    )
    found, entropies = completion_logprobs(policy, batch, temperature=TEMPERATURE, with_entropy=True)
    order = [padded_chunk.index(row) for row in chunk]
    assert torch.equal(batch.completion_ids.masked_fill(~batch.mask, 0), padded.completion_ids[order])
    assert torch.equal(batch.mask, padded.mask[order])
    for one, other in [(found, expected), (entropies, expected_entropies)]:
        gap = (one - other[order])[batch.mask].abs().max()
        assert gap <= 1e-9, gap
    assert found[batch.mask].std() > 0.3


@pytest.mark.parametrize("name", [*METHODS, "disco", "gspo"])
@pytest.mark.parametrize("max_tokens", [40, 10**9])
def test_gradient_is_that_of_padded_rows(name, max_tokens):
    policy = small_policy(torch.float64)
    objective = method(name) if name in METHODS else objectives.get(name)
    rows, reference = make_rows(policy, objective), reference_of(objective)
    whole = take_step(policy, objective, rows, reference=reference)
    expected = gradient(policy).clone()
    packed = take_step(policy, objective, rows, reference=reference, max_tokens=max_tokens, packing_window=4)
    assert (gradient(policy) - expected).norm() <= 1e-9 * expected.norm()
    assert expected.norm() > 1e-3
    assert packed.loss == pytest.approx(whole.loss, rel=1e-9)
    assert (packed.num_tokens, packed.clipped_high_tokens, packed.clipped_low_tokens) == (
        whole.num_tokens, whole.clipped_high_tokens, whole.clipped_low_tokens,
    )  # fmt: skip


def test_fuller_rows_are_measured():
    policy, objective = small_policy(torch.float64), method("grpo")
    rows = ragged_rows(policy)
    padded = update_metrics([take_step(policy, objective, rows)], with_reference=False)
    packed = update_metrics([take_step(policy, objective, rows, packing_window=20)], with_reference=False)
    # By hand: all rows side by side are 20 times the longest prompt and the longest completion.
    tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    width = max(len(row.prompt_ids) for row in rows) + max(len(row.completion_ids) for row in rows)
    assert padded["update/fill_frac"] == tokens / (20 * width) < 0.8
    assert packed["update/fill_frac"] > padded["update/fill_frac"] + 0.05


def test_logprobs_of_packed_sequences_come_in_the_order_given():
    policy = small_policy(torch.float64)
    pairs = [(row.prompt_ids, row.completion_ids) for row in ragged_rows(policy)]
    one, other = (
        logprobs_of(policy, pairs, temperature=1.0, max_microbatch_tokens=60, packing_window=window)
        for window in (None, 5)
    )
    assert [len(row) for row in other] == [len(completion) for _, completion in pairs]
    for left, right in zip(one, other, strict=True):
        assert left == pytest.approx(right, rel=1e-9)


# --- models that cannot be packed ---


def as_policy(model) -> Policy:
    base = small_policy()
    return Policy(model.eval(), base.tokenizer, base.eos_token_ids, base.pad_token_id, MAX_POSITIONS)


def test_attention_is_accepted():
    check_packing(small_policy())
    check_packing(small_policy(torch.float64))


def recurrent():
    from transformers import MambaConfig, MambaForCausalLM

    return MambaForCausalLM(MambaConfig(hidden_size=16, num_hidden_layers=2, state_size=4, **TOKENS))


def half_recurrent():
    from transformers import JambaConfig, JambaForCausalLM

    return JambaForCausalLM(
        JambaConfig(
            hidden_size=16, intermediate_size=16, num_hidden_layers=2, attn_layer_period=2, attn_layer_offset=1,
            num_attention_heads=4, num_key_value_heads=2, num_experts=1, mamba_d_state=4, mamba_dt_rank=2,
            **TOKENS,
        )
    )  # fmt: skip


def positions_of_its_own():
    from transformers import BloomConfig, BloomForCausalLM

    return BloomForCausalLM(BloomConfig(hidden_size=16, n_layer=2, n_head=4, initializer_range=0.25, **TOKENS))


TOKENS = {"vocab_size": 20, "bos_token_id": None, "eos_token_id": 1, "pad_token_id": 0}


@pytest.mark.parametrize("make", [recurrent, half_recurrent, positions_of_its_own])
def test_models_that_mix_what_shares_a_row_are_refused_by_name(make):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = make()
    message = rf"{type(model).__name__} does not keep apart sequences that share a row .* nats\)"
    with pytest.raises(ConfigError, match=message):
        check_packing(as_policy(model))


def test_a_model_without_a_known_output_layer_is_refused(monkeypatch):
    policy = small_policy()
    monkeypatch.setattr(policy.model, "get_output_embeddings", lambda: None)
    with pytest.raises(ModelError, match=r"Qwen2ForCausalLM does not tell its output layer"):
        check_packing(policy)
    batch = pad_rows([(3, 4)], [(5,)], pad_token_id=0, device=policy.device)
    completion_logprobs(policy, batch, temperature=1.0)  # padded rows do not need it


# --- whole runs ---


def test_a_packed_run_is_the_padded_run_but_for_rounding(base, tmp_path):
    """In float64, where rounding is far below what a wrong neighbour would do."""
    found = {}
    for name, overrides in {"padded": [], "packed": ["update.packing_window=8"]}.items():
        runs = tmp_path / name / "runs"
        config = short_config(
            runs, base, "model.precision=float64", "validation=none", "update.max_microbatch_tokens=80", *overrides
        )
        run_to_end(config)
        found[name] = records(runs / "run")["metrics"]
    for padded, packed in zip(found["padded"], found["packed"], strict=True):
        assert padded.keys() == packed.keys()
        assert packed["update/fill_frac"] != padded["update/fill_frac"]
        for metric in padded.keys() - {"update/fill_frac"}:
            assert packed[metric] == pytest.approx(padded[metric], rel=1e-6, abs=1e-9), metric


def test_a_run_whose_model_cannot_be_packed_does_not_start(base, runs, monkeypatch):
    monkeypatch.setattr("ngrpo.train.packing.MAX_ROUNDING_NATS", -1.0)
    with pytest.raises(ConfigError, match=r"update\.packing_window: Qwen2ForCausalLM does not keep apart"):
        run_to_end(short_config(runs, base, "update.packing_window=8"))
    assert not (runs / "run" / "metrics.jsonl").exists()
