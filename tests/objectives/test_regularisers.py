"""KL to a reference and entropy bonus."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ngrpo import objectives
from ngrpo.errors import ConfigError
from ngrpo.objectives import EntropyBonus, ReferenceKL, TokenInputs, k3_kl


def test_k3_by_hand():
    # ref 1/4, current 1/2: d = log(1/2); exp(d) - d - 1 = .5 + .693147 - 1
    current, ref = torch.tensor([0.5]).double().log(), torch.tensor([0.25]).double().log()
    assert k3_kl(current, ref).item() == pytest.approx(0.193147, abs=1e-6)
    assert k3_kl(ref, ref).item() == 0.0


@settings(deadline=None, max_examples=60)
@given(st.floats(-30, 0), st.floats(-30, 0))
def test_k3_is_never_negative(current, ref):
    assert k3_kl(torch.tensor([current]).double(), torch.tensor([ref]).double()).item() >= 0.0


def test_k3_is_unbiased():
    # Mean under the current policy over all outcomes is the exact divergence.
    current = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    ref = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    exact = (current * (current / ref).log()).sum().item()
    assert (current * k3_kl(current.log(), ref.log())).sum().item() == pytest.approx(exact, abs=1e-12)


@pytest.mark.parametrize("difference", [-40.0, -3.0, 0.5, 3.0, 19.9, 21.0, 1000.0])
def test_k3_gradient_equals_finite_differences_and_pulls_back_however_far(difference):
    current = torch.tensor([-1.0], dtype=torch.float64, requires_grad=True)
    ref = torch.tensor([-1.0 + difference], dtype=torch.float64)
    k3_kl(current, ref).sum().backward()
    step = 1e-5
    numeric = (k3_kl(current.detach() + step, ref) - k3_kl(current.detach() - step, ref)) / (2 * step)
    assert current.grad.item() == pytest.approx(numeric.item(), rel=1e-6, abs=1e-9)
    assert math.copysign(1.0, current.grad.item()) == -math.copysign(1.0, difference)


def test_k3_stays_finite_in_float32():
    current = torch.tensor([-1000.0], requires_grad=True)
    loss = k3_kl(current, torch.tensor([0.0]))
    loss.backward()
    assert loss.isfinite().all()
    assert current.grad.isfinite().all()


def token_losses(current, ref, entropies, mask, **params):
    objective = objectives.get("reinforce", **params)
    zero = torch.zeros(len(current), dtype=current.dtype)
    return objective.token_terms(current, current.detach(), zero, mask, ref_logprobs=ref, entropies=entropies)


def test_regularisers_are_added_to_the_loss():
    current = torch.tensor([[0.5, 0.25]]).double().log()
    ref = torch.tensor([[0.25, 0.25]]).double().log()
    entropies, mask = torch.tensor([[0.7, 0.3]]).double(), torch.ones(1, 2)
    terms = token_losses(current, ref, entropies, mask, kl_coef=0.1, entropy_coef=0.01)
    # advantages are 0, so the loss is .1 x k3 - .01 x entropy
    assert terms.loss[0].tolist() == pytest.approx([0.0193147 - 0.007, -0.003], abs=1e-7)
    assert terms.kl_nats[0].tolist() == pytest.approx([0.193147, 0.0], abs=1e-6)
    assert not terms.kl_nats.requires_grad


def test_gradients_through_logits_equal_finite_differences():
    torch.manual_seed(0)
    logits = torch.randn(1, 3, 5, dtype=torch.float64)
    ref = torch.log_softmax(torch.randn(1, 3, 5, dtype=torch.float64), -1)
    chosen = torch.tensor([[[0], [3], [4]]])
    mask = torch.tensor([[1, 1, 0]])

    def loss(logits):
        logprobs = torch.log_softmax(logits, dim=-1)
        entropies = -(logprobs.exp() * logprobs).sum(-1)
        current = logprobs.gather(-1, chosen).squeeze(-1)
        ref_chosen = ref.gather(-1, chosen).squeeze(-1)
        return token_losses(current, ref_chosen, entropies, mask, kl_coef=0.3, entropy_coef=0.2).loss.sum()

    assert torch.autograd.gradcheck(loss, (logits.requires_grad_(),), eps=1e-6, atol=1e-8)


@pytest.mark.parametrize("junk", [math.nan, math.inf, -math.inf])
def test_masked_slots_reach_neither_value_nor_gradient(junk):
    current = torch.tensor([[-1.0, junk]], requires_grad=True)
    entropies = torch.tensor([[0.5, junk]], requires_grad=True)
    ref, mask = torch.tensor([[-2.0, junk]]), torch.tensor([[1, 0]])
    terms = token_losses(current, ref, entropies, mask, kl_coef=0.1, entropy_coef=0.1)
    terms.loss.sum().backward()
    assert terms.loss[0, 1].item() == 0.0
    assert terms.kl_nats[0, 1].item() == 0.0
    for gradient in (current.grad, entropies.grad):
        assert gradient[0, 1].item() == 0.0
        assert gradient[0, 0].item() != 0.0


def test_reference_logprobs_get_no_gradient():
    current, ref = torch.zeros(1, 1, requires_grad=True), torch.ones(1, 1, requires_grad=True)
    token_losses(current, ref, None, torch.ones(1, 1), kl_coef=0.1).loss.sum().backward()
    assert ref.grad is None


def test_divergence_is_reported_without_being_trained_on():
    current = torch.tensor([[0.5]]).log().requires_grad_()
    terms = token_losses(current, torch.tensor([[0.25]]).log(), None, torch.ones(1, 1))
    assert terms.kl_nats.item() == pytest.approx(0.193147, abs=1e-6)
    assert not terms.kl_nats.requires_grad
    assert terms.loss.item() == 0.0
    assert token_losses(current, None, None, torch.ones(1, 1)).kl_nats is None


def test_what_a_regulariser_needs_is_known_and_asked_for():
    plain = objectives.get("grpo")
    assert (plain.needs_reference, plain.needs_entropy) == (False, False)
    with_kl, with_entropy = objectives.get("grpo", kl_coef=0.1), objectives.get("grpo", entropy_coef=0.1)
    assert (with_kl.needs_reference, with_kl.needs_entropy) == (True, False)
    assert (with_entropy.needs_reference, with_entropy.needs_entropy) == (False, True)
    zeros = torch.zeros(1, 1)
    with pytest.raises(ConfigError, match=r"kl_coef is not 0.*ref_logprobs="):
        with_kl.token_terms(zeros, zeros, zeros[0], zeros + 1)
    with pytest.raises(ConfigError, match=r"entropy_coef is not 0.*entropies="):
        with_entropy.token_terms(zeros, zeros, zeros[0], zeros + 1)


def test_coefficients_are_not_negative():
    with pytest.raises(ConfigError, match=r"kl_coef must be 0 or more, got -0\.1"):
        ReferenceKL(-0.1)
    with pytest.raises(ConfigError, match=r"entropy_coef must be 0 or more, got -0\.1"):
        EntropyBonus(-0.1)


def test_parts_are_callable_alone():
    inputs = TokenInputs.of(*[torch.zeros(1, 2)] * 2, torch.zeros(1), torch.ones(1, 2), ref_logprobs=torch.zeros(1, 2))
    assert ReferenceKL(1.0)(inputs).tolist() == [[0.0, 0.0]]
