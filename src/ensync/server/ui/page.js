// Shows what the engine is doing: asks for it once a second, and draws it.
//
// Names and metadata come from whoever may publish, so they only ever become text.
"use strict";

const INTERVAL = 1000; // milliseconds
const PATIENCE = 5000;
const SPAN = 300; // seconds that the plot shows
const SERIES = ["published", "delivered", "acknowledged"];
const MARGIN = { top: 10, right: 8, bottom: 22, left: 46 };
const OLD = "What you see is from before. Trying again every second.";
const NOT_VALID =
  "This link is not valid any more, as the engine was started anew. Open the link that it has printed since.";
const SVG = "http://www.w3.org/2000/svg";

const byId = (id) => document.getElementById(id);
const number = new Intl.NumberFormat("en");
const clock = new Intl.DateTimeFormat("en-GB", { timeStyle: "medium" });

let rates = []; // [seconds ago, published, delivered, acknowledged], the oldest first
let pointedAt = null; // seconds ago

// Asking

async function watch() {
  for (;;) {
    if (!document.hidden && !(await look())) return;
    await new Promise((resolve) => setTimeout(resolve, INTERVAL));
  }
}

async function look() {
  let answer;
  try {
    answer = await fetch("state", { cache: "no-store", signal: AbortSignal.timeout(PATIENCE) });
    if (answer.ok) {
      show(await answer.json());
      tell("live", "live", "");
      return true;
    }
  } catch (error) {
    // The errors of a fetch; any other is one of this page.
    if (!(error instanceof TypeError || error instanceof DOMException)) throw error;
    tell("lost", "connection lost", `The connection to the engine is lost. ${OLD}`);
    return true;
  }
  if (answer.status === 403) {
    tell("lost", "not admitted", NOT_VALID);
    return false;
  }
  tell("lost", "error", `The engine answers with an error (${answer.status}). ${OLD}`);
  return true;
}

function tell(state, text, problem) {
  const pill = byId("connection");
  pill.className = `pill ${state}`;
  setText(pill, text);
  setText(byId("problem"), problem);
  byId("problem").hidden = problem === "";
  byId("content").classList.toggle("stale", state === "lost");
}

// Showing

function show(state) {
  setText(byId("url"), state.url);
  setText(byId("websocket-url"), state.websocket_url);
  for (const [id, count] of Object.entries(state.totals)) setText(byId(id), number.format(count));
  setText(byId("client-count"), number.format(state.clients.total));
  setText(byId("published-count"), number.format(state.statistics.published));
  document.title = `${number.format(state.totals.waiting)} waiting - ensync engine`;
  showNote("queues-note", state.queues, "queues, those with the most open events");
  showNote("clients-note", state.clients, "clients");
  fill("queues", state.queues.shown.map(queueCells));
  fill("clients", state.clients.shown.map(clientCells));
  fill("events", state.events.map(eventCells));
  rates = state.rates;
  showRates();
}

function showNote(id, list, what) {
  const all = list.shown.length === list.total;
  setText(byId(id), all ? "" : `${list.shown.length} of ${number.format(list.total)} ${what}`);
}

function queueCells(queue) {
  const counts = ["waiting", "leased", "deferred", "discarded", "expired"].map((field) => ({
    text: number.format(queue[field]),
    kind: queue[field] === 0 ? "zero" : "",
  }));
  return [{ text: queue.app }, { text: queue.event_name, kind: "name" }, ...counts];
}

function clientCells(client) {
  const { shown, total } = client.subscriptions;
  const names = shown.map((one) => one.event_name + (one.paused ? " (paused)" : ""));
  if (total > shown.length) names.push(`and ${number.format(total - shown.length)} more`);
  return [{ text: client.app, kind: "name" }, { text: names.join(", ") || "nothing" }];
}

function eventCells(event) {
  return [
    { text: clock.format(event.logged_at_ms) },
    { text: event.event_name, kind: "name" },
    { text: event.sender },
    { text: event.recipient },
    { text: sizes(event) },
    { text: metadataOf(event), inner: "metadata mono" },
  ];
}

function sizes(event) {
  const sealed = `${size(event.sealed_bytes)}\u00a0sealed`;
  return event.plain_bytes === null ? sealed : `${size(event.plain_bytes)}, ${sealed}`;
}

function metadataOf(event) {
  if (event.metadata === "{}") return "none";
  const missing = event.metadata_length > event.metadata.length;
  if (!missing) return event.metadata;
  return `${event.metadata}… (${number.format(event.metadata_length)} characters)`;
}

function size(bytes) {
  if (bytes < 1000) return `${bytes}\u00a0B`;
  const units = ["kB", "MB", "GB"];
  const power = Math.min(Math.floor(Math.log10(bytes) / 3), units.length);
  return `${(bytes / 1000 ** power).toPrecision(3)}\u00a0${units[power - 1]}`;
}

