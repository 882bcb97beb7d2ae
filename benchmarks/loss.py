"""Loss and gradient over the vocabulary: ours by chunks, full logits, and the fused kernels of TRL and Liger.

What is run is the end of an update: from hidden states through the output layer to the loss of DAPO on tokens just
sampled, and back to the gradients of states and weights. All ways are given the same and must agree before anything is
timed. Repeats are interleaved, medians of ratios reported. Peak memory is taken in a process of its own for each way,
from what it holds with weights and their gradient at hand to the most it ever holds.

    ours         backward_through_head: the gradient in the same pass as the loss
    ours_twice   logprobs_of_states and autograd: logits made again on the way back
    full         all logits at once and log_softmax
    trl          the function that GRPOTrainer's fused head calls, with the entropy that it always asks for
    trl_bare     the same without entropy
    liger        LigerFusedLinearGRPOLoss, one completion at a time, as it is by default

TRL's and Liger's are skipped where they are not installed.

    python benchmarks/loss.py
    python benchmarks/loss.py --vocabulary 152064 --tokens 2048 --timed-tokens 0    # memory alone
"""

import importlib.util
import multiprocessing
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

import bench
from ngrpo import objectives
from ngrpo.objectives import Counts
from ngrpo.policy import backward_through_head, logprobs_of_states

WIDTH = 512
COMPLETION_TOKENS = 64
OBJECTIVE = objectives.get("dapo")
TOLERANCE = 1e-4
"""Largest relative difference of gradients from those of full logits, in float32."""


