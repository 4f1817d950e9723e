// A form that is checked while one types, by the check of the server; the last values are remembered.
import { toast } from "./copy.js";

const form = document.querySelector("form[data-check]");
let wait = null, command = "", asked = 0;

function show(faults, error, says) {
  const by = new Map();
  for (const { path, message } of faults) {
    const full = path.replace(/^parameters\.?/, ""), name = full.split(/[.[]/)[0], inside = full.slice(name.length).replace(/^\./, "");
    if (!by.has(name)) by.set(name, inside ? `${inside}: ${message}` : message);
  }
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

const KEY = `form:${form?.dataset.name}`;

function typed() { return [...new FormData(form)].filter(([name]) => name !== "version"); }

// The values of the last run that was started here, if the page shows the defaults.
function remember() {
  form.addEventListener("submit", () => { try { localStorage.setItem(KEY, JSON.stringify(typed())); } catch { /* not kept then */ } });
  if (!form.hasAttribute("data-plain")) return;
  let last = null;
  try { last = JSON.parse(localStorage.getItem(KEY)); } catch { /* none is kept */ }
  if (!last) return;
  const values = new Map(last);
  for (const field of form.elements) {
    if (!field.name || field.type === "hidden") continue;
    if (field.type === "checkbox") field.checked = values.has(field.name);
    else if (values.has(field.name)) field.value = values.get(field.name);
  }
  const note = form.querySelector("[data-last]");
  note.hidden = false;
  note.querySelector("button").addEventListener("click", () => { form.reset(); note.hidden = true; try { localStorage.removeItem(KEY); } catch { /* none was kept */ } check(); });
}

export function startForm() {
  remember();
  form.addEventListener("input", () => { clearTimeout(wait); wait = setTimeout(check, 250); });
  form.querySelector("[data-command]").addEventListener("click", async () => {
    await check();
    form.querySelector("[data-says]").hidden = false;
    form.querySelector("[data-says]").textContent = command;
    try { await navigator.clipboard.writeText(command); toast("Copied", command); } catch { /* it is shown */ }
  });
  check();
}
