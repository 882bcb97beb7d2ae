"""Gradients as training takes them, and their scalar products: against autograd on a loss written down anew."""

import pytest
import torch
from gradient_helpers import (
    SIX,
    config_of,
    cosine_of,
    exact_policy,
    make_groups,
    measured,
    naive_gradient,
    norm_of,
)
from transformers import GPT2Config, GPT2LMHeadModel

from helpers import small_policy
from ngrpo.errors import ConfigError
from ngrpo.lab import gradient_vectors
from ngrpo.lab.gradient_batches import sort_groups
from ngrpo.lab.gradient_methods import make_methods, rows_by_group
from ngrpo.lab.gradient_products import take_gradients
from ngrpo.lab.gradient_vectors import GradientTable, check_room, layers_of, leave_gradient


@pytest.fixture(scope="module")
def policy():
    return exact_policy()


@pytest.fixture(scope="module")
def groups(policy):
    return make_groups(policy)


def batches_of(groups):
    return {name: [groups[place] for place in places] for name, places in sort_groups(groups, 9).items()}


def taken(policy, groups, tmp_path, *, methods=SIX, num_parts=2, max_tokens=10**6):
    config = config_of(f"update.max_microbatch_tokens={max_tokens}")
    return take_gradients(
        policy,
        make_methods(methods, config),
        batches_of(groups),
        layers_of(policy),
        config,
        scratch=tmp_path,
        num_parts=num_parts,
        on_progress=lambda *_: None,
    )


def in_order(policy):
    return [parameter for layer in layers_of(policy) for parameter in layer.parameters]


def row_of(policy, gradients, key):
    gradients.table.take(gradients.keys.index(key))
    return torch.cat([parameter.grad.flatten() for parameter in in_order(policy)])


@pytest.fixture(params=["shared", "padded"])
def way(request, monkeypatch):
    if request.param == "padded":
        monkeypatch.setattr("ngrpo.train.step.can_share_prefix", lambda policy: False)
    return request.param


def test_the_gradient_of_each_method_and_batch_is_autograds(policy, groups, tmp_path, way):
    gradients = taken(policy, groups, tmp_path)
    for name, some in batches_of(groups).items():
        for method in SIX:
            naive = naive_gradient(policy, method, some, in_order(policy))
            # ngrpo leaves all-right groups out; its advantages there are 0 anyway, as the virtual one is right too.
            if (method, name) not in gradients.keys:
                assert naive.abs().max() < 1e-12, (method, name)
                continue
            torch.testing.assert_close(row_of(policy, gradients, (method, name)), naive, rtol=1e-9, atol=1e-12)


def test_scalar_products_are_those_of_the_gradients_layer_by_layer(policy, groups, tmp_path, monkeypatch):
    monkeypatch.setattr(gradient_vectors, "BLOCK_VALUES", 1000)  # many blocks in a layer
    gradients = taken(policy, groups, tmp_path)
    rows = torch.stack([row_of(policy, gradients, key) for key in gradients.keys])
    for layer, products in zip(layers_of(policy), gradients.whole, strict=True):
        part = rows[:, layer.start : layer.end]
        torch.testing.assert_close(torch.from_numpy(products), part @ part.T, rtol=1e-10, atol=1e-14)


def test_microbatches_change_nothing(policy, groups, tmp_path, way):
    small = taken(policy, groups, tmp_path, methods=("ngrpo", "psr"), max_tokens=1)
    large = taken(policy, groups, tmp_path, methods=("ngrpo", "psr"))
    assert small.keys == large.keys
    torch.testing.assert_close(torch.from_numpy(small.whole), torch.from_numpy(large.whole), rtol=1e-10, atol=1e-15)


def test_parts_change_nothing_of_the_whole(policy, groups, tmp_path):
    one = taken(policy, groups, tmp_path, num_parts=1)
    four = taken(policy, groups, tmp_path, num_parts=4)
    torch.testing.assert_close(torch.from_numpy(one.whole), torch.from_numpy(four.whole), rtol=1e-10, atol=1e-15)