@dataclass(frozen=True)
class Case:
    """What every way is given: M tokens of N completions, all of one length.

    Attributes:
        head: The output layer, with a gradient of zeros.
        states: [M, WIDTH] its inputs; a gradient is asked for.
        token_ids: [M] the tokens.
        advantages: [N] one for each completion.
    """

    head: nn.Linear
    states: Tensor
    token_ids: Tensor
    advantages: Tensor

    @classmethod
    def of(cls, vocabulary: int, num_tokens: int) -> "Case":
        """Random numbers, the same every time."""
        torch.manual_seed(0)
        head = nn.Linear(WIDTH, vocabulary, bias=False)
        nn.init.normal_(head.weight, std=0.02)
        head.weight.grad = torch.zeros_like(head.weight)
        states = torch.randn(num_tokens, WIDTH, requires_grad=True)
        token_ids = torch.randint(vocabulary, (num_tokens,))
        return cls(head, states, token_ids, torch.randn(num_tokens // COMPLETION_TOKENS))

    def loss_of(self, first: int, last: int, logprobs: Tensor, entropies: Tensor | None) -> Tensor:
        """The loss of some completions, divided by the tokens of all; the ratio is 1 everywhere."""
        current = logprobs.reshape(last - first, COMPLETION_TOKENS)
        mask = torch.ones_like(current, dtype=torch.bool)
        terms = OBJECTIVE.token_terms(current, current.detach(), self.advantages[first:last], mask)
        counts = Counts(num_tokens=len(self.token_ids), num_sequences=len(self.advantages))
        return OBJECTIVE.reduce(terms, mask, counts=counts)

    def backward(self, logprobs: Tensor) -> float:
        """The loss of all of them, and back."""
        loss = self.loss_of(0, len(self.advantages), logprobs, None)
        loss.backward()
        return float(loss.detach())

    def gradients(self) -> list[Tensor]:
        """Of states and weights, and back to zeros."""
        found = [self.states.grad.clone(), self.head.weight.grad.clone()]
        self.states.grad.zero_()
        self.head.weight.grad.zero_()
        return found


def ours(case: Case) -> float:
    """One pass."""
    lengths = [COMPLETION_TOKENS] * len(case.advantages)
    loss = backward_through_head(
        case.head, case.states, case.token_ids, lengths, temperature=1.0, with_entropy=False, loss_of=case.loss_of
    )
    return float(loss)


def ours_twice(case: Case) -> float:
    """Two passes."""
    logprobs, _ = logprobs_of_states(case.head, case.states, case.token_ids, temperature=1.0, with_entropy=False)
    return case.backward(logprobs)


def full(case: Case) -> float:
    """Every logit there is."""
    logprobs = case.head(case.states).log_softmax(-1)
    return case.backward(logprobs.gather(-1, case.token_ids.unsqueeze(-1)).squeeze(-1))


def trl(case: Case, *, outputs: tuple[str, ...]) -> float:
    """As TRL's patched forward calls it."""
    from trl.kernels import ChunkedLogProbFunction
    from trl.trainer.utils import _CHUNKED_LOGPROB_CHUNK_SIZE as COLUMNS

    head = case.head
    found = ChunkedLogProbFunction.apply(
        case.states, head.weight, head.bias, case.token_ids, 1.0, COLUMNS, None, 1.0, outputs
    )
    return case.backward(found[0])


def liger(case: Case) -> float:
    """Liger's loss of the same name and denominator; what it could compile is the arithmetic on log-probabilities."""
    from liger_kernel.chunked_loss import LigerFusedLinearGRPOLoss

    rows = len(case.advantages)
    token_ids = case.token_ids.reshape(rows, COMPLETION_TOKENS)
    loss, _ = LigerFusedLinearGRPOLoss(beta=0.0, compiled=False, use_ref_model=False, loss_type="bnpo")(
        case.states.reshape(rows, COMPLETION_TOKENS, WIDTH),
        case.head.weight,
        token_ids,
        torch.ones_like(token_ids),
        case.advantages,
    )
    loss.backward()
    return float(loss.detach())


WAYS: dict[str, Callable[[Case], float]] = {
    "ours": ours,
    "ours_twice": ours_twice,
    "full": full,
    "trl": partial(trl, outputs=("entropy",)),
    "trl_bare": partial(trl, outputs=()),
    "liger": liger,
}
"""The loss by each way; gradients are added to those there."""

PACKAGES = {"trl": "trl", "trl_bare": "trl", "liger": "liger_kernel"}
"""What a way needs that may not be there."""


def check(case: Case, ways: list[str]) -> None:
    """All ways give one loss and one gradient."""
    loss = full(case)
    expected = case.gradients()
    for name in ways:
        found = WAYS[name](case)
        assert abs(found - loss) < TOLERANCE, f"{name}: a loss of {found}, where full logits give {loss}"
        for one, other in zip(case.gradients(), expected, strict=True):
            gap = float((one - other).norm() / other.norm())
            assert gap < TOLERANCE, f"{name}: gradients differ by {gap:.1e} of their norm"


def peak_mib(name: str, vocabulary: int, num_tokens: int) -> float:
    """Most memory that a way takes beyond weights and gradient. To be called in a fresh process, once."""
    torch.set_num_threads(1)
    WAYS[name](Case.of(64, COMPLETION_TOKENS))  # what is loaded on first use is not of the way
    case = Case.of(vocabulary, num_tokens)
    case.states.grad = torch.zeros_like(case.states)
    held_mib = resident_mib("VmRSS")
    WAYS[name](case)
    return resident_mib("VmHWM") - held_mib


def resident_mib(which: str) -> float:
    """Memory of this process as Linux counts it: `VmRSS` now, `VmHWM` at most since it began."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(which))


def memory_row(vocabulary: int, num_tokens: int, ways: list[str]) -> dict[str, object]:
    """Peak of each way, and its share of that of full logits."""
    peaks = {}
    for name in ways:
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            peaks[name] = pool.apply(peak_mib, (name, vocabulary, num_tokens))
    row: dict[str, object] = {"vocabulary": vocabulary, "tokens": num_tokens}
    row |= {f"{name}_mib": round(peak) for name, peak in peaks.items()}
    return row | {f"{name}_share": round(peak / peaks["full"], 3) for name, peak in peaks.items()}


def time_row(vocabulary: int, num_tokens: int, ways: list[str], repeats: int) -> dict[str, object]:
    """Tokens per second of ours, and how many times faster it is than each other."""
    case = Case.of(vocabulary, num_tokens)
    check(case, ways)

    def lap(name: str, repeat: int) -> float:
        WAYS[name](case)
        return num_tokens

    laps = bench.interleave({name: partial(lap, name) for name in ways}, repeats=repeats, warm_ups=0)
    return {"vocabulary": vocabulary, "tokens": num_tokens} | bench.compare(laps)


def main() -> None:
    """Prints a row for each vocabulary, of memory and of times."""
    parser = bench.arguments(__doc__, repeats=3)
    parser.add_argument("--vocabulary", nargs="+", type=int, default=[32_000, 152_064], help="tokens")
    parser.add_argument("--tokens", type=int, default=2048, help="predicted at once, for memory")
    parser.add_argument("--timed-tokens", type=int, default=512, help="the same, for times; 0: no times")
    options = parser.parse_args()
    is_here = {name: importlib.util.find_spec(package) is not None for name, package in PACKAGES.items()}
    ways = [name for name in WAYS if is_here.get(name, True)]
    others = ways[1:]
    shape = {"vocabulary": "vocabulary", "tokens": "tokens"}
    times = {"ours_per_cpu_s": "ours, tokens/CPU s", **{f"{name}_cpu_ratio": f"faster than {name}" for name in others}}
    peaks = {f"{name}_mib": f"{name}, peak MiB" for name in ways}
    report = bench.Report(options, {**shape, **peaks, "ours_share": "ours over full"})
    for vocabulary in options.vocabulary:
        report.add(memory_row(vocabulary, options.tokens, ways))
    if options.timed_tokens:
        rows = (time_row(vocabulary, options.timed_tokens, ways, options.repeats) for vocabulary in options.vocabulary)
        report.table({**shape, **times}, rows)
    for name, package in PACKAGES.items():
        if not is_here[name]:
            report.note(f"{name} left out: {package} is not installed.")


if __name__ == "__main__":
    main()
