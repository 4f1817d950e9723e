// Changes as they happen: the server names what has changed, and the parts of the page that show it are fetched again.
import { isChoosing, paint } from "./list.js";
import { listen } from "./stream.js";

const indicator = document.getElementById("live");
const pending = new Map();

const sections = () => [...document.querySelectorAll("[data-live]:not([data-still])")];

function topics() {
  return [...new Set(sections().flatMap((each) => each.dataset.live.split(" ")))];
}

function say(text, isLive) {
  if (!indicator) return;
  indicator.classList.toggle("lost", !isLive);
  const words = indicator.querySelector("span");
  if (words.textContent !== text) words.textContent = text;
}

const isTyping = () => document.activeElement?.matches("input, textarea, select") ?? false;
const isBusy = (section) => section.matches(":hover") && section.hasAttribute("data-list") || section.contains(document.activeElement) && isTyping();

export async function refresh(section) {
  const state = pending.get(section.id) ?? { busy: false, again: false, etag: "" };
  pending.set(section.id, state);
  if (state.busy) { state.again = true; return; }
  state.busy = true;
  try {
    const headers = state.etag ? { "If-None-Match": state.etag } : {};
    const response = await fetch(section.dataset.src, { headers, cache: "no-store" });
    if (response.status === 200) {
      const html = await response.text();
      await released;
      state.etag = response.headers.get("etag") ?? "";
      morph(section, html);
    }
  } catch { /* the stream notices that the service is away */ } finally {
    state.busy = false;
    if (state.again) { state.again = false; setTimeout(() => refresh(section), 500); }
  }
}

// Nothing changes under a pressed pointer: a click is for what it was pressed on.
let released = Promise.resolve();
let release = () => {};

function watchPointer() {
  document.addEventListener("pointerdown", (event) => {
    release();
    if (event.button === 0) released = new Promise((resolve) => { release = resolve; });
  }, true);
  addEventListener("blur", () => release()); // the pointer may be let go elsewhere
  for (const end of ["pointerup", "pointercancel"]) document.addEventListener(end, () => setTimeout(release), true);
}

// Links of actions come and go beside each other: each keeps its own element, which never becomes that of its neighbour.
function nameLinks(root) {
  for (const link of root.querySelectorAll("a[data-sheet]:not([id])")) link.id = link.getAttribute("href");
}

// The words of a row, without what changes as time passes.
function words(row) {
  const copy = row.cloneNode(true);
  copy.querySelectorAll("[data-age], [data-clock]").forEach((each) => each.remove());
  return copy.textContent;
}

function morph(section, html) {
  const fresh = new DOMParser().parseFromString(html, "text/html").body.firstElementChild;
  if (!fresh || section.hasAttribute("data-list") && holdsBack(section, fresh)) return;
  show(section, fresh);
}

function show(section, fresh) {
  const before = new Map([...section.querySelectorAll("tr[id]")].map((row) => [row.id, words(row)]));
  const at = section.querySelector("tr.at[id]")?.id; // where the keyboard is
  nameLinks(section);
  nameLinks(fresh);
  // Idiomorph leaves all that is in an active element: right for what is typed, wrong for the words of a button.
  Idiomorph.morph(section, fresh, { ignoreActiveValue: isTyping(), restoreFocus: true, callbacks: { beforeAttributeUpdated: keepOpen } });
  if (at) document.getElementById(at)?.classList.add("at");
  for (const row of section.querySelectorAll("tr[id]")) {
    if (before.has(row.id) && before.get(row.id) !== words(row)) {
      row.classList.add("changed");
      setTimeout(() => row.classList.remove("changed"), 1000);
    }
  }
  paint();
  document.dispatchEvent(new CustomEvent("morphed", { detail: section }));
}

// What a person has opened, checked or typed stays as it is.
function keepOpen(name, node) {
  return !(name === "open" && node.tagName === "DETAILS") && !(name === "checked" && node.name === "id");
}

// New rows wait behind a pill while the list is scrolled or chosen from: nothing moves under the pointer.
function holdsBack(section, fresh) {
  const known = new Set([...section.querySelectorAll("tr[id]")].map((row) => row.id));
  const added = [...fresh.querySelectorAll("tr[id]")].filter((row) => !known.has(row.id));
  if (!added.length || !(isChoosing() || window.scrollY > 80 || isBusy(section))) return false;
  let pill = section.querySelector(".pill");
  if (!pill) {
    pill = document.createElement("button");
    pill.type = "button";
    pill.className = "pill";
    pill.addEventListener("click", () => { pill.remove(); window.scrollTo(0, 0); show(section, pill.fresh); });
    section.prepend(pill);
  }
  pill.fresh = fresh;
  pill.textContent = `${added.length} new ${added.length === 1 ? "run" : "runs"}`;
  return true;
}

const seen = (section) => section.offsetParent !== null;
const waiting = new Set();

export function changed(names) {
  for (const section of sections()) {
    if (!section.dataset.live.split(" ").some((topic) => names.includes(topic) || names.includes("*"))) continue;
    if (document.hidden || !seen(section)) waiting.add(section.id);
    else refresh(section);
  }
}

function catchUp() {
  if (document.hidden) return;
  for (const id of waiting) { const section = document.getElementById(id); if (section) refresh(section); }
  waiting.clear();
}

let lost = null;

function state(since) {
  lost = since;
  if (since === null) say("Live", true);
  else setTimeout(() => { if (lost !== null) say(`Not live since ${new Date(lost).toISOString().slice(11, 19)}`, false); }, Math.max(0, since + 3000 - Date.now()));
}

export function startLive() {
  if (!("EventSource" in window) || !sections().length) return;
  watchPointer();
  listen(topics(), changed, state);
  document.addEventListener("visibilitychange", catchUp);
  document.addEventListener("refresh", () => changed(["*"]));
}
