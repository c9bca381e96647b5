"""Top tokens and ranks against Python's stable sort, with many ties."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from prunescope.pipelines.metrics import ranking
from tests.examples import examples


@pytest.mark.parametrize("first_largest", [ranking._one_by_one, ranking._by_sorting])
def test_top_tokens_and_ranks_are_those_of_a_stable_sort(first_largest, monkeypatch):
    monkeypatch.setattr(ranking, "_first_largest", first_largest)

    @settings(max_examples=examples(60))
    @given(st.sampled_from([1, 2, 5, 128, 129, 700]), st.integers(0, 2**31), st.sampled_from([1, 3, 1000]))
    def compare(size, seed, levels):
        logits = torch.randint(levels, (3, size), generator=torch.Generator().manual_seed(seed)).float()
        order = [sorted(range(size), key=lambda token: -row[token]) for row in logits.tolist()]
        count = min(10, size)
        assert ranking.top_ids(logits, count).tolist() == [ids[:count] for ids in order]
        tokens = torch.randint(size, (3,), generator=torch.Generator().manual_seed(seed + 1))
        expected = [1 + ids.index(token) for ids, token in zip(order, tokens.tolist(), strict=True)]
        assert ranking.ranks(logits, tokens).tolist() == expected

    compare()