def test_grpos_gradient_is_exactly_zero_on_all_wrong_groups(groups):
    policy = small_policy()  # float32, where rounding would show
    config = config_of()
    (grpo,) = make_methods(["grpo"], config)
    some = batches_of(groups)["all_wrong"]
    rows = [row for line in rows_by_group(grpo.objective, some) for row in line]
    assert len(rows) == 12
    leave_gradient(policy, grpo.objective, rows, num_tokens=50, temperature=0.7, max_microbatch_tokens=999)
    assert all(bool((parameter.grad == 0).all()) for parameter in policy.trainable_parameters())


def test_ngrpos_is_a_third_of_nsrs_on_all_wrong_groups_of_eight(policy, tmp_path):
    """A = (0 - 1/9) / std of eight zeros and a one; its mean square deviation is 8/81 * 9/8 = 1/9: A = -1/3."""
    groups = make_groups(policy, [[0] * 8, [0] * 8])
    told = measured(policy, groups, tmp_path, methods=("grpo", "ngrpo", "nsr"))
    assert norm_of(told, "grpo", "all_wrong")["whole"] == 0.0
    ratio = norm_of(told, "ngrpo", "all_wrong")["whole"] / norm_of(told, "nsr", "all_wrong")["whole"]
    assert ratio == pytest.approx(1 / 3, rel=1e-5)  # eps = 1e-6 beside the standard deviation 1/3
    assert cosine_of(told, ("ngrpo", "all_wrong"), ("nsr", "all_wrong"))["whole"] == pytest.approx(1.0, abs=1e-12)


def test_norms_and_cosines_of_wholes_and_parts_against_autograd(policy, groups, tmp_path):
    told = measured(policy, groups, tmp_path)
    some, parameters = batches_of(groups), in_order(policy)
    one = naive_gradient(policy, "ngrpo", some["all_wrong"], parameters)
    other = naive_gradient(policy, "grpo", some["mixed"], parameters)
    assert norm_of(told, "ngrpo", "all_wrong")["whole"] == pytest.approx(float(one.norm()), rel=1e-9)
    across = cosine_of(told, ("ngrpo", "all_wrong"), ("grpo", "mixed"))
    assert across["whole"] == pytest.approx(float(torch.cosine_similarity(one, other, 0)), abs=1e-9)
    assert "by_layer" not in across
    # Three all-wrong groups in two parts: two and one.
    norms = [float(naive_gradient(policy, "ngrpo", part, parameters).norm())
             for part in (some["all_wrong"][:2], some["all_wrong"][2:])]  # fmt: skip
    entry = norm_of(told, "ngrpo", "all_wrong")
    assert entry["estimate"] == pytest.approx(sum(norms) / 2, rel=1e-9)
    assert entry["num_parts"] == 2
    # Student's t of one degree of freedom is 12.706; the interval is cut at 0, below which no norm is.
    half = 12.7062 * abs(norms[0] - norms[1]) / 2
    assert entry["high"] == pytest.approx(entry["estimate"] + half, rel=1e-4)
    assert entry["low"] == pytest.approx(max(0.0, entry["estimate"] - half), rel=1e-4)
    layers = [each["whole"] for each in entry["by_layer"]]
    assert sum(each**2 for each in layers) ** 0.5 == pytest.approx(entry["whole"], rel=1e-10)
    by_layer = cosine_of(told, ("ngrpo", "mixed"), ("grpo", "mixed"))["by_layer"]
    block = layers_of(policy)[1]
    pair = [naive_gradient(policy, name, some["mixed"], list(block.parameters)) for name in ("ngrpo", "grpo")]
    assert by_layer[1] == pytest.approx(float(torch.cosine_similarity(*pair, 0)), abs=1e-9)


