"""The cache of rows being decoded, against a list of keys and values per row: rows come and go, grow and shrink."""

import random

import pytest
import torch

from ngrpo.rollout import cache as cache_module
from ngrpo.rollout.cache import RowCache

KV_HEADS, QUERY_HEADS, SIZE, SCALING = 2, 6, 4, 0.5


class Row:
    """Keys and values [tokens, K, D] of one row."""

    def __init__(self, keys, values):
        self.keys, self.values = list(keys), list(values)

    def attend(self, queries):
        """[H, D] -> [H D], one head after the other."""
        mixed = []
        for head, query in enumerate(queries):
            kv_head = head * KV_HEADS // QUERY_HEADS
            keys = torch.stack([key[kv_head] for key in self.keys])
            values = torch.stack([value[kv_head] for value in self.values])
            mixed.append((keys @ query * SCALING).softmax(0) @ values)
        return torch.cat(mixed)


def read(lengths, generator):
    """Prompts of these lengths, right-aligned as the model reads them: keys and values [P, K, L, D]; noise before."""
    return tuple(
        torch.randn(len(lengths), KV_HEADS, max(lengths), SIZE, dtype=torch.float64, generator=generator) for _ in "kv"
    )


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("spare", [1, 3, 16])
def test_every_row_finds_its_own_tokens(seed, spare, monkeypatch):
    monkeypatch.setattr(cache_module, "SPARE_COLUMNS", spare)
    # Memory that nobody has written holds anything.
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, shape: self.new_full(shape, float("nan")))
    chance, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    most, rows = 40, []
    cache = RowCache(1, KV_HEADS, SIZE, most, torch.zeros(0, dtype=torch.float64))
    for _ in range(8):
        keep = chance.sample(range(len(rows)), chance.randint(0, len(rows)))
        lengths = [chance.randint(1, 9) for _ in range(chance.randint(1, 3))]
        keys, values = read(lengths, generator)
        sources = [chance.randrange(len(lengths)) for _ in range(chance.randint(0 if keep else 1, 4))]
        cache.rebuild(
            torch.tensor(keep, dtype=torch.long), [(keys, values)], torch.tensor(lengths), torch.tensor(sources).long()
        )
        rows = [rows[place] for place in keep]
        for source in sources:
            start = max(lengths) - lengths[source]
            rows.append(Row(keys[source, :, start:].transpose(0, 1), values[source, :, start:].transpose(0, 1)))
        for _ in range(chance.randint(0, min(12, most - max(len(row.keys) for row in rows)))):
            positions = torch.tensor([len(row.keys) for row in rows])
            queries = torch.randn(len(rows), QUERY_HEADS, SIZE, dtype=torch.float64, generator=generator)
            keys, values = torch.randn(2, len(rows), KV_HEADS, SIZE, dtype=torch.float64, generator=generator)
            cache.begin(positions)
            found = cache.attend(0, queries, keys, values, SCALING)
            for row, key, value in zip(rows, keys, values, strict=True):
                row.keys.append(key)
                row.values.append(value)
            expected = torch.stack([row.attend(query) for row, query in zip(rows, queries, strict=True)])
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_memory_is_given_back_when_long_rows_leave():
    cache = RowCache(1, KV_HEADS, SIZE, 1000, torch.zeros(0))
    none = torch.zeros(0, dtype=torch.long)
    generator = torch.Generator().manual_seed(0)
    for length, least, most in ((900, 900, 1000), (5, 5, 5 + cache_module.SPARE_COLUMNS)):
        prompt = tuple(part.float() for part in read([length], generator))
        cache.rebuild(none, [prompt], torch.tensor([length]), torch.tensor([0]))
        assert least < cache._stored[0][0].shape[2] <= most
