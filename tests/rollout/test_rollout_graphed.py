"""Steps of fixed shapes: what they compute is what the model's forward pass computes, whatever rows come and go."""

import dataclasses

import numpy as np
import pytest
import torch

from helpers import make_prompts, small_policy
from model_kinds import kind_policy
from ngrpo.rollout import NativeEngine, SampleRequest, Sampling, graphed, native, random_key
from ngrpo.rollout.compact import CompactDecoder
from ngrpo.rollout.graphed import GraphedDecoder, SlotCache

FLOAT32, FLOAT64, BFLOAT16 = torch.float32, torch.float64, torch.bfloat16
PROMPTS = [(5, 9, 3), (7,), (4, 4, 8, 2, 6), (9, 3, 5, 7, 2, 8, 6, 4), (3, 8)]
LONGEST = 24


@pytest.fixture(autouse=True)
def _small_sizes(monkeypatch):
    """Steps of 2, 4, 8 rows and 8, 16, 24 columns, so that short rows cross from one to the next."""
    monkeypatch.setattr(graphed, "SMALLEST_ROWS", 2)
    monkeypatch.setattr(graphed, "SMALLEST_COLUMNS", 8)


class Rows:
    """Rows being decoded by both: forced tokens, and the forward pass on each whole sequence as what must come out."""

    def __init__(self, policy, decoder):
        self.policy, self.decoder, self.cache = policy, decoder, decoder.new_cache()
        self.sequences = []
        self.random = np.random.default_rng(0)

    @torch.inference_mode()
    def change(self, keep, prompts=()):
        """Prompts as the engine hands them over: right-aligned, with anything at all before them."""
        width = max(map(len, prompts), default=0)
        read = [self._read(prompt) for prompt in prompts]
        layers = [
            tuple(torch.cat([pad_left(each[number][part], width) for each in read]) for part in (0, 1))
            for number in range(len(self.decoder.layers) if read else 0)
        ]
        lengths = torch.tensor([len(prompt) for prompt in prompts], dtype=torch.long)
        self.cache.rebuild(torch.tensor(keep, dtype=torch.long), layers, lengths, torch.arange(len(prompts)))
        self.sequences = [self.sequences[row] for row in keep] + [list(prompt) for prompt in prompts]

    def _read(self, prompt):
        with self.policy.arithmetic():
            cache = self.policy.model(torch.tensor([prompt]), use_cache=True).past_key_values
        return [(layer.keys, layer.values) for layer in cache.layers]

    @torch.inference_mode()
    def step(self):
        """One token for each row; the logits [B, V] that come back."""
        tokens = self.random.integers(2, self.policy.model.config.vocab_size, size=len(self.sequences)).tolist()
        positions = torch.tensor([len(sequence) for sequence in self.sequences])
        for sequence, token in zip(self.sequences, tokens, strict=True):
            sequence.append(token)
        return self.decoder.step(torch.tensor(tokens), positions, self.cache)

    @torch.inference_mode()
    def expected(self):
        """[B, V] by the forward pass, row by row."""
        with self.policy.arithmetic():
            logits = [self.policy.model(torch.tensor([row]), use_cache=False).logits[0, -1] for row in self.sequences]
        return torch.stack(logits)


def pad_left(stored, width):
    return torch.nn.functional.pad(stored, (0, 0, width - stored.shape[2], 0), value=50.0)


def worst_gap(rows, *, num_steps):
    """Largest difference of a logit over some steps."""
    return max(float((rows.step() - rows.expected()).abs().max()) for _ in range(num_steps))


def gap_of_a_life(rows):
    """Rows come, cross from size to size, go and are replaced, down to one and up again."""
    gaps = []
    for keep, prompts, num_steps in [
        ([], PROMPTS[:3], 4),  # 3 rows of 4; columns up to 8, then 16
        ([0, 1, 2], [PROMPTS[3], PROMPTS[4]], 3),  # 5 rows of 8
        ([0, 4, 2], [], 2),  # the last takes the place of the second
        ([1, 2], [], 2),  # both move
        ([1], [], 1),  # one row
        ([0], PROMPTS[:4], 4),  # slots written over
        ([0, 1, 2, 3, 4], [PROMPTS[1]], 3),  # the longest row fills its slot
    ]:
        rows.change(keep, prompts)
        gaps.append(worst_gap(rows, num_steps=num_steps))
    return max(gaps)


