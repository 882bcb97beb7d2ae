"""Reports made up for tests of the page: charts of every kind, groups of every kind, hostile text."""

import altair as alt

from ngrpo.report.model import Figure, Report, SampledGroup, Section, Table

METHODS = ("grpo", "dapo", "ngrpo", "psr", "nsr", "w_reinforce")
HOSTILE = (
    '</script><script>document.title = "owned"</script><img src=x onerror="document.title=\'owned\'">'
    "<!-- &amp; \u2028 \x00\x1b[31m \u202eabc\u202c"
)


def learning_curves(num_arms: int = 4, num_steps: int = 60) -> alt.LayerChart:
    """A line with a band for each arm."""
    rows = [
        {"step": step, "arm": f"{arm}, clip 0.16 and 0.24", "mean": y, "low": y - 0.06, "high": y + 0.06}
        for place, arm in enumerate(METHODS[:num_arms])
        for step in range(1, num_steps + 1)
        for y in [0.2 + 0.5 * step / (step + 20 + 6 * place)]
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(
        alt.X("step:Q", title="Rollout step"), alt.Color("arm:N", legend=alt.Legend(orient="bottom", columns=4))
    )
    band = base.mark_area(opacity=0.2).encode(alt.Y("low:Q", title="Share correct"), alt.Y2("high:Q"))
    return band + base.mark_line().encode(alt.Y("mean:Q"), tooltip=["arm:N", "step:Q", "mean:Q"])


def census() -> alt.Chart:
    """A stacked area."""
    kinds = {"all wrong": 0.6, "mixed": 0.3, "all right": 0.1}
    rows = [
        {"step": step, "kind": kind, "share": share + sign * step / 200}
        for step in range(60)
        for (kind, share), sign in zip(kinds.items(), (-1, 0.5, 0.5), strict=True)
    ]
    area = alt.Chart(alt.Data(values=rows)).mark_area()
    return area.encode(
        alt.X("step:Q"), alt.Y("share:Q", stack="zero", title="Share of groups"), alt.Color("kind:N", title=None)
    )


def heat_map() -> alt.LayerChart:
    """A heat map with its numbers in the cells."""
    rows = [{"low": low, "high": high, "gain": low - high} for low in (0.08, 0.16, 0.24) for high in (0.16, 0.24, 0.32)]
    base = alt.Chart(alt.Data(values=rows)).encode(alt.X("low:O"), alt.Y("high:O"))
    colour = alt.Color("gain:Q", scale=alt.Scale(scheme="blueorange", domainMid=0))
    return base.mark_rect().encode(colour) + base.mark_text(color="black").encode(alt.Text("gain:Q", format=".2f"))


def forest() -> alt.LayerChart:
    """Effects with intervals and a rule at zero."""
    rows = [
        {"effect": name, "low": x - 1, "high": x + 1, "x": x} for x, name in enumerate(("calibration", "clip", "both"))
    ]
    base = alt.Chart(alt.Data(values=rows)).encode(alt.Y("effect:N", title=None))
    zero = alt.Chart(alt.Data(values=[{"zero": 0}])).mark_rule(strokeDash=[4, 4]).encode(alt.X("zero:Q"))
    bars = base.mark_rule().encode(alt.X("low:Q", title="Points of pass@1"), alt.X2("high:Q"))
    return zero + bars + base.mark_point(filled=True, size=60).encode(alt.X("x:Q"), tooltip=["effect:N", "x:Q"])


def figure(name: str, chart: alt.TopLevelMixin, *, num_rows: int = 12) -> Figure:
    """A figure around a chart."""
    return Figure(
        id=name,
        title=f"The {name.replace('-', ' ')} of all arms stay close together and their intervals overlap",
        caption="Bands: 95 % intervals over 3 seeds. n = 128 prompts x 128 samples, T = 1. `reward/correct_frac`.",
        description=f"Description of {name}: all arms rise from 20 to about 60 percent within 60 steps.",
        spec=chart.to_dict(),
        columns=("arm", "step", "share correct"),
        rows=tuple((METHODS[place % 4], place, round(0.2 + place / 100, 3)) for place in range(num_rows)),
    )


def group(place: int, *, run: str = "ngrpo-seed0", text: str | None = None) -> SampledGroup:
    """A group of four whose kind goes round with its place: all wrong, mixed, all right."""
    num_right = (0, 1, 4)[place % 3]
    correct = tuple(index < num_right for index in range(4))
    return SampledGroup(
        run=run,
        step=place + 1,
        prompt=f"{place},5,7,2=14:" if text is None else text,
        gold="14" if text is None else text,
        kind=("all_wrong", "mixed", "all_right")[place % 3],
        completions=tuple(None if index == 3 else f"{place}+5*{index}" if text is None else text for index in range(4)),
        rewards=tuple(float(is_right) for is_right in correct),
        correct=correct,
        advantages={
            name: tuple(0.75 if is_right else -1 / 3 for is_right in correct) if name == "ngrpo" else (0.0,) * 4
            for name in METHODS
        },
    )


def synthetic_report(**changes) -> Report:
    """A report with every kind of part."""
    figures = (
        figure("learning-curves", learning_curves()),
        figure("census", census()),
        figure("clip-heat-map", heat_map()),
        figure("effects", forest()),
    )
    table = Table(
        "No method beats the base at large k",
        "Percent with 95 % intervals; n = 3 seeds x 128 prompts x 128 samples. * the interval excludes zero.",
        ("arm", "pass@1", "pass@8", "pass@32", "pass@128", "AUC(1..128)", "updates"),
        tuple((name, "27.3 [26.1, 28.4]", "60.0 *", "75.7", "86.7", "61.7", "320") for name in METHODS),
    )
    parts = {
        "title": "GRPO and its relatives on countdown",
        "subtitle": "18 runs of runs/objectives, read on 2026-11-21 by ngrpo 0.5.",
        "notices": ("runs/objectives/psr-seed2 stops at step 41 of 80: its file ends in the middle of a line.",),
        "sections": (
            Section("results", "Results", ("Every method ends below the base's AUC.",), figures[:1], (table,)),
            Section("groups", "What the groups were", ("What GRPO would have thrown away.",), figures[1:2]),
            Section("mechanisms", "Mechanisms", (), figures[2:]),
        ),
        "groups": tuple(group(place, run=f"{METHODS[place % 2]}-seed0") for place in range(30)),
        "configurations": {
            f"{name}-seed0": f'[objective]\ntype = "{name}"\nclip_low = 0.16\n' + "x = 1\n" * 30 for name in METHODS
        },
    }
    return Report(**(parts | changes))


def large_report(num_figures: int = 40, num_groups: int = 4000, num_steps: int = 100) -> Report:
    """What fifty runs make: 40 figures of a few hundred rows each, thousands of groups with long completions."""
    chart = learning_curves(num_arms=6, num_steps=num_steps)
    figures = tuple(figure(f"figure-{place}", chart, num_rows=300) for place in range(num_figures))
    return synthetic_report(
        sections=tuple(Section(f"section-{place}", f"Part {place}", (), figures[place::8]) for place in range(8)),
        groups=tuple(group(place, text=f"{place} " + "word " * 400) for place in range(num_groups)),
    )
