// Starts everything that a page has; every page works without it.
import { startClock } from "./clock.js";
import { startCopying } from "./copy.js";
import { startKeys } from "./keys.js";
import { startLists } from "./list.js";
import { startLive } from "./live.js";
import { startSheets } from "./sheet.js";

startClock();
startCopying();
startLists();
startSheets();
startKeys();
startLive();
if (document.querySelector("[data-log]")) import("./log.js").then(({ startLog }) => startLog());
if (document.querySelector("canvas.field")) import("./field.js").then(({ startFields }) => startFields());
if (document.querySelector("form[data-check]")) import("./form.js").then(({ startForm }) => startForm());
