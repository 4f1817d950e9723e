// A log by ranges of bytes: only what is near is in the page. Follow, search on the server, links to lines.
import { write } from "./ansi.js";

const MOST_LINES = 6000, PIECE = 256 * 1024;
const box = document.querySelector("[data-log]");
const encoder = new TextEncoder();
let first = 0, next = 0, size = 0, following = false, timer = null, busy = false, find = "", matches = [], match = -1, looked = 0, complete = true;
let rest = "", state = { colour: "", bold: false, dim: false };

const address = (offset) => `${box.dataset.log}&offset=${offset}`;

function line(text, offset) {
  const item = document.createElement("li"), number = document.createElement("a"), span = document.createElement("span");
  item.dataset.at = String(offset);
  write(span, text, state, find);
  item.append(number, span);
  return item;
}

function number() {
  let n = 0;
  for (const item of box.querySelectorAll("li[data-at]")) {
    const name = complete ? `L${++n}` : `B${item.dataset.at}`;
    if (item.id === name) continue;
    item.id = name;
    item.firstChild.href = `#${name}`;
    item.firstChild.textContent = complete ? String(n) : "";
    item.firstChild.title = complete ? `Line ${n}` : `Byte ${item.dataset.at}`;
  }
}

function items(text, offset) {
  const found = document.createDocumentFragment();
  let at = offset;
  for (const each of text.split("\n")) {
    found.append(line(each, at));
    at += encoder.encode(each).length + 1;
  }
  return found;
}

function append(piece) {
  const text = rest + piece.text, cut = text.lastIndexOf("\n");
  const whole = cut < 0 ? "" : text.slice(0, cut), start = piece.offset - encoder.encode(rest).length;
  box.querySelector("li.tail")?.remove();
  box.querySelector("li.rest")?.remove();
  if (whole) box.append(items(whole, start));
  rest = cut < 0 ? text : text.slice(cut + 1);
  if (rest) {
    const last = line(rest, start + encoder.encode(whole).length + (whole ? 1 : 0));
    last.classList.add("rest");
    box.append(last);
  }
  next = piece.next_offset ?? next;
  size = piece.size ?? size;
  while (box.children.length > MOST_LINES) { box.firstElementChild.remove(); complete = false; first = Number(box.firstElementChild.dataset.at); }
  number();
  showSize();
}

function showSize() {
  const text = size < 1000 ? `${size} B` : size < 1e6 ? `${(size / 1e3).toFixed(1)} KB` : size < 1e9 ? `${(size / 1e6).toFixed(1)} MB` : `${(size / 1e9).toFixed(2)} GB`;
  const lines = complete ? `${box.querySelectorAll("li[data-at]").length} lines, ` : "";
  document.querySelector("[data-size]").textContent = `${lines}${text}`;
}

async function get(offset) {
  const response = await fetch(address(offset), { headers: { Accept: "application/json" } });
  if (!response.ok) throw new Error(String(response.status));
  return response.json();
}

// Shows the log from a byte on, from the beginning of a line.
async function load(offset) {
  const start = Math.max(0, offset);
  const piece = await get(start);
  box.replaceChildren();
  rest = "";
  state = { colour: "", bold: false, dim: false };
  let { text } = piece, at = start;
  if (start > 0) {
    const cut = text.indexOf("\n") + 1;
    at += encoder.encode(text.slice(0, cut)).length;
    text = text.slice(cut);
  }
  first = at;
  complete = at === 0;
  append({ ...piece, text, offset: at });
}

async function earlier() {
  if (busy || first === 0) return;
  busy = true;
  try {
    const start = Math.max(0, first - PIECE / 2), piece = await get(start);
    const bytes = encoder.encode(piece.text).slice(0, first - start);
    let text = new TextDecoder().decode(bytes), at = start;
    if (start > 0) {
      const cut = text.indexOf("\n") + 1;
      at += encoder.encode(text.slice(0, cut)).length;
      text = text.slice(cut);
    }
    const height = box.scrollHeight;
    box.prepend(items(text.replace(/\n$/, ""), at));
    first = at;
    complete = at === 0;
    box.scrollTop += box.scrollHeight - height;
    number();
  } finally { busy = false; }
}

