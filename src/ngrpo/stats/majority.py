"""maj@k: would the answer that most of k samples give be correct?"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ngrpo.errors import ConfigError, DataError


def majority_at_k(
    votes: ArrayLike, is_correct: ArrayLike, ks: Sequence[int], *, is_there: ArrayLike | None = None
) -> NDArray[np.float64]:
    """Chance that the answer given most often among `k` samples of a problem is correct.

    The samples of a problem are cut into disjoint blocks of k, in their order; every block is a vote of k fresh
    samples, so the mean over blocks is unbiased. Samples left over take no part. Answers that share the lead share the
    vote equally; a sample without an answer does not vote; a block in which none votes is wrong.

    Args:
        votes: [P, N] which answer a sample gave: a number from 0 on that is the same for equal answers of a problem, or
            anything below 0 where it gave none.
        is_correct: [P, N] its verdict. Where equal answers were judged differently, the answer counts as correct by the
            share of its votes in the block that are.
        ks: [K] block sizes, each at least 1 and at most the fewest samples of a problem.
        is_there: [P, N] which samples exist; left out, all do.

    Returns:
        [P, K] shares of blocks, in [0, 1].

    Raises:
        ConfigError: A k is below 1, or a problem has fewer samples.
        DataError: The shapes differ.

    Example:
        >>> majority_at_k([[0, 0, 1, 1]], [[True, True, False, False]], ks=[1, 2, 4])
        array([[0.5, 0.5, 0.5]])
        >>> majority_at_k([[0, 0, 1, -1]], [[True, True, False, False]], ks=[4])
        array([[1.]])
    """
    votes, is_correct = np.asarray(votes), np.asarray(is_correct, dtype=bool)
    is_there = np.ones(votes.shape, dtype=bool) if is_there is None else np.asarray(is_there, dtype=bool)
    if votes.ndim != 2 or votes.shape != is_correct.shape or votes.shape != is_there.shape:
        raise DataError(
            f"votes, verdicts and presence must all be [problems, samples], got {list(votes.shape)}, "
            f"{list(is_correct.shape)} and {list(is_there.shape)}."
        )
    num_samples = is_there.sum(axis=1)
    for k in ks:
        _check_k(k, num_samples)
    # Sorted by problem and answer, samples in order: so whatever k is, the votes of one answer in one block are a run.
    problem, place = np.nonzero(is_there & (votes >= 0))
    answer, order = votes[problem, place], (np.cumsum(is_there, axis=1) - 1)[problem, place]
    by_answer = np.lexsort((order, answer, problem))
    problem, answer, order = problem[by_answer], answer[by_answer], order[by_answer]
    verdicts = is_correct[is_there & (votes >= 0)][by_answer]
    columns = [_blocks_won(problem, answer, order, verdicts, num_samples, k) for k in ks]
    return np.stack(columns, axis=1) if columns else np.zeros((len(votes), 0))


def _check_k(k: int, num_samples: NDArray[np.int64]) -> None:
    if k < 1:
        raise ConfigError(f"k must be 1 or more, got {k}.")
    if (num_samples < k).any():
        first = int(np.argmax(num_samples < k))
        raise ConfigError(
            f"maj@{k} needs at least {k} samples of every problem, problem {first} has {num_samples[first]}. Sample "
            "more, or lower k."
        )


def _blocks_won(
    problem: NDArray[np.int64],
    answer: NDArray[np.int64],
    order: NDArray[np.int64],
    verdicts: NDArray[np.bool_],
    num_samples: NDArray[np.int64],
    k: int,
) -> NDArray[np.float64]:
    """[P] share of blocks won by a correct answer, of votes sorted by problem, answer and order."""
    num_blocks = num_samples // k
    firsts = np.cumsum(num_blocks) - num_blocks
    is_used = order // k < num_blocks[problem]
    block = (firsts[problem] + order // k)[is_used]
    answer, verdicts = answer[is_used], verdicts[is_used]
    won = np.zeros(int(num_blocks.sum()))
    if len(block):
        # Blocks of two problems differ, so a run ends where the block or the answer changes.
        starts = np.flatnonzero(np.r_[True, (block[1:] != block[:-1]) | (answer[1:] != answer[:-1])])
        counts = np.diff(np.r_[starts, len(block)])
        shares = np.add.reduceat(verdicts.astype(np.float64), starts) / counts
        block = block[starts]
        most = np.zeros(len(won), dtype=np.int64)
        np.maximum.at(most, block, counts)
        leads = counts == most[block]
        num_leaders = np.bincount(block[leads], minlength=len(won))
        won = np.bincount(block[leads], weights=shares[leads], minlength=len(won)) / np.maximum(num_leaders, 1)
    problem_of_block = np.repeat(np.arange(len(num_samples)), num_blocks)
    return np.bincount(problem_of_block, weights=won, minlength=len(num_samples)) / num_blocks