@pytest.mark.parametrize(("dtype", "tolerance"), [(FLOAT32, 1e-5), (FLOAT64, 1e-9)])
@pytest.mark.parametrize("kind", ["qwen2", "llama", "qwen3"])
def test_logits_are_those_of_the_forward_pass_while_rows_come_and_go(kind, dtype, tolerance):
    policy = kind_policy(kind, dtype)
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=7)
    assert gap_of_a_life(Rows(policy, decoder)) <= tolerance * 3  # logits reach 3


def test_the_life_above_meets_many_sizes(monkeypatch):
    policy, sizes = kind_policy("qwen2", FLOAT32), []
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=7)
    plain = decoder._plain_states
    monkeypatch.setattr(decoder, "_plain_states", lambda size, slots: sizes.append(size) or plain(size, slots))
    gap_of_a_life(Rows(policy, decoder))
    assert {rows for rows, _ in sizes} == {2, 4, 7}  # no more than there are slots
    assert {columns for _, columns in sizes} == {8, 16, 24}


def test_it_agrees_with_the_compact_decoder_that_computes_in_bfloat16():
    policy = dataclasses.replace(kind_policy("qwen3", FLOAT32), autocast_dtype=BFLOAT16)
    rows = [Rows(policy, GraphedDecoder(policy, num_positions=LONGEST, max_rows=4))]
    rows.append(Rows(policy, CompactDecoder(policy, num_positions=LONGEST)))
    for each in rows:
        each.change([], PROMPTS[:4])
    for _ in range(5):
        ours, compact = (each.step() for each in rows)
        assert ours.dtype == compact.dtype == FLOAT32
        scale = float(ours.abs().max())
        assert float((ours - compact).abs().max()) <= 0.03 * scale
        assert float((ours - rows[0].expected()).abs().max()) <= 0.05 * scale
    assert rows[0].cache.stored.dtype == BFLOAT16
    assert rows[0].decoder.embedding.dtype == FLOAT32


def test_a_row_at_the_end_of_its_slot_disturbs_no_other():
    policy = kind_policy("qwen2", FLOAT64)
    rows = Rows(policy, GraphedDecoder(policy, num_positions=8, max_rows=2))
    rows.change([], [PROMPTS[2], PROMPTS[1]])
    for _ in range(6):  # the first row has 5 + 6 tokens in 8 columns, as one that ended and was not yet taken out
        gap = (rows.step() - rows.expected())[1].abs().max()
        assert float(gap) <= 1e-9


def test_slots_that_are_free_hold_one_token_so_that_reading_them_costs_little():
    policy = kind_policy("qwen2", FLOAT64)
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=7)
    rows = Rows(policy, decoder)
    rows.change([], PROMPTS)
    rows.step()
    rows.change([3, 1, 2])
    rows.step()
    assert decoder._positions[:4].tolist() == [9, 2, 6, 0]  # 3 rows in a step of 4


def test_new_weights_are_loaded_to_the_same_place():
    old, new = (kind_policy("qwen2", FLOAT64) for _ in range(2))
    with torch.no_grad():
        for parameter in new.model.parameters():
            parameter.mul_(1.25)
    decoder = GraphedDecoder(old, num_positions=LONGEST, max_rows=4)
    places = [tensor.data_ptr() for tensor in decoder.tensors()]
    decoder.load(new)
    assert [tensor.data_ptr() for tensor in decoder.tensors()] == places
    rows = Rows(new, decoder)
    rows.change([], PROMPTS[:3])
    assert worst_gap(rows, num_steps=3) <= 1e-9


def test_a_second_rollout_starts_from_an_empty_cache():
    policy = kind_policy("qwen2", FLOAT64)
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=4)
    for prompts in (PROMPTS[:4], PROMPTS[3:]):
        rows = Rows(policy, decoder)
        rows.change([], prompts)
        assert worst_gap(rows, num_steps=3) <= 1e-9


def test_it_says_what_fits():
    decoder = GraphedDecoder(small_policy(), num_positions=LONGEST - 1, max_rows=4)
    assert decoder.fits(num_positions=LONGEST, max_rows=4)  # columns come in eights
    assert not decoder.fits(num_positions=LONGEST + 1, max_rows=4)
    assert not decoder.fits(num_positions=LONGEST, max_rows=5)


# --- in the engine ---


