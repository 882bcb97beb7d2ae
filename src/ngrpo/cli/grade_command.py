"""`ngrpo grade`: the verifier alone, for one pair or a file of them; and where two profiles differ."""

from pathlib import Path
from typing import Annotated

import typer

from ngrpo.errors import ConfigError

SHOWN = ("wrong", "correct", "all", "none")
PAIR_OPTIONS = ("--gold", "--answer", "--completion")
FILE_OPTIONS = ("--completion-column", "--answer-column", "--gold-column", "--to", "--skip-bad-golds")


def grade(
    file: Annotated[
        Path | None, typer.Argument(metavar="FILE.jsonl|FILE.parquet", help="Rows to grade; see below what is read.")
    ] = None,
    gold: Annotated[str | None, typer.Option(help="One pair: the reference answer, bare or a whole solution.")] = None,
    answer: Annotated[str | None, typer.Option(help=r"One pair: what stands in the `\boxed{}`.")] = None,
    completion: Annotated[
        str | None, typer.Option(help="One pair: all that the model wrote; `-` reads standard input.")
    ] = None,
    profile: Annotated[str, typer.Option(help="How strict: strict, lenient or paper (docs/verifier.md).")] = "strict",
    compare: Annotated[
        str | None, typer.Option(metavar="PROFILE,PROFILE", help="Print only where these two profiles differ.")
    ] = None,
    completion_column: Annotated[
        str | None, typer.Option(help="Column of completions. Default: completion, response or output.")
    ] = None,
    answer_column: Annotated[
        str | None, typer.Option(help="Column of bare answers, in place of completions: what stands in the box.")
    ] = None,
    gold_column: Annotated[str | None, typer.Option(help="Column of golds. Default: gold, answer or solution.")] = None,
    skip_bad_golds: Annotated[
        bool, typer.Option("--skip-bad-golds", help="Leave out rows whose gold no answer can match.")
    ] = False,
    show: Annotated[str, typer.Option(help="Which rows the table shows: wrong, correct, all or none.")] = "wrong",
    max_rows: Annotated[int, typer.Option(min=0, help="Rows the table shows.")] = 20,
    to: Annotated[
        Path | None, typer.Option(metavar="OUT.jsonl", help="Also write the rows there, as --json prints them.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per row in place of the table.")
    ] = False,
    timeout_s: Annotated[
        float, typer.Option(min=0.1, help="Processor seconds one comparison may take, then its kind is timeout.")
    ] = 10.0,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes that compare. Default: all cores.")] = None,
) -> None:
    r"""Judge answers against golds: verdict, extracted answer, rule, normal forms, how it was decided.

    A wrong answer is a result and no error: the exit code is 0. Text in the file is read, never executed.

    Read are rows with a completion and a gold (.jsonl, .parquet), lm-eval's `samples_*.jsonl`, lighteval's
    `details_*.parquet`, the JSONL of the paper's `eval.py`, and the `samples.jsonl` of an evaluation folder.

    For example:

    `ngrpo grade --gold '\frac{1}{2}' --answer 0.5`

    `ngrpo grade --gold 12 --completion 'I think it is 12.' --compare strict,paper`

    `ngrpo grade rollouts.jsonl --show all`

    `ngrpo grade rollouts.parquet --completion-column text --gold-column target --json > verdicts.jsonl`

    `ngrpo grade samples_aime25_2026-01-31.jsonl --compare strict,lenient`
    """
    from ngrpo.cli.grade_file import FileOptions, grade_file
    from ngrpo.cli.grade_pair import grade_pair
    from ngrpo.rewards import MathReward

    names = [profile] if compare is None else _two_profiles(compare)
    if show not in SHOWN:
        raise ConfigError(f"--show {show!r} is none of {', '.join(SHOWN)}. Choose one.")
    given = _given(locals(), PAIR_OPTIONS if file is not None else FILE_OPTIONS)
    if given:
        other = "for one pair, and a FILE is given, too" if file is not None else "for a FILE, and none is given"
        raise ConfigError(f"{', '.join(given)}: {other}. Give either FILE, or --gold with --answer or --completion.")
    if completion_column is not None and answer_column is not None:
        raise ConfigError("--completion-column and --answer-column both say where the answers are. Give one of them.")
    rewards = {name: MathReward(name, timeout_s=timeout_s, num_workers=workers) for name in names}
    try:
        if file is None:
            grade_pair(rewards, gold, answer, completion, as_json=as_json)
        else:
            options = FileOptions(
                file=file,
                completion_column=completion_column or answer_column,
                is_bare=answer_column is not None,
                gold_column=gold_column,
                skip_bad_golds=skip_bad_golds,
                show=show,
                max_rows=max_rows,
                to=to,
                as_json=as_json,
            )
            grade_file(rewards, options)
    finally:
        for reward in rewards.values():
            reward.close()


def _two_profiles(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    if len(names) != 2 or names[0] == names[1]:
        raise ConfigError(f"--compare {text!r} must be two profiles separated by a comma, such as strict,lenient.")
    return names


def _given(values: dict, options: tuple[str, ...]) -> list[str]:
    """Those of the options that were given; values are by the names of parameters."""
    return [option for option in options if values[option.removeprefix("--").replace("-", "_")] not in (None, False)]
