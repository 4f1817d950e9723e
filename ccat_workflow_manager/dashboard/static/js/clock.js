// The clock in the header and ages that go on counting, both by the clock of the server.
const offset = Number(document.body.dataset.now) * 1000 - Date.now();

export const now = () => Date.now() + offset;

export function age(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds % 3600 / 60)).padStart(2, "0")} min`;
  return `${Math.floor(seconds / 86400)} d`;
}

function tick() {
  const clock = document.querySelector("[data-clock]");
  const at = new Date(now());
  if (clock) clock.firstChild.data = at.toISOString().slice(11, 19);
  for (const each of document.querySelectorAll("time[data-age]")) {
    const text = age((at - Date.parse(each.dateTime)) / 1000);
    if (each.textContent !== text) each.textContent = text;
  }
}

// Hovering shows the time of the reader's own zone as well.
function localise(event) {
  const time = event.target.closest?.("time[datetime]");
  if (!time || time.dataset.local) return;
  time.dataset.local = "1";
  time.title = `${time.title}\n${new Date(time.dateTime).toLocaleString()} here`;
}

export function startClock() {
  setInterval(() => { if (!document.hidden) tick(); }, 1000);
  document.addEventListener("pointerover", localise);
}