@pytest.mark.parametrize(("max_rows", "tokens_per_look"), [(100, 1), (100, 8), (5, 1), (5, 8), (1, 3)])
def test_the_engine_samples_the_same_however_seldom_it_looks(monkeypatch, policy64, max_rows, tokens_per_look):
    requests = [
        SampleRequest(prompt, random_key(seed=0, stream=0, step=0, occurrence=place, sample=sample))
        for place, prompt in enumerate(make_prompts())
        for sample in range(3)
    ]
    sampling = Sampling(12)
    expected = NativeEngine(policy64).sample(requests, sampling)
    assert {completion.finish_reason for completion in expected} == {"eos", "length"}

    def new_state(asked, limit, most):
        num_positions = max(len(request.prompt.token_ids) for request in asked) + limit
        decoder = GraphedDecoder(policy64, num_positions=num_positions, max_rows=min(most, len(asked)))
        state = native._CompactState(policy64, decoder)
        state.tokens_per_look = tokens_per_look
        return state

    engine, ended = NativeEngine(policy64, max_rows=max_rows), []
    monkeypatch.setattr(engine, "_new_state", new_state)
    found = engine.sample(requests, sampling, on_completions=lambda places, _: ended.extend(places))
    assert sorted(ended) == list(range(len(requests)))
    for one, other in zip(found, expected, strict=True):
        assert (one.token_ids, one.finish_reason) == (other.token_ids, other.finish_reason)
        assert one.logprobs == pytest.approx(other.logprobs, abs=1e-9)
        assert one.entropy_nats == pytest.approx(other.entropy_nats, abs=1e-9)


# --- recording ---


class Replayed:
    """Like a CUDA graph: runs again what it ran once, on the same memory, into the same memory."""

    def __init__(self, decoder, size):
        self.decoder = decoder
        self.slots = graphed._Slots(decoder.new_cache(), *size)
        self.run = lambda: decoder._plain_states(size, self.slots)
        self.places, self.states, self.num_replays = self._places(), self.run(), 0

    def _places(self):
        read = [self.decoder._tokens, self.decoder._positions, self.decoder.new_cache().stored]
        return [tensor.data_ptr() for tensor in read + self.decoder.tensors()]

    def replay(self):
        assert self._places() == self.places
        self.states.copy_(self.run())
        self.num_replays += 1


def test_a_step_is_recorded_once_per_size_and_replayed_on_the_same_memory(monkeypatch):
    policy, made = kind_policy("qwen2", FLOAT64), []
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=7)

    def record(size):
        graph = Replayed(decoder, size)
        made.append((size, graph))
        return graphed._Recorded(graph, graph.states, graph.slots)

    monkeypatch.setattr(decoder, "_records", True)
    monkeypatch.setattr(decoder, "_record", record)
    assert gap_of_a_life(Rows(policy, decoder)) <= 1e-9
    assert len(made) == len({size for size, _ in made}) > 4
    assert sum(graph.num_replays for _, graph in made) == 4 + 3 + 2 + 2 + 1 + 4 + 3


@pytest.mark.skipif(torch.cuda.is_available(), reason="here a graph can be recorded")
def test_where_no_graph_can_be_recorded_it_says_so_once_and_goes_on(monkeypatch):
    policy = kind_policy("qwen2", FLOAT64)
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=4)
    monkeypatch.setattr(decoder, "_records", True)
    rows = Rows(policy, decoder)
    rows.change([], PROMPTS[:3])
    with pytest.warns(UserWarning, match="no CUDA graph could be recorded"):
        first = rows.step()
    assert float((first - rows.expected()).abs().max()) <= 1e-9
    assert worst_gap(rows, num_steps=3) <= 1e-9  # and no second warning, which would be an error


# --- attention over the columns in use ---


def by_the_book(query, key, value, cum_seq_q, cum_seq_k, *numbers, **options):
    """What the operator computes by its documentation: each row's queries over the first `seqused_k` of its keys."""
    max_q, max_k, dropout_p, is_causal, with_debug_mask = numbers
    assert (max_q, dropout_p, is_causal, with_debug_mask) == (1, 0.0, False, False)
    assert {cum_seq_q.dtype, cum_seq_k.dtype, options["seqused_k"].dtype} == {torch.int32}
    assert all(options[name] is None for name in options if name not in ("scale", "seqused_k"))
    mixed = torch.empty_like(query)
    for row, used in enumerate(options["seqused_k"].tolist()):
        first = int(cum_seq_k[row])
        assert used <= min(max_k, int(cum_seq_k[row + 1]) - first)
        assert int(cum_seq_q[row]) == row
        shared = query.shape[1] // key.shape[1]
        keys = key[first : first + used].repeat_interleave(shared, dim=1)
        values = value[first : first + used].repeat_interleave(shared, dim=1)
        scores = torch.einsum("hd,chd->hc", query[row], keys) * options["scale"]
        mixed[row] = torch.einsum("hc,chd->hd", scores.softmax(-1), values)
    nothing = query.new_empty(0)
    return mixed, nothing, nothing, nothing, nothing