// Rows are kept and only their texts change: what is selected or scrolled stays so.
function fill(id, rows) {
  const body = byId(id);
  const headings = [...body.parentElement.querySelectorAll("th")].map((th) => th.textContent);
  while (body.rows.length > rows.length) body.deleteRow(-1);
  while (body.rows.length < rows.length) body.append(newRow(rows[0], headings));
  rows.forEach((cells, row) => {
    cells.forEach((cell, column) => fillCell(body.rows[row].cells[column], cell));
  });
  body.parentElement.hidden = rows.length === 0;
  body.parentElement.nextElementSibling.hidden = rows.length > 0;
}

function newRow(cells, headings) {
  const row = document.createElement("tr");
  row.setAttribute("role", "row");
  cells.forEach((cell, column) => {
    const td = row.insertCell();
    td.setAttribute("role", "cell");
    td.dataset.heading = headings[column];
    if (cell.inner) {
      const inner = td.appendChild(document.createElement("span"));
      inner.className = cell.inner;
    }
  });
  return row;
}

function fillCell(td, cell) {
  if (!cell.inner && td.className !== (cell.kind ?? "")) td.className = cell.kind ?? "";
  setText(cell.inner ? td.firstChild : td, cell.text);
}

function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

// The plot

function showRates() {
  const shown = pointedAt === null ? rates.at(-1) : nearest(pointedAt);
  const [ago, ...values] = shown ?? [0, 0, 0, 0];
  SERIES.forEach((name, index) => {
    setText(document.querySelector(`.legend .${name} b`), rate(values[index]));
  });
  setText(byId("when"), pointedAt === null ? "now" : `${Math.round(ago)} s ago`);
  draw(pointedAt === null ? null : ago);
  const numbers = SERIES.map((name, index) => `${rate(values[index])} ${name}`).join(", ");
  const summary = `Events per second over the last five minutes, at the end: ${numbers}`;
  byId("plot").setAttribute("aria-label", summary);
}

function rate(value) {
  return number.format(value < 10 ? Math.round(value * 10) / 10 : Math.round(value));
}

function nearest(ago) {
  const distance = (sample) => Math.abs(sample[0] - ago);
  return rates.reduce((best, sample) => (distance(sample) < distance(best) ? sample : best), rates[0]);
}

function draw(cursor) {
  const plot = byId("plot");
  const { clientWidth: width, clientHeight: height } = plot;
  const top = niceTop(Math.max(1, ...rates.flatMap((sample) => sample.slice(1))));
  const x = (ago) => width - MARGIN.right - (ago / SPAN) * (width - MARGIN.left - MARGIN.right);
  const y = (value) => height - MARGIN.bottom - (value / top) * (height - MARGIN.top - MARGIN.bottom);
  const visible = rates.filter((sample) => sample[0] <= SPAN);
  const parts = [...levels(top, x, y), ...minutes(x, width, height)];
  SERIES.forEach((name, index) => {
    const points = visible.map((sample) => [x(sample[0]), y(sample[index + 1])].join(","));
    parts.push(svg("polyline", { class: name, points: points.join(" ") }));
  });
  if (cursor !== null) {
    const at = x(cursor);
    parts.push(svg("line", { class: "cursor", x1: at, x2: at, y1: y(top), y2: y(0) }));
  }
  plot.replaceChildren(...parts);
}

function levels(top, x, y) {
  return [0, 0.25, 0.5, 0.75, 1].flatMap((part) => {
    const at = y(part * top);
    const line = svg("line", { class: "grid", x1: x(SPAN), x2: x(0), y1: at, y2: at });
    return [line, label(x(SPAN) - 6, at + 4, "end", compact(part * top))];
  });
}

function minutes(x, width, height) {
  const every = width < 500 ? [0, 2, 4] : [0, 1, 2, 3, 4, 5];
  return every.map((minute) => {
    const anchor = minute === 0 ? "end" : minute === 5 ? "start" : "middle";
    return label(x(minute * 60), height - 6, anchor, minute === 0 ? "now" : `-${minute} min`);
  });
}

function label(x, y, anchor, text) {
  const element = svg("text", { x, y, "text-anchor": anchor });
  element.textContent = text;
  return element;
}

function svg(name, attributes) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
}

// A little more than the value, that has no odd quarters.
function niceTop(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  const tops = [1, 1.2, 1.6, 2, 3, 4, 6, 8, 10].map((factor) => Math.round(factor * power * 10) / 10);
  return tops.find((top) => top >= value) ?? 10 * power;
}

function compact(value) {
  return value >= 1000 ? `${number.format(value / 1000)}k` : number.format(value);
}

function point(event) {
  const box = byId("plot").getBoundingClientRect();
  const part = (box.right - MARGIN.right - event.clientX) / (box.width - MARGIN.left - MARGIN.right);
  pointedAt = rates.length === 0 ? null : Math.min(Math.max(part, 0), 1) * SPAN;
  showRates();
}

byId("plot").addEventListener("pointermove", point);
byId("plot").addEventListener("pointerleave", () => {
  pointedAt = null;
  showRates();
});
new ResizeObserver(showRates).observe(byId("plot"));
watch();
