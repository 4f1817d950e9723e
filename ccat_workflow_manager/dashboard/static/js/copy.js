// Buttons that copy a text or the address, and toasts.

export function toast(title, text = "", href = "", kind = "COMPLETED") {
  const box = document.createElement("div");
  box.className = `toast t-${kind}`;
  const body = document.createElement("div"), head = document.createElement("b"), more = document.createElement("span");
  head.textContent = title;
  more.textContent = text;
  body.append(head, more);
  box.append(body);
  if (href) {
    const link = document.createElement("a");
    link.className = "btn s";
    link.href = href;
    link.textContent = "See them";
    box.append(link);
  }
  document.getElementById("toasts").append(box);
  setTimeout(() => box.remove(), href ? 12000 : 5000);
}

export function startCopying() {
  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-copy], [data-copy-address]");
    if (!button) return;
    const text = button.dataset.copy ?? location.href;
    try {
      await navigator.clipboard.writeText(text);
      toast("Copied", text.slice(0, 80));
    } catch {
      toast("Not copied", "The browser does not allow it here.", "", "WARN");
    }
  });
}

