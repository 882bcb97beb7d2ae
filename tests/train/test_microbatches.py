"""Cutting rows into microbatches: every row once, within the budget, whatever the rows."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ngrpo.policy import shared_tokens
from ngrpo.train.packing import shared_microbatches
from ngrpo.train.rows import even_parts
from ngrpo.train.step import TrainingRow, microbatches

rows_of_any_length = st.lists(st.tuples(st.integers(1, 40), st.integers(1, 40)), max_size=40)


def make_rows(lengths):
    return [
        TrainingRow((place,) * prompt, (1,) * completion, (0.0,) * completion, 1.0)
        for place, (prompt, completion) in enumerate(lengths)
    ]


def padded_size(chunk):
    width = max(len(row.prompt_ids) for row in chunk)
    length = max(len(row.completion_ids) for row in chunk)
    return len(chunk) * (width + length)


@given(rows_of_any_length, st.integers(1, 400))
def test_every_row_once_and_every_microbatch_within_the_budget_or_of_one_row(lengths, budget):
    rows = make_rows(lengths)
    chunks = list(microbatches(rows, budget))
    places = [row.prompt_ids[0] for chunk in chunks for row in chunk]
    assert sorted(places) == list(range(len(rows)))
    assert all(chunk for chunk in chunks)
    assert all(padded_size(chunk) <= budget or len(chunk) == 1 for chunk in chunks)


@given(rows_of_any_length.filter(bool), st.integers(1, 400))
def test_no_microbatch_could_take_the_next_row(lengths, budget):
    chunks = list(microbatches(make_rows(lengths), budget))
    for one, other in pairwise(chunks):
        assert padded_size([*one, other[0]]) > budget


def test_a_row_that_is_too_long_is_alone():
    chunks = list(microbatches(make_rows([(2, 3), (2, 50), (2, 3)]), 20))
    assert [[len(row.completion_ids) for row in chunk] for chunk in chunks] == [[3, 3], [50]]


def test_rows_of_like_length_go_together():
    # 3 + 3 + 30 + 30 tokens: mixed, either microbatch would be padded to 2 x 32.
    chunks = list(microbatches(make_rows([(2, 1), (2, 30), (2, 1), (2, 30)]), 64))
    assert [[len(row.completion_ids) for row in chunk] for chunk in chunks] == [[1, 1], [30, 30]]


def test_ten_thousand_rows():
    rows = make_rows([(place % 17 + 1, place % 101 + 1) for place in range(10_000)])
    chunks = list(microbatches(rows, 16_384))
    assert sum(map(len, chunks)) == 10_000
    tokens = sum(len(row.prompt_ids) + len(row.completion_ids) for row in rows)
    assert len(chunks) < 1.3 * tokens / 16_384  # next to no padding


@given(st.lists(st.integers(), max_size=30), st.integers(1, 12))
def test_even_parts_keep_order_and_differ_by_one_at_most(items, count):
    parts = list(even_parts(items, count))
    assert [item for part in parts for item in part] == items
    sizes = [len(part) for part in parts]
    assert len(sizes) == count
    assert max(sizes) - min(sizes) <= 1


# --- prompts that are read once ---

rows_of_few_prompts = st.lists(st.tuples(st.integers(1, 5), st.integers(0, 40)), max_size=40)


def make_group_rows(sizes):
    """Rows of five prompts, of 4, 8, ... 20 tokens, in any order."""
    return [
        TrainingRow((prompt,) * 4 * prompt, (1,) * completion, (0.0,) * completion, 1.0, group=place)
        for place, (prompt, completion) in enumerate(sizes)
    ]


def tokens_of(rows):
    return shared_tokens([(row.prompt_ids, row.completion_ids) for row in rows])


@given(rows_of_few_prompts, st.integers(1, 300))
def test_every_row_with_a_completion_once_and_within_the_budget(sizes, budget):
    rows = make_group_rows(sizes)
    chunks = list(shared_microbatches(rows, budget))
    found = sorted(row.group for chunk, _ in chunks for row in chunk)
    assert found == [row.group for row in rows if row.completion_ids]
    for chunk, num_tokens in chunks:
        assert num_tokens == tokens_of(chunk)
        assert num_tokens <= budget or len(chunk) == 1


@given(rows_of_few_prompts, st.integers(1, 300))
def test_a_group_that_fits_is_never_split(sizes, budget):
    rows = make_group_rows(sizes)
    chunks = [chunk for chunk, _ in shared_microbatches(rows, budget)]
    for prompt in {row.prompt_ids for row in rows}:
        together = [row for row in rows if row.prompt_ids == prompt and row.completion_ids]
        if together and tokens_of(together) <= budget:
            assert sum(any(row.prompt_ids == prompt for row in chunk) for chunk in chunks) == 1


@given(rows_of_few_prompts, st.integers(1, 300))
def test_no_shared_microbatch_could_take_the_next_group(sizes, budget):
    rows = make_group_rows(sizes)
    chunks = [chunk for chunk, _ in shared_microbatches(rows, budget)]
    for one, other in pairwise(chunks):
        following = [row for row in rows if row.prompt_ids == other[0].prompt_ids]
        assert tokens_of([*one, *following]) > budget
