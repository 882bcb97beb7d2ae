const NARROW_PX = 560;
const NARROW_X_LETTERS = 22, NARROW_Y_LETTERS = 30;
const NARROW_LEGEND = { orient: "bottom", columns: 1, labelLimit: 220 };

function isPlain(value) { return value !== null && typeof value === "object" && !Array.isArray(value); }

function merged(under, over) {
  const result = { ...under };
  for (const [key, value] of Object.entries(over)) {
    result[key] = isPlain(value) && isPlain(result[key]) ? merged(result[key], value) : value;
  }
  return result;
}

// A legend that was laid out for a desk is wider than a telephone: there its entries stand below each other.
// So are the titles of axes: there they go over several lines.
function wrapped(text, length) {
  const lines = [""];
  for (const word of text.split(" ")) {
    const longer = `${lines.at(-1)} ${word}`.trim();
    if (lines.at(-1) && longer.length > length) lines.push(word);
    else lines[lines.length - 1] = longer;
  }
  return lines.length > 1 ? lines : text;
}

function withWrappedTitle(channel, definition) {
  const length = { x: NARROW_X_LETTERS, y: NARROW_Y_LETTERS }[channel];
  if (!length) return definition;
  const wrap = (part) => (typeof part?.title === "string" ? { ...part, title: wrapped(part.title, length) } : part);
  return wrap(definition.axis ? { ...definition, axis: wrap(definition.axis) } : definition);
}

function narrowed(spec) {
  const encoding = Object.fromEntries(Object.entries(spec.encoding ?? {}).map(([channel, definition]) => (
    [channel, isPlain(definition?.legend) ? merged(definition, { legend: NARROW_LEGEND })
      : isPlain(definition) ? withWrappedTitle(channel, definition) : definition])));
  return { ...spec, ...(spec.encoding && { encoding }), ...(spec.layer && { layer: spec.layer.map(narrowed) }) };
}

// A specification is one view; it takes the width there is.
// One that says how wide it must be at least scrolls in its place where the page is narrower.
function fitted(spec, width, colour) {
  const isNarrow = width < NARROW_PX;
  const config = merged(spec.config ?? {}, chartConfig(colour));
  config.padding = { left: 5, top: 5, bottom: 5, right: isNarrow ? 18 : 5 }; // half of a last tick's label
  if (isNarrow) config.legend = { ...config.legend, ...NARROW_LEGEND };
  return {
    ...(isNarrow ? narrowed(spec) : spec), config, width: Math.max(width, spec.usermeta?.min_width ?? 0), autosize: { type: "fit-x", contains: "padding" },
    background: colour === pageColour ? "transparent" : "white",
  };
}

// `ast`: expressions are interpreted, so that the page can forbid evaluating text as code.
function embed(place, spec) {
  return vegaEmbed(place, spec, {
    actions: false, ast: true, defaultStyle: false, renderer: "svg", tooltip: { disableDefaultStyle: true },
  });
}

function specOf(figure) { return JSON.parse(figure.querySelector("script").textContent); }

async function draw(figure) {
  const chart = figure.querySelector(".chart");
  chart.drawnWidth = chart.clientWidth;
  try {
    const spec = fitted(specOf(figure), chart.clientWidth, pageColour);
    const place = document.createElement("div");
    const { view } = await embed(place, spec);
    if (!place.querySelector(".role-mark *")) throw new Error("nothing was drawn");
    chart.view?.finalize();
    chart.view = view;
    chart.replaceChildren(place);
  } catch (error) {
    fail(figure, error);
  }
  chart.classList.remove("waiting");
}

function fail(figure, error) {
  const sentence = `This chart could not be drawn (${error.message}). Its description and its numbers stand below.`;
  figure.querySelector(".chart").replaceChildren(make("p", { className: "failed", text: sentence }));
  figure.querySelector(".chart").removeAttribute("role"); // the sentence is to be read
  for (const details of figure.querySelectorAll("details")) details.open = true;
}

// For a paper: drawn anew in the light theme's colours, at the width it has on the page.
async function save(figure, format) {
  const width = Math.max(figure.querySelector(".chart").clientWidth, NARROW_PX);
  const { view } = await embed(document.createElement("div"), fitted(specOf(figure), width, lightColour));
  const link = make("a", { href: await view.toImageURL(format, 3), download: `${figure.id}.${format}` });
  link.click();
  view.finalize();
}

function addSaveButtons(figure) {
  const title = figure.querySelector("h3").textContent;
  const buttons = ["png", "svg"].map((format) => {
    const name = format.toUpperCase();
    const button = make("button", { type: "button", text: name, ariaLabel: `${name} file of the chart: ${title}` });
    button.addEventListener("click", () => save(figure, format).catch((error) => fail(figure, error)));
    return button;
  });
  figure.querySelector(".tools").append(...buttons);
}

// On the window's changes only, and not for the width of a scroll bar that a chart itself brought.
function redrawWhenResized(figures) {
  const redraw = later(() => {
    for (const figure of figures) {
      const chart = figure.querySelector(".chart");
      if (chart.view && Math.abs(chart.clientWidth - chart.drawnWidth) > 20) draw(figure);
    }
  }, 200);
  addEventListener("resize", redraw);
}

function startCharts() {
  const figures = [...document.querySelectorAll("figure")];
  const waiting = new Set(figures);
  const drawOnce = (figure) => { if (waiting.delete(figure)) draw(figure); };
  const near = new IntersectionObserver((entries) => {
    for (const { isIntersecting, target } of entries) if (isIntersecting) { near.unobserve(target); drawOnce(target); }
  }, { rootMargin: "800px" });
  for (const figure of figures) {
    figure.querySelector(".chart").classList.add("waiting");
    addSaveButtons(figure);
    near.observe(figure);
  }
  addEventListener("beforeprint", () => figures.forEach(drawOnce));
  redrawWhenResized(figures);
}