async function later() {
  if (busy || next >= size && !following) return;
  busy = true;
  try {
    const piece = await get(next);
    if (piece.text) append(piece);
    if (following) box.scrollTop = box.scrollHeight;
  } catch { /* asked again at the next turn */ } finally { busy = false; }
}

function follow(on) {
  following = on;
  const button = document.querySelector("[data-follow]");
  button.setAttribute("aria-pressed", String(on));
  clearInterval(timer);
  if (on) {
    box.scrollTop = box.scrollHeight;
    timer = setInterval(() => { if (!document.hidden) later(); }, 700);
    later();
  }
}

function onScroll() {
  const bottom = box.scrollHeight - box.scrollTop - box.clientHeight;
  if (following && bottom > 60) follow(false);
  if (box.scrollTop < 40) earlier();
  if (bottom < 40 && !following) later();
}

async function seek() {
  matches = [];
  match = -1;
  looked = 0;
  const text = find, found = document.querySelector("[data-found]");
  found.textContent = text ? "…" : "";
  while (text && text === find) {
    const url = `${box.dataset.log.replace("/log?", "/log/search?")}&q=${encodeURIComponent(text)}&offset=${looked}`;
    const answer = await (await fetch(url)).json();
    if (text !== find) return;
    matches.push(...answer.offsets);
    looked = answer.looked;
    found.textContent = `${match + 1} of ${matches.length}${answer.looked < answer.size ? "+" : ""}`;
    if (match < 0 && matches.length) await go(0);
    if (answer.looked >= answer.size || matches.length >= 200) break;
  }
}

async function go(index) {
  if (!matches.length) return;
  follow(false);
  match = (index + matches.length) % matches.length;
  document.querySelector("[data-found]").textContent = `${match + 1} of ${matches.length}`;
  const at = matches[match];
  let item = box.querySelector(`li[data-at="${at}"]`);
  if (!item) { await load(Math.max(0, at - 20_000)); item = box.querySelector(`li[data-at="${at}"]`); }
  box.querySelectorAll("li.at").forEach((each) => each.classList.remove("at"));
  item?.classList.add("at");
  item?.scrollIntoView({ block: "center" });
}

function startFinding() {
  const input = document.querySelector("[data-find]");
  let wait = null;
  input.addEventListener("input", () => {
    clearTimeout(wait);
    wait = setTimeout(async () => {
      find = input.value.trim().toLowerCase();
      await load(complete ? 0 : first);
      seek();
    }, 250);
  });
  input.addEventListener("keydown", (event) => { if (event.key === "Enter") { event.preventDefault(); go(match + (event.shiftKey ? -1 : 1)); } });
  for (const [name, step] of [["data-next-match", 1], ["data-previous-match", -1]]) {
    const hidden = document.createElement("button");
    hidden.hidden = true;
    hidden.setAttribute(name, "");
    hidden.addEventListener("click", () => go(match + step));
    box.parentElement.append(hidden);
  }
}

async function start() {
  const wanted = /^#(L|B)(\d+)$/.exec(location.hash);
  size = Number(box.dataset.total) || 0;
  const from = wanted?.[1] === "B" ? Number(wanted[2]) : wanted ? 0 : Math.max(0, size - PIECE / 2);
  await load(from);
  if (wanted) {
    const item = document.getElementById(wanted[0].slice(1)) ?? box.querySelector("li");
    item?.classList.add("at");
    item?.scrollIntoView({ block: "center" });
  } else if (box.dataset.liveLog) follow(true);
  else if (from > 0) box.scrollTop = box.scrollHeight;
}

export function startLog() {
  if (box.dataset.next === "") return;
  box.addEventListener("scroll", onScroll, { passive: true });
  document.querySelector("[data-follow]").addEventListener("click", () => follow(!following));
  const wrap = document.querySelector("[data-wrap]");
  wrap.addEventListener("click", () => wrap.setAttribute("aria-pressed", String(box.classList.toggle("wrap"))));
  startFinding();
  start().catch(() => { /* what the server has drawn stays */ });
}
