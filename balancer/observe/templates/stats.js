"use strict";
// Keeps the page up to date from the events that balancer/observe/live.py tells, draws the last minutes, filters and
// sorts. All texts from outside get in by textContent; "vrrp" is a part of the page as the server makes it.
(() => {
const $ = id => document.getElementById(id), all = (selector, at = document) => [...at.querySelectorAll(selector)];
const body = document.body, SECONDS = 300;
let fields = null, names = [], latest = 0, now = +body.dataset.now, heard = performance.now();
const facts = new Map(), trends = new Map(), processes = [[], [], []];

// As page.py writes them
const number = n => String(n).replace(/\B(?=(\d{3})+$)/g, "\u202f");
const octets = n => {
  let unit = 0;
  for (; n >= 1000 && unit < 5; unit++) n /= 1024;
  return unit && n < 100 ? `${n.toFixed(1)} ${" KMGTP"[unit]}` : `${n.toFixed(0)}${unit ? " " + " KMGTP"[unit] : ""}`;
};
const duration = seconds => {
  const left = Math.max(Math.floor(seconds), 0), units = [[86400, "d"], [3600, "h"], [60, "m"], [1, "s"]];
  for (let i = 0; i < 4; i++) if (left >= units[i][0]) {
    const rest = i < 3 ? Math.floor(left % units[i][0] / units[i + 1][0]) : 0;
    return Math.floor(left / units[i][0]) + units[i][1] + (rest ? rest + units[i + 1][1] : "");
  }
  return "0s";
};
const milliseconds = ms => ms >= 10 ? ms.toFixed(0) : String(+ms.toPrecision(2));
const clock = () => now + (performance.now() - heard) / 1000;

// Rows
const last = row => row.lastsess ? duration(clock() - row.lastsess) : "?";
const down = row => duration(row.downtime + (row.is_down ? clock() - row.since : 0));
const FORMAT = {lastsess: last, bin: row => octets(row.bin), bout: row => octets(row.bout), check: row => row.check,
                downtime: row => row.downtime === null ? "" : down(row),
                throttle: row => row.throttle < 100 ? `${row.throttle}%` : "-"};
const TICKING = new Set(["lastsess", "status", "downtime"]);
const columns = table => table.keys ??= all("col", table).map(col => col.dataset.k);
const put = (node, text) => { if (node.textContent !== text) node.textContent = text; };

function title(row, key) {
  if (key === "bin" || key === "bout") return `${number(row[key])} octets`;
  if (key === "eresp" && "cli_abrt" in row)
    return `transfers aborted: ${number(row.cli_abrt)} by the client, ${number(row.srv_abrt)} by the server`;
  if (key === "check" && row.words) return row.checked ? `${row.words} (${duration(clock() - row.checked)} ago)` : row.words;
  if (key !== "stot") return null;
  const parts = [];
  if (row.is_http) parts.push(`HTTP requests ${number(row.req_tot)}; responses ` + ["1xx", "2xx", "3xx", "4xx", "5xx", "other"]
    .map(code => `${code} ${number(row["hrsp_" + code])}`).join(", "));
  if ("connect" in row) {
    parts.push(`server connections ${number(row.connect)} new, ${number(row.reuse)} reused`);
    parts.push("average/max ms: " + [["queue", "q"], ["connect", "c"], ["response", "r"], ["total", "t"]]
      .map(([word, k]) => `${word} ${milliseconds(row["t_" + word])}/${milliseconds(row[k + "time_max"] / 1000)}`).join(", "));
  }
  return parts.join("; ");
}

function show(tr, row, only) {
  columns(tr.parentNode.parentNode).forEach((key, i) => {
    if (!key || key === "name" || !(key in row) || only && !only.has(key)) return;
    const cell = tr.cells[i];
    if (key === "status") {
      put(cell.firstElementChild, row.status);
      if ("changed" in row) {
        const mark = cell.querySelector(".changed");
        put(mark, row.changed ? "changed" : "");
        if (mark.title !== row.changed) mark.title = row.changed;
      }
      if ("since" in row) put(cell.lastChild, ` ${duration(clock() - row.since)}`);
    } else if (key === "weight" && tr.id[0] === "s") {
      put(cell, `${row.weight}/${cell.textContent.split("/")[1]}`);
    } else if (FORMAT[key] || row[key] !== null) {
      put(cell, FORMAT[key] ? FORMAT[key](row) : number(row[key]));
      cell.classList.toggle("zero", cell.textContent === "0");
    }
    const words = only ? null : title(row, key);
    if (words !== null && cell.title !== words) cell.title = words;
  });
  if (only) return;
  put(tr.cells[0].querySelector(".narrow"), row.status);
  const tone = (tr.id[0] === "b" ? "total " : "") + row.tone;
  if (tr.className !== tone) tr.className = tone;
}

function take(rows) {
  for (const [key, values] of Object.entries(rows)) {
    const row = Object.fromEntries(fields[key[0]].map((name, i) => [name, values[i]])), tr = $(key);
    facts.set(key, row);
    if (!tr) continue;
    row.is_http = (tr.dataset.mode || tr.closest("table").dataset.mode) === "http";
    show(tr, row);
  }
}

// The last minutes
const SVG = "http://www.w3.org/2000/svg";
function draw(place, samples, unit) {
  const most = Math.max(...samples, 0);
  let svg = place.firstElementChild;
  if (!svg) {
    svg = place.appendChild(document.createElementNS(SVG, "svg"));
    svg.setAttribute("viewBox", `0 0 ${SECONDS} 24`);
    svg.setAttribute("preserveAspectRatio", "none");
    svg.setAttribute("role", "img");
    svg.append(document.createElementNS(SVG, "polyline"));
  }
  const x = SECONDS - samples.length, scale = 22 / Math.max(most, 1);
  svg.firstElementChild.setAttribute("points", samples.map((value, i) => `${x + i},${(23 - value * scale).toFixed(1)}`).join(" "));
  svg.setAttribute("aria-label", `${unit}, last ${duration(samples.length)}: now ${number(samples.at(-1) ?? 0)}, most ${number(most)}`);
  place.title = svg.getAttribute("aria-label");
}
const seen = new Set();
const watch = new IntersectionObserver(entries => entries.forEach(each => seen[each.isIntersecting ? "add" : "delete"](each.target)));
const PROCESS = ["connections", "connections per second", "requests per second"];
const sparks = all(".spark");
sparks.forEach(each => watch.observe(each));
for (const section of all("section").filter(each => each.querySelector("table.b, table.f"))) {
  section.rows = all("tbody tr", section);
  watch.observe(section);
}
const add = (samples, value) => { samples.push(value); if (samples.length > SECONDS) samples.shift(); };
function drawAll() {
  for (const place of seen) {
    const {process, trend} = place.dataset;
    if (place.rows) continue;
    if (process) draw(place, processes[process], PROCESS[process]);
    else if (trends.has(trend)) draw(place, trends.get(trend), "requests or sessions per second");
  }
}

// Events, drains, virtual routers
function event([no, at, level, text]) {
  if (no <= latest) return;
  latest = no;
  const item = document.createElement("li"), time = document.createElement("time"), word = document.createElement("b");
  item.className = level.toLowerCase();
  time.textContent = new Date(at * 1000).toISOString();
  word.textContent = level.toLowerCase();
  item.append(time, " ", word, " ", text);
  $("log").prepend(item);
  while ($("log").children.length > 100) $("log").lastElementChild.remove();
  $("events-part").hidden = false;
}

function drains(list) {
  const rows = list.map(([backend, server, word, since, sessions, quiet, empty, oldest]) => {
    const tr = document.createElement("tr"), th = tr.appendChild(document.createElement("th"));
    tr.className = word === "MAINT" ? "maint" : "drain";
    th.scope = "row";
    th.textContent = `${backend}/${server}`;
    const chip = document.createElement("span"), state = tr.insertCell();
    chip.className = "chip";
    chip.textContent = word;
    state.className = "word";
    state.append(chip);
    const texts = [duration(since), number(sessions), !sessions ? "-" : oldest === null ? "?" : duration(oldest), quiet === null || !sessions ? "-" : duration(quiet),
                   empty === null ? "?" : sessions ? duration(empty) : "empty"];
    for (const text of texts) tr.insertCell().textContent = text;
    return tr;
  });
  $("drains").hidden = !rows.length;
  $("drains").querySelector("tbody").replaceChildren(...rows);
}

function routers(html) {
  const part = $("vrrp-part"), open = all("details", part).map(each => each.open);
  part.innerHTML = html;
  all("details", part).forEach((each, i) => { each.open = !!open[i]; });
}

// News
const live = $("live");
function say(is_live, text) { live.hidden = false; live.className = is_live ? "chip up" : "chip down"; put(live, text); }
const TEXTS = [number, number, number, number, number, number, octets, octets, octets, octets, number, number, number, number];
const DOWN = 12, DROPPED = 13, TITLE = document.title;
const HEARD = {
  hello(data) {
    if (data.epoch !== body.dataset.epoch) { location.reload(); return; }
    ({fields, names} = data);
    latest = 0;
    $("log").replaceChildren();
    data.events.forEach(event);
    data.process.slice(-SECONDS).forEach(sample => sample.forEach((value, i) => add(processes[i], value)));
  },
  trend: data => trends.set(data.name, data.samples),
  rows: take,
  tick(data) {
    now = data.t;
    heard = performance.now();
    const cells = all("dd > span:not(.spark), dd > small > span", $("top"));
    data.top.forEach((value, i) => put(cells[i], TEXTS[i](value)));
    cells[DOWN].parentNode.hidden = !data.top[DOWN];
    cells[DROPPED].parentNode.className = data.top[DROPPED] ? "bad" : "";
    const words = data.top[DOWN] ? `(${number(data.top[DOWN])} down) ${TITLE}` : TITLE;
    if (document.title !== words) document.title = words;
    data.process.forEach((value, i) => add(processes[i], value));
    data.trend.forEach((value, i) => { if (trends.has(names[i])) add(trends.get(names[i]), value); });
    (data.events || []).forEach(event);
    drains(data.drains);
    if (data.vrrp !== undefined) routers(data.vrrp);
    for (const section of seen) for (const tr of section.rows ?? []) if (!tr.hidden && facts.has(tr.id)) show(tr, facts.get(tr.id), TICKING);
    drawAll();
    filter();
    say(true, "live");
  },
};
let stream = null, silent = 0;
function listen() {
  stream?.close();
  processes.forEach(each => each.length = 0);
  stream = new EventSource(body.dataset.source);
  for (const [kind, handle] of Object.entries(HEARD)) stream.addEventListener(kind, each => {
    clearTimeout(silent);
    silent = setTimeout(lost, 15000);
    handle(JSON.parse(each.data));
  });
  stream.onerror = lost;
}
function lost() {
  stream.close();
  say(false, `not live: as of ${new Date(now * 1000).toLocaleTimeString()}`);
  clearTimeout(silent);
  silent = setTimeout(listen, 3000);
}

// Filter and sort
const servers = all("table.b tbody tr:not(.total), table.f tbody tr");
function filter() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean), tones = $("state").value.split(" ").filter(Boolean);
  const is_on = words.length + tones.length > 0;
  if (!is_on && !filter.was_on) return;
  filter.was_on = is_on;
  let shown = 0;
  for (const tr of servers) {
    const place = tr.closest("section"), text = words.length ? `${tr.closest("table").dataset.name} ${tr.textContent}`.toLowerCase() : "";
    const is_shown = words.every(word => text.includes(word)) && (!tones.length || tones.some(tone => tr.classList.contains(tone)));
    if (tr.hidden === is_shown) tr.hidden = !is_shown;
    shown += is_shown;
    place.has = (place.has || 0) + is_shown;
  }
  for (const place of new Set(servers.map(tr => tr.closest("section")))) { place.hidden = !place.has; place.has = 0; }
  put($("shown"), is_on ? `${number(shown)} of ${number(servers.length)} rows` : "");
}
$("filter").addEventListener("input", filter);
$("state").addEventListener("change", filter);
$("tools").hidden = false;

