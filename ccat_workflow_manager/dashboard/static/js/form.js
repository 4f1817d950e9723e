// A form that is checked while one types, by the check of the server; the last values are remembered.
import { toast } from "./copy.js";

const form = document.querySelector("form[data-check]");
let wait = null, command = "", asked = 0;

function show(faults, error, says) {
  const by = new Map(faults.map(({ path, message }) => [path.replace(/^parameters\.?/, "").split(/[.[]/)[0], message]));
  for (const field of form.querySelectorAll("[data-field]")) {
    const message = by.get(field.dataset.field), slot = field.querySelector(":scope > .err"), input = field.querySelector("input, textarea, select");
    by.delete(field.dataset.field);
    if (slot) { slot.hidden = !message; slot.textContent = message ?? ""; }
    input?.classList.toggle("bad", Boolean(message));
    if (message) input?.setAttribute("aria-invalid", "true"); else input?.removeAttribute("aria-invalid");
  }
  const others = [...by].map(([path, message]) => `${path} ${message}`.trim());
  const box = form.querySelector("[data-says]");
  box.hidden = !(says || error || others.length);
  box.textContent = error || others.join("; ") || says;
  form.querySelector("[data-hint]").textContent = faults.length === 0 ? "" : faults.length === 1 ? "One field needs a change." : `${faults.length} fields need a change.`;
}

async function check() {
  const turn = ++asked;
  try {
    const response = await fetch(form.dataset.check, { method: "POST", body: new URLSearchParams(new FormData(form)) });
    if (!response.ok || turn !== asked) return;
    const found = await response.json();
    command = found.command;
    show(found.faults, found.error, found.says);
  } catch { /* it is checked again when the form is sent */ }
}

export function startForm() {
  form.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(check, 250); });
  form.querySelector("[data-command]").addEventListener("click", async () => {
    await check();
    form.querySelector("[data-says]").hidden = false;
    form.querySelector("[data-says]").textContent = command;
    try { await navigator.clipboard.writeText(command); toast("Copied", command); } catch { /* it is shown */ }
  });
  check();
}
