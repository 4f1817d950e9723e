// A selection of rows that survives paging and live changes, and views that this browser keeps.
import { openSheet } from "./sheet.js";

const KEY = "chosen";
let chosen = new Set(JSON.parse(sessionStorage.getItem(KEY) ?? "[]"));
let allMatching = false, last = null;

const list = () => document.querySelector("[data-list]");
const boxes = () => [...document.querySelectorAll("[data-list] input[name=id]")];

export function paint() {
  if (!list()) return;
  for (const box of boxes()) {
    box.checked = allMatching || chosen.has(box.value);
    box.closest("tr").setAttribute("aria-selected", String(box.checked));
  }
  const bar = document.getElementById("bulk");
  if (!bar) return;
  bar.hidden = !allMatching && chosen.size === 0;
  bar.querySelector("[data-count]").textContent = allMatching ? "All that match" : `${chosen.size} selected`;
  bar.querySelector("[data-all]").hidden = allMatching;
  const all = document.querySelector("[data-all-rows]");
  if (all) all.checked = boxes().length > 0 && boxes().every((box) => box.checked);
  sessionStorage.setItem(KEY, JSON.stringify([...chosen]));
}

function choose(box, on) { if (on) chosen.add(box.value); else chosen.delete(box.value); }

function onBox(event) {
  const box = event.target;
  if (box.matches("[data-all-rows]")) {
    allMatching = false;
    boxes().forEach((each) => choose(each, box.checked));
  } else if (box.matches("[data-list] input[name=id]")) {
    allMatching = false;
    choose(box, box.checked);
    if (event.shiftKey && last) {
      const all = boxes(), [a, b] = [all.indexOf(box), all.findIndex((each) => each.value === last)].sort((x, y) => x - y);
      if (a >= 0) all.slice(a, b + 1).forEach((each) => choose(each, box.checked));
    }
    last = box.value;
  } else return;
  paint();
}

export function clear() { chosen = new Set(); allMatching = false; paint(); }

export const isChoosing = () => allMatching || chosen.size > 0;

async function act(verb) {
  const body = new URLSearchParams({ verb });
  if (allMatching) {
    body.set("all", "1");
    body.set("conditions", document.querySelector("#chosen [name=conditions]").value);
  } else chosen.forEach((id) => body.append("id", id));
  await openSheet("/act", body);
}

function startViews() {
  const box = document.getElementById("views"), button = document.getElementById("save-view");
  if (!button) return;
  const views = JSON.parse(localStorage.getItem("views") ?? "[]");
  for (const { name, query } of views) {
    const link = document.createElement("a");
    link.href = `/runs${query}`;
    link.textContent = name;
    box.append(link);
  }
  button.addEventListener("click", () => {
    const name = [...document.querySelectorAll("#filter .tok")].map((token) => token.textContent.trim()).join(", ") || "All runs";
    localStorage.setItem("views", JSON.stringify([...views.filter((view) => view.name !== name), { name, query: location.search }].slice(-12)));
    location.reload();
  });
}

export function startLists() {
  if (!list()) return;
  document.addEventListener("click", onBox);
  const bar = document.getElementById("bulk");
  bar?.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (!button) return;
    if (button.dataset.verb) act(button.dataset.verb);
    else if (button.matches("[data-all]")) { allMatching = true; paint(); }
    else if (button.matches("[data-clear]")) clear();
  });
  document.addEventListener("acted", clear);
  startViews();
  paint();
}
