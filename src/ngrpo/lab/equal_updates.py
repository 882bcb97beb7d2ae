"""The comparison at equal numbers of updates, beside the one at equal rollouts; see `updates` for what counts."""

from collections.abc import Mapping
from dataclasses import dataclass

from ngrpo.lab.arms import evaluation_of, run_config, run_name
from ngrpo.lab.experiment import Results, run_side_by_side
from ngrpo.lab.experiment_folder import runs_folder
from ngrpo.lab.jobs import EVAL, Job, failure_of
from ngrpo.lab.parallel import RunTasks, Task
from ngrpo.lab.results import Row, read_row
from ngrpo.lab.updates import Extension, gradient_updates, is_extended, run_extension
from ngrpo.train.checkpoint import checkpoint_steps


@dataclass(frozen=True)
class EqualUpdates:
    """What came out.

    Attributes:
        rows: By arm name.
        updates: By arm name, updates with a gradient of each seed's run.
        steps: By arm name, rollout steps of each seed's run.
        failed: By arm name, why it has no row.
    """

    rows: Mapping[str, Row]
    updates: Mapping[str, list[int]]
    steps: Mapping[str, list[int]]
    failed: Mapping[str, str]


def run_equal_updates(results: Results, *, run_tasks: RunTasks) -> EqualUpdates:
    """Lengthens runs that made fewer updates with a gradient than the method with the most, seed by seed.

    Args:
        results: Of the comparison at equal rollouts. Controls are left as they are.
        run_tasks: Runs what is to be run, side by side.

    Raises:
        Interrupted: Asked to stop; everything was saved.
    """
    plan, folder = results.plan, results.folder
    arms = [arm for arm in plan.arms if arm.role == "method" and arm.name in results.rows]
    places = {(arm.name, seed): runs_folder(folder) / run_name(arm, seed) for arm in arms for seed in plan.seeds}
    counts = {key: sum(gradient_updates(place)) for key, place in places.items()}
    todo = []
    for arm in arms:
        for seed in plan.seeds:
            source, wanted = places[arm.name, seed], max(counts[other.name, seed] for other in arms)
            if counts[arm.name, seed] < wanted:
                place = places[arm.name, seed] = folder / "equal_updates" / source.name
                config = run_config(plan, arm, seed, base=results.base_folder, folder=place)
                job = Job(place, results.base_folder, config, evaluation_of(plan), plan.plugins)
                todo.append(Extension(job, source, wanted))
    (folder / "equal_updates").mkdir(exist_ok=True)
    missing = [extension for extension in todo if not is_extended(extension)]
    run_side_by_side(
        folder,
        [Task(extension.job.folder.name, run_extension, extension) for extension in missing],
        {"evaluate": sum(extension.job.num_samples for extension in missing)},
        run_tasks=run_tasks,
    )
    failed = {name: f"seed {seed}: {why}" for (name, seed), place in places.items() if (why := failure_of(place))}
    of_arm = {arm.name: [places[arm.name, seed] for seed in plan.seeds] for arm in arms if arm.name not in failed}
    return EqualUpdates(
        rows={name: read_row(name, [place / EVAL for place in own]) for name, own in of_arm.items()},
        updates={name: [sum(gradient_updates(place)) for place in own] for name, own in of_arm.items()},
        steps={name: [checkpoint_steps(place / "checkpoints")[-1] for place in own] for name, own in of_arm.items()},
        failed=failed,
    )
