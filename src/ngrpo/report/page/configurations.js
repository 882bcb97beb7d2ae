// Without JavaScript each run's configuration is a disclosure; here one is chosen, filtered and copied.
function startConfigurations() {
  const part = (name) => document.getElementById(`page-configurations-${name}`);
  const controls = part("controls");
  if (!controls) return;
  const all = [...document.querySelectorAll(".configuration")];
  const select = part("run"), words = part("words");
  const texts = all.map((details) => details.querySelector("pre").textContent);
  all.forEach((details, index) => select.append(make("option", {
    value: String(index), text: details.querySelector("summary").textContent,
  })));

  const show = () => {
    const wanted = words.value.trim().toLowerCase();
    all.forEach((details, index) => {
      const isChosen = index === Number(select.value);
      details.hidden = !isChosen;
      details.open = isChosen;
      if (!isChosen) return;
      const lines = texts[index].split("\n").filter((line) => line.toLowerCase().includes(wanted));
      details.querySelector("pre").textContent = lines.length ? lines.join("\n") : "No line matches.";
    });
    part("status").textContent = "";
  };
  select.addEventListener("change", show);
  words.addEventListener("input", later(show, 100));
  part("copy").addEventListener("click", async () => {
    part("status").textContent = (await copied(texts[Number(select.value)], all[Number(select.value)]))
      ? "Copied." : "The browser refused to copy; the text is selected.";
  });
  controls.hidden = false;
  show();
}

async function copied(text, details) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    getSelection().selectAllChildren(details.querySelector("pre"));
    return false;
  }
}
