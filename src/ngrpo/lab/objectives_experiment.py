"""Methods against each other from one base: `ngrpo lab objectives`.

All methods get as many rollouts; with `equal_updates`, those that had fewer updates with a gradient are compared again
after as many (`updates` says what counts). The base at lower temperature is shown and compared with, too: what sharper
sampling gives needs no training.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from ngrpo.errors import ConfigError
from ngrpo.lab.arms import held_equal, run_settings
from ngrpo.lab.controls import control_arms
from ngrpo.lab.equal_updates import EqualUpdates, run_equal_updates
from ngrpo.lab.experiment import Results, read_results, run_experiment
from ngrpo.lab.experiment_folder import check_before_search
from ngrpo.lab.learning_rate import GRID_FACTORS, MAX_SAMPLES, NUM_SEEDS, choose_rates, grid_around, with_rate
from ngrpo.lab.parallel import RunTasks
from ngrpo.lab.plan import SHARP_TEMPERATURE, Arm, Plan
from ngrpo.lab.results import Row
from ngrpo.lab.setups import Setup
from ngrpo.lab.tables import WEIGHTING, Table, difference_table, exactness, value_table, with_failed, write_results
from ngrpo.lab.training_means import spread, training_table
from ngrpo.lab.updates import MAX_STRETCH, check_extendable

METHODS = ("grpo", "ngrpo", "dapo", "psr", "nsr", "w_reinforce")
SHARP_TEMPERATURES = (0.2, 0.4, 0.6, 0.8)


@dataclass(frozen=True)
class ObjectivesSettings:
    """What is asked of the experiment.

    Attributes:
        folder: The experiment folder.
        setup: World and sizes.
        model: Base model: `world:NAME` or a folder.
        methods: Names in the catalog; differences are to `grpo`, or to the first where it is not among them.
        num_seeds: Runs of each.
        first_seed: The first of their seeds; others repeat a finding.
        plugins: Files that register methods.
        with_controls: Whether the entropy bonus, the random reward and a grid of temperatures are run too.
        chooses_rates: Whether a learning rate is chosen for each method; else all have the setup's.
        equal_updates: Whether methods are compared at equal numbers of updates too.
        command: The command line, for the record.
    """

    folder: Path
    setup: Setup
    model: str
    methods: tuple[str, ...] = METHODS
    num_seeds: int = 3
    first_seed: int = 0
    plugins: tuple[str, ...] = ()
    with_controls: bool = True
    chooses_rates: bool = False
    equal_updates: bool = False
    command: tuple[str, ...] = ()


def run_objectives(settings: ObjectivesSettings, run_tasks: RunTasks) -> list[Table]:
    """Runs what is not on disk yet, and writes `results.json` and `results.md`.

    Args:
        settings: What is asked.
        run_tasks: Runs what is to be run, side by side.

    Raises:
        ConfigError: A method is unknown, named twice, or needs a parameter; a schedule ends with the run and is to be
            gone on with.
        RunFolderError: The folder holds another experiment.
        Interrupted: Asked to stop; everything was saved, and the same command goes on.
    """
    plan = objectives_plan(settings)
    if settings.chooses_rates:
        plan = with_chosen_rates(settings, plan, run_tasks)
    results = run_experiment(settings.folder, plan, command=settings.command, run_tasks=run_tasks)
    equal = run_equal_updates(results, run_tasks=run_tasks) if settings.equal_updates else None
    tables = objectives_tables(results, equal)
    failed = {**results.failed, **(equal.failed if equal else {})}
    write_results(settings.folder, tables, {"failed": failed, **plan.notes})
    return tables


TRAINED_COMPLETION_S, SAMPLE_S, RUN_S = 7e-4, 4e-4, 3.0
"""Processor seconds of one completion trained on, of one sampled (and scored) in an evaluation, and of starting a run:
measured in countdown with its own base on two busy cores. The bars know better as soon as runs are under way."""


def estimate_s(settings: ObjectivesSettings, num_processes: int) -> float:
    """About how long it takes from nothing, without a base model that has to be built, in seconds."""
    plan, setup = objectives_plan(settings), settings.setup
    rollout = run_settings(setup).rollout
    num_searched = NUM_SEEDS * len(GRID_FACTORS) * len(settings.methods) * settings.chooses_rates
    trained = setup.num_steps * rollout.num_prompts_per_step * rollout.num_samples_per_prompt
    sampled = setup.num_test_prompts * setup.num_samples
    searched = setup.num_test_prompts * min(setup.num_samples, MAX_SAMPLES)
    num_evaluations = len(plan.arms) * plan.num_seeds + 2 + len(plan.sharp_temperatures)
    num_trained = len(plan.arms) * plan.num_seeds + num_searched
    of_trained = num_trained * (trained * TRAINED_COMPLETION_S + RUN_S)
    return (of_trained + (num_evaluations * sampled + num_searched * searched) * SAMPLE_S) / num_processes


def objectives_plan(settings: ObjectivesSettings) -> Plan:
    """The arms: every method, then the controls."""
    if len(set(settings.methods)) != len(settings.methods):
        raise ConfigError(f"--methods {','.join(settings.methods)} names a method twice. Name each once.")
    if settings.equal_updates:
        check_extendable(run_settings(settings.setup))
    arms = tuple(Arm(name, name) for name in settings.methods) + (control_arms() if settings.with_controls else ())
    return Plan(
        kind="objectives",
        setup=settings.setup,
        arms=arms,
        num_seeds=settings.num_seeds,
        first_seed=settings.first_seed,
        model=settings.model,
        held_equal=held_equal(settings.setup, arms),
        sharp_temperatures=SHARP_TEMPERATURES if settings.with_controls else (SHARP_TEMPERATURE,),
        plugins=settings.plugins,
        notes={"equal_updates": settings.equal_updates},
    )


def with_chosen_rates(settings: ObjectivesSettings, plan: Plan, run_tasks: RunTasks) -> Plan:
    """The plan with a learning rate for each method; controls get that of the method they are a variant of.

    Raises:
        RunFolderError: The folder holds another experiment.
    """
    check_before_search(settings.folder, plan)
    methods = replace(plan, arms=tuple(arm for arm in plan.arms if arm.role == "method"))
    choice = choose_rates(
        settings.folder,
        methods,
        grid=grid_around(run_settings(settings.setup).optim.lr),
        command=settings.command,
        run_tasks=run_tasks,
    )
    arms = tuple(with_rate(arm, rate) if (rate := choice.rates.get(arm.objective)) else arm for arm in plan.arms)
    held = (*plan.held_equal, "but for the learning rate, chosen for each method on validation prompts")
    return replace(plan, arms=arms, held_equal=held, notes={**plan.notes, "learning_rates": choice.as_dict()})


def objectives_tables(results: Results, equal: EqualUpdates | None) -> list[Table]:
    """Everything that is shown of a finished experiment."""
    plan, failed = results.plan, results.failed
    values = [name for name in results.base.values if name.startswith(("pass@", "AUC"))]
    others = [name for name in results.base.values if name not in values]
    interval = f"{exactness(results.base)}95 % intervals over seeds and prompts (of the base: over prompts)."

    def everyone(of: Results) -> list[Row]:
        return [of.base, *(of.cooler or [of.sharp]), *of.rows.values()]

    tables = [
        value_table("Held-out pass@k", everyone(results), quantities=values, caption=f"Percent. {interval}"),
        value_table(
            "Groups of 8, entropy and length, held out",
            everyone(results),
            quantities=others,
            caption=f"Percent of groups. {interval} {WEIGHTING}",
        ),
        training_table(results),
        *_difference_tables(results, ""),
    ]
    if "hard" in results.base.difficulties:
        hard = read_results(results.folder, plan, difficulty="hard")
        caption = f"Percent. {interval}"
        tables.append(value_table("Hard prompts: pass@k", everyone(hard), quantities=values, caption=caption))
        tables += _difference_tables(hard, "Hard prompts: ")[:1]
    tables = [with_failed(table, failed) for table in tables]
    return tables + (equal_updates_tables(results, equal) if equal else [])


def _difference_tables(results: Results, prefix: str) -> list[Table]:
    """To the reference method, to the base, and to the sharpened base."""
    caption = (
        "Points, nats and tokens, paired by seed and prompt, 95 % intervals. Not established: the interval contains "
        f"zero, or there is one seed. {WEIGHTING}"
    )
    rows = list(results.rows.values())
    reference = reference_of(results)
    if "grpo" in results.failed and reference is not None:
        caption += f" GRPO failed, so that {reference.name} is the reference."
    others = [row for row in rows if reference is None or row.name != reference.name]
    tables = [
        difference_table(f"{prefix}differences to {other.name}", compared, other, caption=caption)
        for other, compared in ((reference, others), (results.base, rows), (results.sharp, rows))
        if other is not None and compared
    ]
    return [replace(table, title=table.title[0].upper() + table.title[1:]) for table in tables]


def reference_of(results: Results) -> Row | None:
    """GRPO's row, or that of the first method that has one."""
    names = [arm.name for arm in results.plan.arms if arm.role == "method" and arm.name in results.rows]
    return results.rows["grpo" if "grpo" in names else names[0]] if names else None


