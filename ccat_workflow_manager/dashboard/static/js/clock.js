// The clock in the header and ages that go on counting, both by the clock of the server.
const offset = Number(document.body.dataset.now) * 1000 - Date.now();

export const now = () => Date.now() + offset;

export function age(seconds) {
  if (seconds < 60) return `${Math.max(0, Math.round(seconds))} s`;
  if (seconds < 3600) return `${Math.floor(seconds / 60)} min`;
  if (seconds < 86400) return `${Math.floor(seconds / 3600)} h ${String(Math.floor(seconds % 3600 / 60)).padStart(2, "0")} min`;
  const days = Math.floor(seconds / 86400), hours = Math.floor(seconds % 86400 / 3600);
  return days < 3 && hours ? `${days} d ${hours} h` : `${days} d`;
}

const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
let isLocal = false;
try { isLocal = localStorage.getItem("zone") === "local"; } catch { /* without storage the zone is UTC */ }

const two = (number) => String(number).padStart(2, "0");

// The parts of a moment in the chosen zone.
function parts(moment) {
  const at = isLocal ? new Date(moment.getTime() - moment.getTimezoneOffset() * 60000) : moment;
  return { year: at.getUTCFullYear(), month: at.getUTCMonth(), day: at.getUTCDate(), time: `${two(at.getUTCHours())}:${two(at.getUTCMinutes())}:${two(at.getUTCSeconds())}` };
}

// As the server writes moments: the time of day if it is today, else the day too.
export function clock(moment, today = new Date(now())) {
  const at = parts(moment), here = parts(today);
  if (at.year === here.year && at.month === here.month && at.day === here.day) return at.time;
  const day = `${two(at.day)} ${MONTHS[at.month]}`;
  return at.year === here.year ? `${day} ${at.time.slice(0, 5)}` : `${day} ${at.year}`;
}

function rewrite() {
  for (const each of document.querySelectorAll("main time[datetime]:not([data-age])")) {
    const text = clock(new Date(each.dateTime));
    if (each.textContent && each.textContent !== text) each.textContent = text;
  }
}

function zoneName() {
  if (!isLocal) return "UTC";
  return new Intl.DateTimeFormat("en", { timeZoneName: "short" }).formatToParts(new Date(now())).find((part) => part.type === "timeZoneName").value;
}

function switchZone() {
  isLocal = !isLocal;
  try { localStorage.setItem("zone", isLocal ? "local" : "utc"); } catch { /* it holds for this page */ }
  tick();
  rewrite();
}

function tick() {
  const shown = document.querySelector("[data-clock]"), zone = document.getElementById("zone");
  const at = new Date(now());
  if (shown) shown.firstChild.data = parts(at).time;
  if (zone && zone.textContent !== zoneName()) zone.textContent = zoneName();
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
  document.getElementById("zone")?.addEventListener("click", switchZone);
  document.addEventListener("morphed", () => { if (isLocal) rewrite(); });
  if (isLocal) { tick(); rewrite(); }
  document.addEventListener("pointerover", localise);
}