@pytest.fixture
def flash_on_cpu():
    """The operator behind `flash_attention`, which PyTorch has for GPUs only, under its own schema."""
    graphed.flash_works.cache_clear()
    with torch.library._scoped_library("aten", "IMPL") as library:
        library.impl("_flash_attention_forward", by_the_book, "CPU")
        yield
    graphed.flash_works.cache_clear()


@pytest.mark.usefixtures("flash_on_cpu")
def test_attention_over_the_columns_in_use_gives_the_same():
    policy = kind_policy("llama", FLOAT64)
    decoder = GraphedDecoder(policy, num_positions=LONGEST, max_rows=7)
    assert decoder.new_cache().reads_own_columns_only
    assert gap_of_a_life(Rows(policy, decoder)) <= 1e-9
    assert decoder._size_of(3, 5) == (4, LONGEST)  # how long rows are makes no difference


@pytest.mark.usefixtures("flash_on_cpu")
def test_a_kernel_that_finds_something_else_is_not_used(monkeypatch):
    shape = ((4, 2), 8, FLOAT32, torch.device("cpu"))
    assert graphed.flash_works(*shape)
    graphed.flash_works.cache_clear()
    right = graphed.flash_attention
    monkeypatch.setattr(graphed, "flash_attention", lambda q, k, v, starts, lengths, scaling: right(
        q, k, v, starts, lengths.clamp_max(4), scaling))  # fmt: skip
    assert not graphed.flash_works(*shape)


def test_where_there_is_no_such_kernel_all_columns_are_read():
    graphed.flash_works.cache_clear()
    assert not graphed.flash_works((4, 2), 8, FLOAT32, torch.device("cpu"))


def test_empty_columns_have_no_weight_whatever_they_hold():
    random = torch.Generator().manual_seed(0)
    queries = torch.randn((2, 4, 8), generator=random, dtype=FLOAT64)
    keys, values = torch.randn((2, 2, 6, 2, 8), generator=random, dtype=FLOAT64)
    bias = torch.zeros(2, 6, dtype=FLOAT64)
    bias[0, 3:], bias[1, 5:] = -torch.inf, -torch.inf
    whole = graphed.masked_attention(queries, keys, values, bias, 0.3)
    keys[0, 3:], values[0, 3:] = 99.0, -99.0
    assert torch.equal(graphed.masked_attention(queries, keys, values, bias, 0.3), whole)
    for head in range(4):  # heads 0 and 1 share the first head of keys
        weights = (keys[1, :5, head // 2] @ queries[1, head] * 0.3).softmax(-1)
        assert torch.allclose(whole[1, head], weights @ values[1, :5, head // 2], atol=1e-12)


def test_a_cache_starts_as_zeros_in_the_dtype_of_the_products():
    policy = dataclasses.replace(kind_policy("qwen2", FLOAT32), autocast_dtype=BFLOAT16)
    cache = SlotCache(CompactDecoder(policy, num_positions=8), num_slots=3, num_columns=8)
    assert cache.stored.shape == (2, 2, 3, 8, 2, 8)  # layers, keys and values, slots, columns, heads, numbers
    assert cache.stored.dtype == BFLOAT16
    assert not cache.stored.any()


# --- with a GPU ---


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("precision", "tolerance"), [(None, 1e-4), (BFLOAT16, 0.05)])
def test_recorded_steps_agree_with_unrecorded_ones_on_a_gpu(precision, tolerance):
    policy = dataclasses.replace(kind_policy("qwen2", FLOAT32), autocast_dtype=precision)
    policy.model.to("cuda")
    with torch.device("cuda"):
        decoders = [GraphedDecoder(policy, num_positions=LONGEST, max_rows=7) for _ in range(2)]
        decoders[1]._records = False
        rows = [Rows(policy, decoder) for decoder in decoders]
        for keep, prompts in [([], PROMPTS[:3]), ([1, 2], PROMPTS[3:]), ([3], [])]:
            for each in rows:
                each.change(keep, prompts)
            for _ in range(4):
                recorded, plain = (each.step() for each in rows)
                assert torch.allclose(recorded, plain, atol=1e-5)  # another algorithm may be chosen while recording
                assert float((recorded - rows[0].expected()).abs().max()) <= tolerance * 3
    assert len(decoders[0]._recorded) > 1