def equal_updates_tables(results: Results, equal: EqualUpdates) -> list[Table]:
    """The same comparison after equal numbers of updates with a gradient."""
    rows = list(equal.rows.values())
    if not rows:
        return []
    values = [name for name in rows[0].values if name.startswith(("pass@", "AUC"))]
    table = value_table("At equal updates: pass@k", rows, quantities=values)
    cells = {
        name: {
            "updates": spread(equal.updates[name], "updates"),
            "steps": spread(equal.steps[name], "steps"),
            **of_row,
        }
        for name, of_row in table.rows.items()
    }
    caption = (
        "Percent. Runs with fewer updates with a gradient than the method with the most (seed by seed) were gone on "
        f"with, for at most {MAX_STRETCH} times the rollout steps. {_went_on_to(results.plan)}"
    )
    table = replace(table, rows=cells, columns=("updates", "steps", *values), caption=caption)
    shown = replace(results, rows=equal.rows, failed={**results.failed, **equal.failed})
    failed = [arm.name for arm in results.plan.arms if arm.role == "method" and arm.name in shown.failed]
    return [with_failed(each, failed) for each in (table, *_difference_tables(shown, "at equal updates: ")[:1])]


def _went_on_to(plan: Plan) -> str:
    """Which prompts a lengthened run has seen that the others have not."""
    config = run_settings(plan.setup)
    if config.train.num_steps * config.rollout.num_prompts_per_step < config.data.size:
        return "They have seen more of the training prompts."
    return "They have seen the same training prompts again, in a further epoch, and no others."
