// Thousands of step runs as one canvas: a character each. Pointer and arrow keys show one; Enter opens it.
const TOKENS = { d: "--done", r: "--run", q: "--queue", ".": "--wait", f: "--fail", s: "--stop" };
const WORDS = { d: "completed", r: "running", q: "queued", ".": "waiting", f: "failed", s: "skipped or cancelled" };
const keysOf = new Map();
// Kept outside of the page: a change takes away what the server did not put there.
const tips = new WeakMap(), places = new WeakMap();
const placeOn = (canvas) => places.get(canvas) ?? -1;

function colours() {
  const probe = document.createElement("i"), found = {};
  document.body.append(probe);
  for (const [letter, token] of Object.entries(TOKENS)) {
    probe.style.color = `var(${token})`;
    found[letter] = getComputedStyle(probe).color;
  }
  probe.style.color = "var(--focus)";
  found.focus = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function measure(canvas) {
  const columns = Number(canvas.dataset.columns), margin = 10;
  return { columns, size: (canvas.clientWidth - margin) / columns, margin };
}

function paint(canvas, colour) {
  const { columns, size } = measure(canvas), cells = canvas.dataset.cells, width = canvas.clientWidth;
  if (!width) return;
  const gap = Math.max(0.5, size * 0.14), height = Math.ceil(cells.length / columns) * size, ratio = devicePixelRatio || 1;
  canvas.width = Math.round(width * ratio);
  canvas.height = Math.round(height * ratio);
  canvas.style.height = `${height}px`;
  const to = canvas.getContext("2d");
  to.scale(ratio, ratio);
  for (let i = 0; i < cells.length; i++) {
    const letter = cells[i], x = (i % columns) * size, y = Math.floor(i / columns) * size;
    to.fillStyle = colour[letter];
    to.globalAlpha = letter === "d" ? 0.82 : letter === "." ? 0.7 : 1;
    if (letter === "f") {
      to.fillRect(x - 1, y - 1, size + 1.4, size + 1.4);
      to.beginPath();
      to.moveTo(width - 7, y + size / 2);
      to.lineTo(width, y - 2.4);
      to.lineTo(width, y + size + 1.6);
      to.fill();
    } else if (letter === "q") to.fillRect(x, y, size - gap, (size - gap) * 0.55);
    else to.fillRect(x, y, size - gap, size - gap);
  }
  to.globalAlpha = 1;
  const at = placeOn(canvas);
  if (at >= 0) {
    to.strokeStyle = colour.focus;
    to.lineWidth = 2;
    to.strokeRect((at % columns) * size - 1, Math.floor(at / columns) * size - 1, size + 1, size + 1);
  }
}

export function paintAll() {
  const colour = colours();
  document.querySelectorAll("canvas.field").forEach((canvas) => paint(canvas, colour));
}

function showAll() {
  paintAll();
  for (const canvas of document.querySelectorAll("canvas.field")) if (placeOn(canvas) >= 0) show(canvas, placeOn(canvas));
}

async function keys(canvas) {
  const address = canvas.dataset.keys;
  if (!keysOf.has(address)) keysOf.set(address, fetch(address).then((r) => r.json()).then((found) => found.keys).catch(() => []));
  return keysOf.get(address);
}

function tip(canvas) {
  let box = tips.get(canvas);
  if (!box) {
    box = document.createElement("div");
    box.className = "pop fieldtip at";
    box.hidden = true;
    tips.set(canvas, box);
  }
  if (!box.isConnected) canvas.parentElement.append(box);
  return box;
}

async function show(canvas, index) {
  const box = tip(canvas), cells = canvas.dataset.cells;
  places.set(canvas, index);
  paint(canvas, colours());
  if (index < 0 || index >= cells.length) { box.hidden = true; return; }
  const all = await keys(canvas);
  if (placeOn(canvas) !== index) return;
  const name = document.createElement("b"), word = document.createElement("span");
  name.className = "mono";
  name.textContent = all[index] ?? String(index);
  word.textContent = ` ${WORDS[cells[index]]}`;
  box.replaceChildren(name, word);
  const { columns, size } = measure(canvas);
  box.style.insetInlineStart = `${Math.min((index % columns) * size + 12, canvas.clientWidth - 160)}px`;
  box.style.insetBlockStart = `${canvas.offsetTop + Math.floor(index / columns) * size + size + 6}px`;
  box.hidden = false;
}

function indexAt(canvas, event) {
  const { columns, size } = measure(canvas), box = canvas.getBoundingClientRect();
  const column = Math.floor((event.clientX - box.left) / size);
  return column < 0 || column >= columns ? -1 : Math.floor((event.clientY - box.top) / size) * columns + column;
}

async function open(canvas) {
  const key = (await keys(canvas))[placeOn(canvas)];
  if (key) location.href = `${canvas.dataset.path}/${encodeURIComponent(key)}`;
}

export function startFields() {
  document.addEventListener("pointermove", (event) => {
    const canvas = event.target.closest?.("canvas.field");
    if (canvas) { const index = indexAt(canvas, event); if (index !== placeOn(canvas)) show(canvas, index); }
  });
  document.addEventListener("pointerout", (event) => { if (event.target.matches?.("canvas.field")) show(event.target, -1); });
  document.addEventListener("click", (event) => { if (event.target.matches?.("canvas.field")) open(event.target); });
  document.addEventListener("keydown", (event) => {
    const canvas = event.target;
    if (!canvas.matches?.("canvas.field")) return;
    const step = { ArrowRight: 1, ArrowLeft: -1, ArrowDown: Number(canvas.dataset.columns), ArrowUp: -Number(canvas.dataset.columns) }[event.key];
    if (event.key === "Enter") open(canvas);
    else if (step) {
      event.preventDefault();
      show(canvas, Math.max(0, Math.min(canvas.dataset.cells.length - 1, placeOn(canvas) + step)));
    }
  });
  document.addEventListener("theme", paintAll);
  document.addEventListener("morphed", showAll);
  addEventListener("resize", paintAll);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", paintAll);
  paintAll();
}
