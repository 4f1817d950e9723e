// One stream for all tabs of a browser: the tab that holds the lock listens and tells the others by a channel.
// Without locks (a site without TLS) each tab has a stream of its own.
const NAME = "ccat-wm-live";
const MOST_TOPICS = 80;
const wanted = new Set(), own = new Set();
let source = null, channel = null, leads = false, joined = false, delay = 1000, lostSince = null, later = null, mostWanted = MOST_TOPICS, heard = () => {}, said = () => {};

function tell(message) { channel?.postMessage(message); }

function report() {
  said(lostSince);
  tell({ lostSince });
}

function connect() {
  mostWanted = Math.max(MOST_TOPICS, 2 * wanted.size);
  source?.close();
  source = new EventSource(`/ui/live?topics=${encodeURIComponent([...wanted].sort().join(","))}`);
  source.addEventListener("open", () => {
    lostSince = null;
    delay = 1000;
    report();
    pass(["*"]); // what changed while no stream stood
  });
  source.addEventListener("changed", (event) => pass(JSON.parse(event.data)));
  source.addEventListener("error", () => {
    source.close();
    lostSince ??= Date.now();
    report();
    later = setTimeout(connect, delay);
    delay = Math.min(30000, delay * 2);
  });
}

function pass(names) {
  heard(names);
  tell({ names });
}

function want(topics) {
  const fresh = topics.filter((topic) => !wanted.has(topic));
  if (!fresh.length) return;
  fresh.forEach((topic) => wanted.add(topic));
  if (wanted.size > mostWanted) { // most are of tabs that have gone: those that are left say again what they want
    mostWanted = Infinity;
    wanted.clear();
    own.forEach((topic) => wanted.add(topic));
    tell({ leads: true });
  }
  clearTimeout(later);
  later = setTimeout(connect, 100);
}

function receive({ data }) {
  if (leads) {
    if (!data.want) return;
    want(data.want);
    tell({ lostSince });
    return;
  }
  if (data.leads) tell({ want: [...own] });
  if (data.names) heard(data.names);
  if (!("lostSince" in data)) return;
  said(data.lostSince);
  if (joined || data.lostSince !== null) return;
  joined = true;
  heard(["*"]); // what changed since this page was made
}

function lead() {
  leads = true;
  connect();
  tell({ leads: true });
}

// Calls `onChange` with the names of what has changed, and `onState` with the time since when nothing is heard, or null.
export function listen(topics, onChange, onState) {
  heard = onChange;
  said = onState;
  topics.forEach((topic) => { wanted.add(topic); own.add(topic); });
  addEventListener("pagehide", () => source?.close());
  if (!navigator.locks || !("BroadcastChannel" in window)) {
    lead();
    return;
  }
  channel = new BroadcastChannel(NAME);
  channel.addEventListener("message", receive);
  tell({ want: topics });
  navigator.locks.request(NAME, () => { lead(); return new Promise(() => {}); });
}
