// The page's one stream of events: says what has changed, and whether all is still connected.
"use strict";

const QUIET_MS = 5000;
const link = document.getElementById("link");
let heard = Date.now();
let away = "";
let source = null;
let opened = false;

function say(text) {
  if (link.textContent !== text) link.textContent = text;
  link.hidden = !text;
}

// By the server's clock.
let ahead = 0;
function now() {
  document.getElementById("as-of").textContent = new Date(Date.now() + ahead).toISOString().slice(0, 19).replace("T", " ") + " UTC";
}

function changed(topics) {
  for (const topic of topics) {
    if (topic) document.body.dispatchEvent(new CustomEvent("changed-" + topic));
  }
}

function check() {
  const silent = Date.now() - heard > QUIET_MS;
  say(silent ? "✕ The server of this page does not answer. The figures are old; it is tried again by itself."
             : away && "✕ " + away);
  document.body.classList.toggle("stale", silent || away !== "");
  if (silent && source && source.readyState === EventSource.CLOSED) connect();
}

function connect() {
  if (source) source.close();
  const topics = document.body.dataset.topics;
  const seen = document.getElementById("agents")?.dataset.at ?? "";
  source = new EventSource(`/events?topics=${encodeURIComponent(topics)}&seen=${seen}`);
  source.addEventListener("open", () => {
    if (opened) changed(topics.split(",")); // what was missed
    opened = true;
  });
  source.addEventListener("beat", (event) => {
    const told = JSON.parse(event.data);
    heard = Date.now();
    away = told.away;
    ahead = (Date.parse(told.at.replace(" UTC", "Z").replace(" ", "T")) || Date.now()) - Date.now();
    now();
    check();
  });
  source.addEventListener("changed", (event) => {
    heard = Date.now();
    changed(JSON.parse(event.data));
    now();
  });
  source.addEventListener("cells", (event) => { patch(JSON.parse(event.data)); now(); });
  source.addEventListener("error", () => {
    // A session that has ended is no interruption.
    if (source.readyState === EventSource.CLOSED) {
      fetch("/fleet/head").then((answer) => { if (answer.status === 401) location.assign("/login"); },
                                () => {});
    }
  });
}

// The table of agents: cells that are others now, and what is shown of it.

const filter = document.getElementById("filter");

function patch(rows) {
  for (const [name, cells] of Object.entries(rows)) {
    const row = document.getElementById("agent-" + name);
    if (!row) continue;
    for (const [key, value] of Object.entries(cells)) {
      if (key.startsWith("data-")) row.setAttribute(key, value);
      else row.querySelector(`[data-cell="${key}"]`).innerHTML = value;
    }
  }
  if (filter) show();
}

function show() {
  const body = document.getElementById("agents");
  const words = document.getElementById("filter-text").value.toLowerCase().split(/\s+/).filter(Boolean);
  const state = document.getElementById("filter-state").value;
  const label = document.getElementById("filter-label")?.value ?? "";
  let shown = 0;
  for (const row of body.rows) {
    const data = row.dataset;
    const fits = (!state || data.state === state || (state === "cordoned" && data.cordoned === "yes")) &&
      (!label || data.labels.split("|").includes(label)) &&
      words.every((word) => data.search.includes(word));
    if (row.hidden === fits) row.hidden = !fits;
    shown += fits;
  }
  document.getElementById("none-shown").hidden = shown > 0 || body.rows.length === 0;
  const text = `${shown} of ${body.rows.length} shown`;
  const output = document.getElementById("shown");
  if (output.value !== text) output.value = text;
}

function sort() {
  const by = document.getElementById("sort").value;
  const body = document.getElementById("agents");
  const rows = [...body.rows];
  const name = (a, b) => (a.dataset.name < b.dataset.name ? -1 : 1);
  rows.sort((a, b) => (by === "name" ? 0 : b.dataset[by] - a.dataset[by]) || name(a, b));
  body.append(...rows);
}

if (filter) {
  const place = new URLSearchParams(location.search);
  for (const [key, id] of [["text", "filter-text"], ["state", "filter-state"], ["label", "filter-label"], ["sort", "sort"]]) {
    const field = document.getElementById(id);
    if (field && place.get(key)) field.value = place.get(key);
  }
  let due = 0;
  filter.addEventListener("input", (event) => {
    clearTimeout(due);
    due = setTimeout(() => { if (event.target.id === "sort") sort(); show(); }, 50);
  });
  filter.addEventListener("submit", (event) => event.preventDefault());
  document.body.addEventListener("htmx:afterSettle", (event) => {
    if (event.target.id === "table") { sort(); show(); }
  });
  sort();
  show();
}

// What has the focus, and how far a table is scrolled, stays so when a part is brought up to date.

let kept = null;

function pathTo(node) {
  if (node.id) return "#" + CSS.escape(node.id);
  for (const name of ["href", "aria-label", "name"]) {
    const value = node.getAttribute(name);
    if (value) return `${node.localName}[${name}="${CSS.escape(value)}"]`;
  }
  return node.localName;
}

document.body.addEventListener("htmx:beforeSwap", (event) => {
  const part = event.detail.target;
  const focused = part.contains(document.activeElement) ? document.activeElement : null;
  const path = focused && pathTo(focused);
  kept = {
    path, at: focused && [...part.querySelectorAll(path)].indexOf(focused), within: part.id && "#" + CSS.escape(part.id),
    scrolled: [...part.querySelectorAll(".scroll, .log")].map((box) => [pathTo(box), box.scrollLeft, box.scrollTop]),
  };
});

document.body.addEventListener("htmx:afterSwap", () => {
  if (!kept) return;
  const part = (kept.within && document.querySelector(kept.within)) || document;
  for (const [path, left, top] of kept.scrolled) part.querySelector(path)?.scrollTo(left, top);
  if (kept.path) {
    const found = part.querySelectorAll(kept.path);
    (found[kept.at] ?? found[0])?.focus({ preventScroll: true });
  }
  kept = null;
});

// Runs that were chosen stay so when their table is brought up to date.
let chosen = [];
document.body.addEventListener("htmx:beforeSwap", (event) => {
  chosen = [...event.target.querySelectorAll("input:checked")].map((box) => box.id);
});
document.body.addEventListener("htmx:afterSettle", () => {
  for (const id of chosen) { const box = document.getElementById(id); if (box) box.checked = true; }
  chosen = [];
});

const begin = document.getElementById("begin");
function question() {
  const text = `Begin a run of ${begin.task.value} with ${begin.rounds.value} rounds on this fleet (${begin.dataset.there} now)?`;
  begin.setAttribute("hx-confirm", text);
}
if (begin) {
  begin.addEventListener("input", question);
  question();
}

// Tables that are wider than the window say so.
function widths() {
  for (const box of document.querySelectorAll(".scroll")) box.classList.toggle("wide", box.scrollWidth > box.clientWidth + 1);
}
addEventListener("resize", widths);
document.body.addEventListener("htmx:afterSettle", widths);
widths();

document.body.addEventListener("htmx:responseError", (event) => {
  if (event.detail.xhr.status === 401) location.assign("/login");
});

if (document.body.dataset.topics) {
  connect();
  setInterval(check, 1000);
}
