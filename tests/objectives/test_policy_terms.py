"""Clipped surrogate and REINFORCE: values, gradients, clip flags, masked slots."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo.errors import ConfigError
from ngrpo.objectives import ClippedSurrogate, Reinforce, TokenInputs

NGRPO_CLIP = ClippedSurrogate(clip_low=0.16, clip_high=0.24)
DUAL_CLIP = ClippedSurrogate(clip_low=0.2, clip_high=0.28, dual_clip=3.0)


def inputs_at(ratios, advantage, dtype=torch.float64):
    """One row of tokens with the given ratios, and its current log-probabilities as a leaf."""
    old = torch.linspace(-3.0, -0.5, len(ratios), dtype=dtype)[None]
    current = (old + torch.tensor(ratios, dtype=dtype).log()).requires_grad_()
    advantages = torch.tensor([advantage], dtype=dtype)
    return current, TokenInputs.of(current, old, advantages, torch.ones_like(old, dtype=torch.bool))


@pytest.mark.parametrize(
    ("advantage", "objective"),
    [(1.0, [0.5, 0.84, 1.0, 1.24, 1.24]), (-1.0, [-0.84, -0.84, -1.0, -1.24, -1.5])],
)
def test_unit_vectors_of_the_asymmetric_clip(advantage, objective):
    _, inputs = inputs_at([0.5, 0.84, 1.0, 1.24, 1.5], advantage)
    assert (-NGRPO_CLIP(inputs).loss[0]).tolist() == pytest.approx(objective, abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(ratio=st.floats(1e-3, 50), advantage=st.floats(-3, 3), dual=st.booleans())
def test_surrogate_equals_the_min_form(ratio, advantage, dual):
    term = DUAL_CLIP if dual else NGRPO_CLIP
    _, inputs = inputs_at([ratio], advantage)
    clipped = min(max(ratio, 1 - term.clip_low), 1 + term.clip_high)
    objective = min(ratio * advantage, clipped * advantage)
    if dual and advantage < 0:
        objective = max(objective, term.dual_clip * advantage)
    assert -term(inputs).loss.item() == pytest.approx(objective, rel=1e-9, abs=1e-12)


def test_a_clip_binds_on_one_side_and_is_flagged_there():
    _, inputs = inputs_at([0.5, 1.0, 1.5], 1.0)
    terms = NGRPO_CLIP(inputs)
    assert terms.is_clipped_high.tolist() == [[False, False, True]]
    assert not terms.is_clipped_low.any()
    _, inputs = inputs_at([0.5, 1.0, 1.5], -1.0)
    terms = NGRPO_CLIP(inputs)
    assert terms.is_clipped_low.tolist() == [[True, False, False]]
    assert not terms.is_clipped_high.any()


def test_clipped_tokens_have_exactly_zero_gradient_on_the_binding_side():
    for advantage in (1.0, -1.0):
        current, inputs = inputs_at([0.5, 0.83, 0.85, 1.0, 1.23, 1.25, 1.5], advantage)
        terms = NGRPO_CLIP(inputs)
        terms.loss.sum().backward()
        is_clipped = terms.is_clipped_low | terms.is_clipped_high
        assert is_clipped.any()
        assert not current.grad[is_clipped].any()
        # Elsewhere d(-ratio A)/d current = -ratio A.
        assert torch.allclose(current.grad[~is_clipped], -advantage * terms.ratio[~is_clipped])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_at_the_very_bound_a_token_is_not_clipped_and_just_past_it_is(dtype):
    old = torch.zeros(1, 1, dtype=dtype)
    for bound, advantage in ((1.5, 1.0), (0.5, -1.0)):
        for direction, is_clipped in ((0.0, False), (1.0, True)):
            target = torch.tensor(bound, dtype=dtype)
            outward = torch.tensor(math.inf if advantage > 0 else 0.0, dtype=dtype)
            ratio = torch.nextafter(target, outward) if direction else target
            inputs = TokenInputs.of(old, old, torch.tensor([advantage], dtype=dtype), torch.ones(1, 1))
            terms = ClippedSurrogate(0.5, 0.5)(_with_ratio(inputs, ratio))
            assert (terms.is_clipped_low | terms.is_clipped_high).item() is is_clipped


def _with_ratio(inputs, ratio):
    """The same inputs with an exact ratio, which no logarithm gives."""

    class Exact(TokenInputs):
        def ratio(self):
            return ratio.reshape(1, 1)

    return Exact(inputs.current_logprobs, inputs.old_logprobs, inputs.advantages, inputs.mask)


def test_no_gradient_leaks_where_both_products_round_to_the_same_number():
    # In float32 the first ratio past the bound times 0.3 can round to the bound times 0.3: `min` splits gradients.
    current = torch.zeros(1, 400, requires_grad=True)
    old = -torch.linspace(0.2151, 0.2152, 400)[None]  # ratios around 1.24
    terms = NGRPO_CLIP(TokenInputs.of(current, old, torch.tensor([0.3]), torch.ones(1, 400)))
    terms.loss.sum().backward()
    assert terms.is_clipped_high.any()
    assert not terms.is_clipped_high.all()
    assert not current.grad[terms.is_clipped_high].any()
    assert current.grad[~terms.is_clipped_high].all()


def test_dual_clip_stops_negative_tokens_that_ran_away():
    current, inputs = inputs_at([0.5, 2.9, 3.1, 20.0], -1.0)
    terms = DUAL_CLIP(inputs)
    terms.loss.sum().backward()
    assert (-terms.loss[0]).tolist() == pytest.approx([-0.8, -2.9, -3.0, -3.0])
    assert current.grad[0].tolist() == pytest.approx([0.0, 2.9, 0.0, 0.0])
    _, inputs = inputs_at([20.0], 1.0)
    assert -DUAL_CLIP(inputs).loss.item() == pytest.approx(1.28)  # positive advantages have the upper clip


@settings(deadline=None, max_examples=40)
@given(
    ratios=st.lists(st.sampled_from([0.3, 0.7, 0.9, 1.0, 1.1, 1.6, 2.5, 4.0]), min_size=1, max_size=6),
    advantage=st.sampled_from([-2.0, -0.5, 0.7, 1.5]),
    term=st.sampled_from([NGRPO_CLIP, DUAL_CLIP, Reinforce()]),
)
def test_gradients_equal_finite_differences(ratios, advantage, term):
    current, inputs = inputs_at(ratios, advantage)
    term(inputs).loss.sum().backward()
    old, step = inputs.old_logprobs, 1e-6
    for token in range(len(ratios)):
        moved = torch.zeros_like(old)
        moved[0, token] = step
        losses = [
            term(TokenInputs.of(current.detach() + sign * moved, old, inputs.advantages, inputs.mask)).loss.sum().item()
            for sign in (1, -1)
        ]
        assert current.grad[0, token].item() == pytest.approx((losses[0] - losses[1]) / (2 * step), abs=1e-7)


def test_at_ratio_one_all_terms_have_the_same_gradient():
    gradients = []
    for term in (NGRPO_CLIP, DUAL_CLIP, Reinforce()):
        current, inputs = inputs_at([1.0, 1.0, 1.0], -0.7)
        term(inputs).loss.sum().backward()
        gradients.append(current.grad)
    assert torch.allclose(gradients[0], gradients[1])
    assert torch.allclose(gradients[0], gradients[2])


def test_reinforce_is_minus_advantage_times_logprob_and_reports_its_ratio():
    current, inputs = inputs_at([1.0, 2.0], -0.5)
    terms = Reinforce()(inputs)
    assert torch.allclose(terms.loss, 0.5 * current)
    assert terms.ratio[0].tolist() == pytest.approx([1.0, 2.0])
    assert not (terms.is_clipped_low | terms.is_clipped_high).any()


@pytest.mark.parametrize("term", [NGRPO_CLIP, DUAL_CLIP, Reinforce()])
@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_masked_slots_reach_neither_value_nor_gradient(term, junk):
    current = torch.tensor([[-1.0, junk, -2.0]], dtype=torch.float64, requires_grad=True)
    old = torch.tensor([[-1.1, junk, -2.0]], dtype=torch.float64)
    advantages = torch.tensor([[0.5, junk, 0.5]], dtype=torch.float64)
    terms = term(TokenInputs.of(current, old, advantages, torch.tensor([[True, False, True]])))
    terms.loss.sum().backward()
    for value in (terms.loss, terms.ratio, terms.is_clipped_low, terms.is_clipped_high, terms.is_counted):
        assert value[0, 1].item() == 0
        assert value.isfinite().all()
    assert current.grad[0, 1].item() == 0.0
    assert current.grad.isfinite().all()
    assert current.grad[0, 0].item() != 0.0


def test_only_current_logprobs_get_a_gradient():
    current, old, advantages = (torch.full((1, 2), value, requires_grad=True) for value in (-1.0, -1.1, 0.5))
    terms = NGRPO_CLIP(TokenInputs.of(current, old, advantages, torch.ones(1, 2)))
    terms.loss.sum().backward()
    # d(-ratio A)/d(current) = -ratio A, with ratio = exp(-1.0 + 1.1) below the bound and A = 0.5.
    assert current.grad.flatten().tolist() == pytest.approx([-0.5 * math.exp(0.1)] * 2)
    assert old.grad is None
    assert advantages.grad is None
    assert not terms.ratio.requires_grad


def test_log_ratios_are_clamped_and_taken_in_float32():
    current = torch.tensor([[0.0, -500.0]], dtype=torch.bfloat16, requires_grad=True)
    old = torch.tensor([[-500.0, 0.0]])
    terms = ClippedSurrogate(0.2, 0.2)(TokenInputs.of(current, old, torch.tensor([-1.0]), torch.ones(1, 2)))
    assert terms.loss.dtype == torch.float32
    assert terms.ratio[0].tolist() == pytest.approx([math.exp(20), math.exp(-20)], rel=1e-5)
    terms.loss.sum().backward()
    assert current.grad.tolist() == [[0.0, 0.0]]  # the clamp's gradient on the left, the clip's on the right


def test_float64_stays_float64():
    _, inputs = inputs_at([1.0], 1.0)
    assert NGRPO_CLIP(inputs).loss.dtype == torch.float64


def test_shapes_are_checked():
    good = torch.zeros(2, 3)
    with pytest.raises(
        ValueError, match=r"old_logprobs must have the shape \[2, 3\] of current_logprobs, got \[2, 4\]"
    ):
        TokenInputs.of(good, torch.zeros(2, 4), torch.zeros(2), good)
    with pytest.raises(ValueError, match=r"entropies must have the shape"):
        TokenInputs.of(good, good, torch.zeros(2), good, entropies=torch.zeros(3))
    for advantages in (torch.zeros(3), torch.zeros(2, 1), torch.tensor(0.0)):
        with pytest.raises(ValueError, match=r"advantages \[N\] or \[N, T\], got \[2, 3\] and"):
            TokenInputs.of(good, good, advantages, good)
    with pytest.raises(ValueError, match=r"log-probabilities must be \[N, T\]"):
        TokenInputs.of(good[0], good[0], torch.zeros(3), good[0])


def test_clips_refuse_impossible_bounds():
    with pytest.raises(ConfigError, match=r"clip_low and clip_high must be 0 or more, got -0\.1 and 0\.2"):
        ClippedSurrogate(-0.1, 0.2)
    with pytest.raises(ConfigError, match=r"dual_clip must be above 1, got 1\.0"):
        ClippedSurrogate(0.2, 0.2, dual_clip=1.0)