def test_expected_products_are_means_over_pairs_of_different_parts(policy, groups, tmp_path):
    """Three all-wrong groups in three parts, weighted by tokens: the pairs of different ones, and none with itself."""
    gradients = taken(policy, groups, tmp_path, methods=("ngrpo", "grpo"), num_parts=3)
    some, parameters = batches_of(groups), in_order(policy)
    parts = [naive_gradient(policy, "ngrpo", [group], parameters) for group in some["all_wrong"]]
    tokens = [sum(len(each.token_ids) for each in group.completions) for group in some["all_wrong"]]
    pairs = [(r, s) for r in range(3) for s in range(3) if r != s]
    mean = sum(tokens[r] * tokens[s] * float(parts[r] @ parts[s]) for r, s in pairs)
    expected, place = gradients.expected(), gradients.keys.index
    wrong, mixed, natural = (place(key) for key in (("ngrpo", "all_wrong"), ("grpo", "mixed"), ("ngrpo", "natural")))
    assert expected[wrong, wrong] == pytest.approx(mean / sum(tokens[r] * tokens[s] for r, s in pairs), rel=1e-9)
    assert expected[wrong, mixed] == pytest.approx(gradients.whole.sum(axis=0)[wrong, mixed], rel=1e-12)
    assert torch.isnan(torch.tensor(expected[[wrong, mixed], [natural, natural]])).all()
    alone = taken(policy, groups, tmp_path, methods=("ngrpo",), num_parts=1).expected()
    assert torch.isnan(torch.tensor(alone.diagonal())).all()


def test_a_method_with_a_regulariser_has_a_gradient_where_advantages_are_zero(policy, groups, tmp_path):
    gradients = taken(policy, groups, tmp_path, methods=("grpo", "grpo:entropy_coef=0.1", "dapo:entropy_coef=0.1"))
    assert ("grpo", "all_wrong") not in gradients.keys
    assert gradients.squared_norm(("grpo:entropy_coef=0.1", "all_wrong")) > 0
    assert ("dapo:entropy_coef=0.1", "all_wrong") not in gradients.keys  # its filter leaves them out


def test_layers_cover_every_parameter_once_and_have_their_names(policy):
    layers = layers_of(policy)
    assert [layer.name for layer in layers] == [
        "embedding (and head)",
        *(f"block {block} {part}" for block in (0, 1) for part in ("attention", "feed-forward", "norms")),
        "norms",
    ]
    places = [id(parameter) for layer in layers for parameter in layer.parameters]
    assert sorted(places) == sorted(id(parameter) for parameter in policy.trainable_parameters())
    assert [layer.start for layer in layers] == [0, *(layer.end for layer in layers[:-1])]
    assert layers[-1].end == sum(parameter.numel() for parameter in policy.trainable_parameters())


def test_layers_of_another_family_with_a_head_of_its_own():
    policy = small_policy()
    config = GPT2Config(vocab_size=20, n_positions=32, n_embd=8, n_layer=1, n_head=2, tie_word_embeddings=False)
    policy.model = GPT2LMHeadModel(config)
    parts = {(layer.block, layer.part) for layer in layers_of(policy)}
    blocks = {(0, "norms"), (0, "attention"), (0, "feed_forward")}
    # Positions of GPT-2 are neither the embedding of tokens nor in a block.
    assert parts == {(None, "embedding"), (None, "other"), (None, "norms"), (None, "head"), *blocks}


def test_a_model_without_anything_to_train_is_refused():
    policy = small_policy()
    policy.model.requires_grad_(False)
    with pytest.raises(ConfigError, match="no weight of the model can be trained"):
        layers_of(policy)


def test_a_disk_that_cannot_hold_the_gradients_is_said_before_the_first(policy, tmp_path):
    with pytest.raises(ConfigError, match=r"gradients of [\d,]+ numbers.*GiB of disk"):
        check_room(tmp_path, 10**12, layers_of(policy))


def test_the_table_gives_back_what_was_put_and_leaves_no_file(tmp_path):
    policy = small_policy()
    layers = layers_of(policy)
    parameters = policy.trainable_parameters()
    for place, parameter in enumerate(parameters):
        parameter.grad = torch.full_like(parameter, place + 0.1)
    table = GradientTable(tmp_path / "table", 2, layers)
    table.put(1)
    table.add(1, 0.5)
    for parameter in parameters:
        parameter.grad = None
    table.take(1)
    for place, parameter in enumerate(parameters):
        torch.testing.assert_close(parameter.grad, torch.full_like(parameter, 1.5 * (place + 0.1)))
    table.take(0)
    assert all(bool((parameter.grad == 0).all()) for parameter in parameters)
    table.close()
    assert not list(tmp_path.iterdir())
