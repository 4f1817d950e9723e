// Previews in a sheet at the side: a link with data-sheet or a selection asks the server, which draws it.
import { toast } from "./copy.js";

const sheet = document.getElementById("sheet");

async function fill(response) {
  const text = await response.text(), kind = response.headers.get("content-type") ?? "";
  if (!kind.startsWith("text/html")) {
    toast("That did not work", kind.includes("json") ? JSON.parse(text).detail : text.slice(0, 200), "", "FAILED");
    return;
  }
  const parsed = new DOMParser().parseFromString(text, "text/html");
  const part = parsed.querySelector("[data-part=sheet]");
  if (!part) {
    location.href = response.url;
    return;
  }
  sheet.replaceChildren(...part.childNodes);
  if (!sheet.open) sheet.showModal();
  sheet.querySelector("[autofocus], button.main, button.danger")?.focus();
}

export async function openSheet(address, body = null) {
  try {
    await fill(await fetch(address, { method: body ? "POST" : "GET", body, headers: { "X-Part": "sheet", Accept: "text/html" } }));
  } catch {
    toast("The service does not answer", "Nothing was changed.", "", "FAILED");
  }
}

async function send(form, button) {
  const body = new URLSearchParams(new FormData(form));
  if (button?.name) body.set(button.name, button.value);
  const buttons = sheet.querySelectorAll("button:enabled");
  buttons.forEach((each) => { each.disabled = true; });
  try {
    const response = await fetch(form.getAttribute("action"), { method: "POST", body, headers: { "X-Part": "sheet", Accept: "text/html" } });
    await fill(response);
    if (sheet.querySelector("[data-done]")) {
      document.dispatchEvent(new Event("acted"));
      document.dispatchEvent(new CustomEvent("refresh"));
    }
  } catch {
    toast("The service does not answer", "Look whether it was done before you repeat it.", "", "FAILED");
  } finally {
    buttons.forEach((each) => { each.disabled = false; });
  }
}

export function startSheets() {
  document.addEventListener("click", (event) => {
    const link = event.target.closest?.("a[data-sheet]");
    if (link && !event.ctrlKey && !event.metaKey) {
      event.preventDefault();
      openSheet(link.href);
    }
    if (event.target.closest?.("[data-close]")) sheet.close();
  });
  sheet.addEventListener("submit", (event) => {
    const form = event.target;
    if (form.method === "dialog") return;
    event.preventDefault();
    send(form, event.submitter);
  });
  sheet.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.metaKey || event.ctrlKey)) sheet.querySelector("button[type=submit].main, button[type=submit].danger")?.click();
  });
}
