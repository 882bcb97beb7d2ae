// In the head, before the first paint: the theme chosen last time. Storage may be refused; then the system's is used.
try {
  const chosen = localStorage.getItem("ngrpo-report-theme");
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
} catch {}
