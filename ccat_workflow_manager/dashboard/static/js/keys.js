// The keyboard: single keys never while a field has the focus, and they can be switched off.
const PAGES = { o: "/", r: "/runs", p: "/pipelines", b: "/backends", w: "/workers", e: "/events" };
let waitingForPage = 0;

const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const store = (name, value) => { try { localStorage.setItem(name, value); } catch { /* not kept then */ } };

export function switchTheme() {
  const root = document.documentElement;
  const dark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = dark ? "light" : "dark";
  store("theme", root.dataset.theme);
  document.dispatchEvent(new Event("theme"));
}

const isTyping = (target) => target.isContentEditable || /^(INPUT|TEXTAREA|SELECT)$/.test(target.tagName) && target.type !== "checkbox";

function rows() { return [...document.querySelectorAll("[data-list] tbody tr")]; }

function move(step) {
  const all = rows();
  if (!all.length) return;
  const at = all.findIndex((row) => row.classList.contains("at"));
  const next = all[Math.min(all.length - 1, Math.max(0, at + step))];
  all[at]?.classList.remove("at");
  next.classList.add("at");
  next.scrollIntoView({ block: "nearest" });
}

const click = (selector) => document.querySelector(selector)?.click();

const ACTIONS = {
  "/": () => document.getElementById("go").focus(),
  "?": () => document.getElementById("keys").showModal(),
  t: switchTheme,
  j: () => move(1),
  k: () => move(-1),
  x: () => document.querySelector("tr.at input[type=checkbox]")?.click(),
  Enter: () => document.querySelector("tr.at a")?.click(),
  r: () => click("#bulk:not([hidden]) [data-verb=retry], a[data-key=r]"),
  c: () => click("#bulk:not([hidden]) [data-verb=cancel], a[data-key=c]"),
  f: () => click("[data-follow]"),
  n: () => click("[data-next-match]"),
  N: () => click("[data-previous-match]"),
  "[": () => click("a[data-key=previous]"),
  "]": () => click("a[data-key=next]"),
  Escape: () => click("#bulk:not([hidden]) [data-clear]"),
};

function onKey(event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (isTyping(event.target)) {
    if (event.key === "Escape") event.target.blur();
    return;
  }
  if (document.querySelector("dialog[open]") || stored("single-keys") === "off") return;
  if (waitingForPage && Date.now() - waitingForPage < 1500 && PAGES[event.key]) {
    location.href = PAGES[event.key];
    return;
  }
  waitingForPage = event.key === "g" ? Date.now() : 0;
  const action = ACTIONS[event.key];
  if (!action || event.key === "Enter" && event.target.closest("a, button, summary")) return;
  if (event.key !== "Enter") event.preventDefault();
  action();
}

export function startKeys() {
  document.addEventListener("keydown", onKey);
  document.getElementById("theme")?.addEventListener("click", switchTheme);
  document.getElementById("help")?.addEventListener("click", ACTIONS["?"]);
  const single = document.getElementById("single-keys");
  single.checked = stored("single-keys") !== "off";
  single.addEventListener("change", () => store("single-keys", single.checked ? "on" : "off"));
}