const WORST = ["down", "going-up", "going-down", "drain", "maint", "unchecked", "up"];
function value(tr, key) {
  const row = facts.get(tr.id);
  if (key === "name" || !row) return tr.cells[0].textContent;
  if (key === "status") return WORST.indexOf(row.tone);
  return row[key] ?? -1;
}
function sort(table, th, index) {
  const key = columns(table)[index], rows = all("tbody tr:not(.total)", table);
  const before = th.getAttribute("aria-sort"), is_up = before ? before === "descending" : ["name", "status"].includes(key);
  all("[aria-sort]", table).forEach(each => each.removeAttribute("aria-sort"));
  th.setAttribute("aria-sort", is_up ? "ascending" : "descending");
  const compare = (a, b) => typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b), undefined, {numeric: true});
  rows.sort((a, b) => compare(value(a, key), value(b, key)) * (is_up ? 1 : -1));
  table.tBodies[0].prepend(...rows);
}
for (const table of all("table.b, table.f")) {
  if (all("tbody tr", table).length < 3) continue;
  const taken = [];
  all("thead tr", table).forEach((tr, line) => [...tr.cells].forEach(th => {
    let at = 0;
    while (taken[at] > line) at++;
    for (let i = at; i < at + th.colSpan; i++) taken[i] = line + th.rowSpan;
    if (th.colSpan > 1 || line + th.rowSpan < 2 || !columns(table)[at]) return;
    const button = document.createElement("button");
    button.type = "button";
    button.className = "sort";
    button.append(...th.childNodes);
    th.append(button);
    button.addEventListener("click", () => sort(table, th, at));
  }));
}

// The form
const form = $("act");
if (form) {
  const boxes = all("input[name=s]");
  const count = () => {
    const chosen = boxes.filter(box => box.checked).length;
    put($("chosen"), `${number(chosen)} chosen`);
    // It comes along where there is something to do.
    form.classList.toggle("idle", !chosen);
  };
  for (const section of all("section").filter(each => each.querySelector("input[name=s]"))) {
    const label = document.createElement("label"), box = label.appendChild(document.createElement("input"));
    box.type = "checkbox";
    label.className = "soft";
    label.append("all of them");
    section.querySelector(".title").append(label);
    box.addEventListener("change", () => {
      all("tbody tr:not([hidden]) input[name=s]", section).forEach(each => { each.checked = box.checked; });
      count();
    });
  }
  document.addEventListener("change", each => { if (each.target.name === "s") count(); });
  const weight = form.elements.weight.parentNode, which = () => { weight.hidden = form.elements.action.value !== "weight"; };
  form.elements.action.addEventListener("change", which);
  addEventListener("pageshow", () => { which(); count(); });
  which();
}
if (/;st=/.test(location.href)) history.replaceState(null, "", location.href.replace(/;st=\w+/, ""));
listen();
})();
