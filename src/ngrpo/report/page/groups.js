const KINDS = { all_wrong: "all wrong", mixed: "mixed", all_right: "all right" };

function counted(values) {
  const counts = new Map();
  for (const value of values) counts.set(value, (counts.get(value) ?? 0) + 1);
  return counts;
}

function fillSelect(select, counts, wordOf) {
  for (const [value, count] of counts) select.append(make("option", { value, text: `${wordOf(value)} (${count})` }));
}

function searchable(group) {
  return [group.prompt, group.gold, ...group.completions.filter((text) => text !== null)].join("\n").toLowerCase();
}

function matches(group, { run, kind, from, to, words }) {
  return (!run || group.run === run) && (!kind || group.kind === kind) && group.step >= from && group.step <= to
    && (!words || searchable(group).includes(words));
}

function verdict(group, place) {
  const isRight = group.correct[place];
  return make("p", { className: "verdict" }, [
    `Completion ${place + 1}: `,
    make("span", { className: isRight ? "right" : "wrong", text: isRight ? "\u2713 right" : "\u2717 wrong" }),
    `, reward ${number(group.rewards[place])}`,
  ]);
}

function advantageRow(method, value, largest) {
  const bar = make("i", { className: value > 0 ? "up" : "down", hidden: !value });
  if (value) bar.style.width = `${50 * Math.abs(value) / largest}%`;
  return make("tr", {}, [
    make("th", { scope: "row", text: method, title: method }),
    make("td", { className: "value", text: number(value) }),
    make("td", { className: "bar-cell", ariaHidden: "true" }, [make("span", { className: "bar" }, [bar])]),
  ]);
}

function advantageTable(group, place, largest) {
  const caption = `Advantage of completion ${place + 1} under each method`;
  const rows = Object.entries(group.advantages)
    .map(([method, values]) => advantageRow(method, values[place] ?? null, largest));
  return make("table", { className: "advantages" }, [
    make("caption", { className: "unseen", text: caption }), make("tbody", {}, rows),
  ]);
}

function textBox(text, name) {
  return make("pre", { className: "text", text, dir: "auto", tabIndex: 0, role: "region", ariaLabel: name });
}

function completionItem(group, place, largest) {
  const text = group.completions[place];
  const body = text === null
    ? make("p", { className: "missing", text: "The text of this completion was not kept." })
    : textBox(text, `Completion ${place + 1}`);
  const hasMethods = Object.keys(group.advantages).length > 0;
  return make("li", {}, [verdict(group, place), body, ...(hasMethods ? [advantageTable(group, place, largest)] : [])]);
}

function groupView(group) {
  const largest = Math.max(0, ...Object.values(group.advantages).flat().map(Math.abs));
  const numRight = group.correct.filter(Boolean).length;
  const facts = [group.run, `step ${group.step}`, KINDS[group.kind] ?? group.kind,
    `${numRight} of ${group.correct.length} right`];
  return [
    make("p", { className: "group-head" }, facts.map((text) => make("span", { text }))),
    make("h3", { text: "Prompt" }), textBox(group.prompt, "Prompt"),
    make("h3", { text: "Reference answer" }), textBox(group.gold, "Reference answer"),
    make("h3", { text: "Completions, and the advantage of each under each method" }),
    make("ol", { className: "completions" }, group.rewards.map((_, place) => completionItem(group, place, largest))),
  ];
}

function startGroups() {
  const groups = readJson("page-groups-data");
  if (!groups) return;
  const part = (name) => document.getElementById(`page-groups-${name}`);
  const [run, kind, from, to, words] = ["run", "kind", "from", "to", "words"].map(part);
  let found = [], at = 0;
  fillSelect(run, counted(groups.map((group) => group.run)), (name) => name);
  fillSelect(kind, counted(groups.map((group) => group.kind)), (name) => KINDS[name] ?? name);

  const show = () => {
    const several = found.length === groups.length ? "" : ` (of ${groups.length} in all)`;
    part("status").textContent = found.length ? `Group ${at + 1} of ${found.length}${several}` : "No group matches.";
    part("previous").ariaDisabled = String(at <= 0);
    part("next").ariaDisabled = String(at >= found.length - 1);
    part("view").replaceChildren(...(found.length ? groupView(found[at]) : []));
  };
  const filter = () => {
    const bound = (field, otherwise) => (field.value === "" ? otherwise : Number(field.value));
    const wanted = { run: run.value, kind: kind.value, from: bound(from, -Infinity), to: bound(to, Infinity),
      words: words.value.trim().toLowerCase() };
    found = groups.filter((group) => matches(group, wanted));
    at = 0;
    show();
  };
  const turn = (by) => {
    const target = Math.min(Math.max(at + by, 0), found.length - 1);
    if (target >= 0 && target !== at) { at = target; show(); }
  };

  for (const field of [run, kind]) field.addEventListener("change", filter);
  for (const field of [from, to, words]) field.addEventListener("input", later(filter, 150));
  part("previous").addEventListener("click", () => turn(-1));
  part("next").addEventListener("click", () => turn(1));
  part("clear").addEventListener("click", () => {
    for (const field of [run, kind, from, to, words]) field.value = "";
    filter();
  });
  part("browser").addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (!steps || event.altKey || event.ctrlKey || event.metaKey || event.target.matches("input, select")) return;
    event.preventDefault();
    turn(steps);
  });
  part("browser").hidden = false;
  filter();
}
