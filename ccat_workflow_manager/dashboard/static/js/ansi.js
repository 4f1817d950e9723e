// One line of a log as text nodes and classes: colours, bold, `\r` overwrites; every other escape is dropped.
const COLOURS = ["k", "r", "g", "y", "b", "m", "c", "w"];

export function lastOverwrite(line) {
  const parts = line.replace(/\r+$/, "").split("\r");
  return parts[parts.length - 1];
}

function classOf(state) {
  return [state.colour && `a-${state.colour}`, state.bold && "a-bold", state.dim && "a-d"].filter(Boolean).join(" ");
}

function change(state, codes) {
  for (const code of codes.split(";").map(Number)) {
    if (code === 0) { state.colour = ""; state.bold = state.dim = false; }
    else if (code === 1) state.bold = true;
    else if (code === 2) state.dim = true;
    else if (code === 22) state.bold = state.dim = false;
    else if (code === 39) state.colour = "";
    else if (code >= 30 && code <= 37) state.colour = COLOURS[code - 30];
    else if (code >= 90 && code <= 97) state.colour = COLOURS[code - 90];
    else if (code === 38 || code === 48) return;
  }
}

const visible = (text) => text.replace(/[\u0000-\u0008\u000b-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0))).replace(/\u007f/g, "\u2421");

function appendMarked(into, text, find) {
  if (!find) { into.append(text); return; }
  const lower = text.toLowerCase();
  let from = 0, at;
  while ((at = lower.indexOf(find, from)) >= 0) {
    const mark = document.createElement("mark");
    mark.textContent = text.slice(at, at + find.length);
    into.append(text.slice(from, at), mark);
    from = at + find.length;
  }
  into.append(text.slice(from));
}

// Fills a span with a line. `state` goes on from line to line.
export function write(span, line, state, find = "") {
  for (const piece of lastOverwrite(line).split(/(\u001b\[[0-9;:?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b.)/)) {
    if (!piece) continue;
    if (piece[0] === "\u001b") {
      const match = /^\u001b\[([0-9;]*)m$/.exec(piece);
      if (match) change(state, match[1] || "0");
      continue;
    }
    const part = document.createElement("span"), kind = classOf(state);
    if (kind) part.className = kind;
    appendMarked(part, visible(piece), find);
    span.append(part);
  }
}
