const root = document.documentElement;

function isDark() {
  return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

function startTheme() {
  const button = document.getElementById("page-theme");
  const label = () => { button.textContent = isDark() ? "Light theme" : "Dark theme"; };
  button.hidden = false;
  label();
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", label);
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    label();
    try { localStorage.setItem("ngrpo-report-theme", root.dataset.theme); } catch { /* remembered where allowed */ }
  });
}

// Charts are SVG, so their text and rules take the page's own variables and follow the theme, and paper, by themselves.
// `colour` gives a variable's value: the reference for the page, the light theme's colour for a file.
function chartConfig(colour) {
  const soft = colour("--ink-soft"), ink = colour("--ink"), rule = colour("--rule"), strong = colour("--rule-strong");
  const words = { labelColor: soft, titleColor: ink, labelFontSize: 12, titleFontSize: 12, titleFontWeight: "normal" };
  return {
    font: 'system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif',
    axis: { ...words, gridColor: rule, domainColor: strong, tickColor: strong },
    legend: { ...words, labelLimit: 260, symbolOpacity: 1, symbolStrokeWidth: 2 }, // a band's legend is not faint
    header: words,
    title: { color: ink, subtitleColor: soft },
    view: { stroke: rule },
    text: { color: ink },
    rule: { color: strong },
  };
}

function pageColour(name) { return `var(${name})`; }

function lightColour(name) {
  const probe = document.body.appendChild(document.createElement("span"));
  probe.style.colorScheme = "light";
  probe.style.color = `var(${name})`;
  const colour = getComputedStyle(probe).color;
  probe.remove();
  return colour;
}
