// The chosen theme, before the first paint. Not a module, so that it runs at once.
"use strict";
(() => {
  const root = document.documentElement;
  root.classList.add("scripted");
  try {
    const chosen = localStorage.getItem("theme");
    if (chosen === "dark" || chosen === "light") root.dataset.theme = chosen;
  } catch { /* without storage the theme is that of the system */ }
})();
