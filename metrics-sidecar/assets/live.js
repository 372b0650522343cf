"use strict";
// The live page. Events of the sidecar come in, rows go out; of a thousand endpoints only those in sight are drawn.
// What the events hold is said in src/live/document.rs.

const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const SAMPLES = 120;
const MAX_PICKS = 200;
const OVERSCAN = 4;

// Columns: key, heading, whether the largest comes first when it is sorted by, and what it is sorted by.
const COLUMNS = [
  { key: "name", title: "Endpoint", value: (e) => e.rank },
  { key: "state", title: "State", value: (e) => e.state },
  { key: "line", title: "Requests", down: true, value: (e) => sum(e.waiting, e.running), hint: "waiting and running, the last four minutes" },
  { key: "waiting", title: "Waiting", short: "wait", down: true, value: (e) => e.waiting, hint: "in the engine's queue" },
  { key: "running", title: "Running", short: "run", down: true, value: (e) => e.running, hint: "in the engine's batch" },
  { key: "kv", title: "KV cache", short: "KV", down: true, value: (e) => e.kv, hint: "used part of the KV cache" },
  { key: "flight", title: "In flight", short: "flight", down: true, value: (e) => e.flight, hint: "sent by this Envoy and not finished" },
  { key: "share", title: "Share", down: true, value: (e) => e.share, hint: "of the pool's picks in the last ten seconds" },
  { key: "wait", title: "Predicted", down: true, value: (e) => e.wait, hint: "time to the first token of a request without a prompt, as learned" },
  { key: "age", title: "Age", down: true, value: (e) => e.age, hint: "since its metrics page was read" },
  { key: "failures", title: "Failed", down: true, value: (e) => e.failures, hint: "requests that failed through its fault" },
];

let pools = [];
let endpoints = [];
let shown = [];
let picks = [];
let stepMs = 2000;
let sampledAt = 0;
let at = 0;
let lost = false;
let paused = false;
let missed = null;
let sort = { key: "name", down: false };
let cursor = 0;
let opened = null;
const rows = new Map();

function sum(a, b) {
  return a === null && b === null ? null : (a ?? 0) + (b ?? 0);
}

function make(tag, properties, ...children) {
  const { data, ...rest } = properties ?? {};
  const element = Object.assign(document.createElement(tag), rest);
  Object.assign(element.dataset, data);
  element.append(...children);
  return element;
}

function svg(tag, attributes, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function text(element, value) {
  if (element.textContent !== value) element.textContent = value;
}

// ---- numbers as people read them

const dash = "–";
const count = (value) => (value === null || value === undefined ? dash : value < 10000 ? String(value) : `${(value / 1000).toFixed(value < 100000 ? 1 : 0)}k`);
const percent = (permille) => (permille === null || permille === undefined ? dash : `${(permille / 10).toFixed(permille < 100 && permille > 0 ? 1 : 0)} %`);

function time(ms) {
  if (ms === null || ms === undefined) return dash;
  if (ms < 10) return `${Number(ms.toFixed(1))} ms`;
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60000) return `${(ms / 1000).toFixed(ms < 10000 ? 1 : 0)} s`;
  return `${Math.floor(ms / 60000)} min`;
}

// ---- lines of the last minutes

function line(kind, label) {
  const area = svg("path", { class: "area" });
  const stroke = svg("path", {});
  const element = svg("svg", { class: `line ${kind}`, viewBox: `0 0 ${SAMPLES - 1} 20`, preserveAspectRatio: "none", role: "img", "aria-label": label }, area, stroke);
  let drawn = null;
  element.draw = (values, least) => {
    // Lists of samples are made anew with each sample.
    if (drawn === values) return;
    drawn = values;
    const top = Math.max(least, ...values.map((value) => value ?? 0));
    const first = SAMPLES - values.length;
    let path = "";
    let fill = "";
    let begun = null;
    const close = (x) => {
      if (begun !== null) fill += `L${x} 20L${begun} 20Z`;
      begun = null;
    };
    values.forEach((value, index) => {
      const x = first + index;
      if (value === null) return close(x - 1);
      const y = (19 - (18 * value) / top).toFixed(1);
      path += `${begun === null ? "M" : "L"}${x} ${y}`;
      fill += `${begun === null ? "M" : "L"}${x} ${y}`;
      begun ??= x;
    });
    close(SAMPLES - 1);
    if (stroke.getAttribute("d") !== path) {
      stroke.setAttribute("d", path);
      area.setAttribute("d", fill);
    }
  };
  return element;
}

// ---- what the sidecar tells

function takeRoster(roster) {
  const known = new Map(endpoints.map((endpoint) => [endpoint.id, endpoint]));
  stepMs = roster.step_ms;
  pools = roster.pools.map((pool, index) => ({ fresh: 0, waiting: 0, running: 0, kv: null, flight: null, rate: null, requests: [], usage: [], ...pool, size: 0, index }));
  endpoints = roster.endpoints.map(([pool, address, pod, namespace, engine], place) => {
    const id = `${pool} ${address}`;
    pools[pool].size += 1;
    const before = known.get(id) ?? { id, state: "unknown", waiting: null, running: null, kv: null, flight: null, share: null, picks: null, failures: null, ejections: null, age: null, wait: null, problem: "", requests: [] };
    return Object.assign(before, { place, pool, address, pod, namespace, engine, search: `${pod} ${address} ${namespace} ${engine ?? ""}`.toLowerCase() });
  });
  // Comparing names as people do takes long, and they change seldom.
  const names = new Intl.Collator("en", { numeric: true });
  const byName = endpoints.map((endpoint) => [`${endpoint.pod} ${endpoint.address}`.trim(), endpoint]);
  byName.sort(([a], [b]) => names.compare(a, b)).forEach(([, endpoint], rank) => (endpoint.rank = rank));
  const select = $("pool");
  $("pool-field").hidden = pools.length < 2;
  select.replaceChildren(select.firstElementChild, ...pools.map((pool, index) => make("option", { value: String(index), textContent: pool.name })));
  drawPools();
}

function takePast(past) {
  pools.forEach((pool, index) => ([pool.requests, pool.usage] = past.pools[index] ?? [[], []]));
  endpoints.forEach((endpoint, index) => (endpoint.requests = past.endpoints[index] ?? []));
  sampledAt = 0;
}

function takeLoads(loads) {
  at = loads.at_ms;
  const isSample = at - sampledAt >= stepMs - 100;
  const push = (values, value) => [...values.slice(values.length >= SAMPLES ? 1 : 0), value];
  loads.pools.forEach((figures, index) => {
    const pool = pools[index];
    if (!pool) return;
    [pool.fresh, pool.waiting, pool.running, pool.kv, pool.flight, pool.rate] = figures;
    if (isSample && sampledAt > 0) {
      pool.requests = push(pool.requests, pool.fresh > 0 ? pool.waiting + pool.running : null);
      pool.usage = push(pool.usage, pool.kv);
    }
  });
  loads.endpoints.forEach((figures, index) => {
    const it = endpoints[index];
    if (!it) return;
    [it.state, it.waiting, it.running, it.kv, it.flight, it.share, it.picks, it.failures, it.ejections, it.age, it.wait] = figures;
    it.problem = loads.problems[index] ?? "";
    if (isSample && sampledAt > 0) it.requests = push(it.requests, it.state === "fresh" || (it.state === "ejected" && !it.problem) ? sum(it.waiting, it.running) : null);
  });
  if (isSample) sampledAt = at;
  const states = [...new Set(endpoints.map((endpoint) => endpoint.state))].sort();
  const select = $("state");
  const known = [...select.options].slice(2).map((option) => option.value);
  for (const state of states.filter((state) => !known.includes(state))) select.append(make("option", { value: state, textContent: state }));
  const problems = [loads.envoy_problem, ...pools.map((pool) => pool.problem && `Pool ${pool.name}: ${pool.problem}`)].filter(Boolean);
  $("problem").hidden = problems.length === 0;
  text($("problem"), problems.join(" · "));
  draw();
}

function takePicks(news) {
  // A sidecar that was started anew counts anew.
  if (news.length > 0 && news.at(-1).number < (picks[0]?.number ?? 0)) {
    picks = [];
    drawPicks();
  }
  const fresh = news.filter((pick) => pick.number > (picks[0]?.number ?? 0));
  if (fresh.length === 0) return;
  picks = [...fresh.reverse(), ...picks].slice(0, MAX_PICKS);
  drawPicks();
}

// ---- pools

function drawPools() {
  const cards = pools.map((pool) => {
    const figure = (title, hint) => {
      const value = make("dd");
      return [make("div", { title: hint }, make("dt", { textContent: title }), value), value];
    };
    const [flight, flightValue] = figure("In flight", "sent by this Envoy and not finished");
    const [waiting, waitingValue] = figure("Waiting", "in the queues of the engines");
    const [running, runningValue] = figure("Running", "in the batches of the engines");
    const [kv, kvValue] = figure("KV cache", "used part, in the mean of the fresh endpoints");
    const [rate, rateValue] = figure("Picks/s", "in the last ten seconds");
    const requests = line("", `Requests of pool ${pool.name}, the last four minutes`);
    const usage = line("second", `KV cache use of pool ${pool.name}, the last four minutes`);
    const chart = (title, element) => make("figure", {}, element, make("figcaption", { className: "muted", textContent: title }));
    const ready = make("span", { className: "muted" });
    const models = make("span", { className: "muted models", title: pool.models.join("\n"), textContent: pool.models.join(", ") });
    pool.draw = () => {
      text(ready, `${pool.fresh} of ${pool.size} fresh`);
      ready.className = pool.fresh < pool.size ? "warm" : "muted";
      text(flightValue, count(pool.flight));
      text(waitingValue, count(pool.waiting));
      text(runningValue, count(pool.running));
      text(kvValue, percent(pool.kv));
      text(rateValue, pool.rate === null ? dash : pool.rate.toFixed(pool.rate < 10 ? 1 : 0));
      requests.draw(pool.requests, 4);
      usage.draw(pool.usage, 200);
    };
    return make("article", { className: "pool" },
      make("div", {}, make("h2", { textContent: pool.name }), ready, models),
      make("dl", { className: "figures" }, flight, waiting, running, kv, rate),
      make("div", { className: "charts" }, chart("Requests waiting and running, 4 min", requests), chart("KV cache, 4 min", usage)));
  });
  $("pools").replaceChildren(...cards);
}

// ---- endpoints

function drawHead() {
  $("head").replaceChildren(...COLUMNS.map((column, index) => {
    const button = make("button", { type: "button", textContent: column.title, title: column.hint ? `${column.title}: ${column.hint}` : column.title });
    button.addEventListener("click", () => sortBy(column.key));
    const cell = make("div", { data: { key: column.key } }, button);
    cell.setAttribute("role", "columnheader");
    cell.setAttribute("aria-colindex", String(index + 1));
    return cell;
  }));
  $("grid").setAttribute("aria-colcount", String(COLUMNS.length));
  $("sort").replaceChildren(...COLUMNS.map((column) => make("option", { value: column.key, textContent: `Sort: ${column.title}` })));
  showSort();
}

function sortBy(key, down) {
  const column = COLUMNS.find((column) => column.key === key);
  sort = { key, down: down ?? (sort.key === key ? !sort.down : Boolean(column.down)) };
  showSort();
  draw();
}

function showSort() {
  for (const cell of $("head").children) {
    if (cell.dataset.key === sort.key) cell.setAttribute("aria-sort", sort.down ? "descending" : "ascending");
    else cell.removeAttribute("aria-sort");
  }
  $("sort").value = sort.key;
}

function choose() {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const [pool, state] = [$("pool").value, $("state").value];
  shown = endpoints.filter((endpoint) =>
    (pool === "" || endpoint.pool === Number(pool)) &&
    (state === "" || (state === "!fresh" ? endpoint.state !== "fresh" : endpoint.state === state)) &&
    words.every((word) => endpoint.search.includes(word) || endpoint.state.includes(word)));
  const { value } = COLUMNS.find((column) => column.key === sort.key);
  const keyed = shown.map((endpoint) => [value(endpoint), endpoint]);
  const sign = sort.down ? -1 : 1;
  keyed.sort(([a, left], [b, right]) => {
    // What is not known comes last.
    if (a === null || b === null) return (a === null) - (b === null) || left.place - right.place;
    const order = typeof a === "string" ? (a > b) - (a < b) : a - b;
    return order * sign || left.place - right.place;
  });
  shown = keyed.map(([, endpoint]) => endpoint);
}

function makeRow() {
  const cells = COLUMNS.map((column) => {
    const cell = make("div", { className: `c-${column.key}`, data: { label: column.short ?? column.title } });
    cell.setAttribute("role", "gridcell");
    return cell;
  });
  const [name, state, lineCell] = cells;
  const [title, subtitle] = [make("b"), make("span")];
  name.append(make("span", { className: "name" }, title, subtitle));
  const badge = make("span", { className: "badge" });
  state.append(badge);
  const requests = line("", "Requests, the last four minutes");
  lineCell.append(requests);
  const meter = () => {
    const bar = svg("rect", { width: "0%" });
    const number = make("span");
    return { bar, number, element: make("span", { className: "meter" }, svg("svg", { "aria-hidden": "true" }, bar), number) };
  };
  const [kv, share] = [meter(), meter()];
  cells[5].append(kv.element);
  cells[7].append(share.element);
  const element = make("div", { className: "endpoint" }, ...cells);
  element.setAttribute("role", "row");
  const last = {};
  // Touches the page only where something changed.
  const put = (key, value, apply) => {
    if (last[key] === value) return;
    last[key] = value;
    apply(value);
  };
  const write = (place, value, target = cells[place]) => put(place, value, () => (target.textContent = value));
  const warm = (place, isWarm) => put(`warm${place}`, isWarm, () => cells[place].classList.toggle("warm", isWarm));
  const measure = (place, meter, permille) => {
    write(place, percent(permille), meter.number);
    put(`bar${place}`, permille, () => meter.bar.setAttribute("width", `${(permille ?? 0) / 10}%`));
  };
  element.draw = (endpoint, index) => {
    element.endpoint = endpoint;
    put("index", index, () => element.setAttribute("aria-rowindex", String(index + 2)));
    put("tab", index === cursor ? 0 : -1, (tab) => (element.tabIndex = tab));
    put("dim", endpoint.state !== "fresh", (isDim) => element.classList.toggle("dim", isDim));
    const [pod, address] = [endpoint.pod, endpoint.address];
    write("title", pod || address, title);
    write("subtitle", [pod ? address : endpoint.engine, pools.length > 1 ? pools[endpoint.pool].name : null].filter(Boolean).join(" · "), subtitle);
    put("name", [endpoint.namespace, pod, address].filter(Boolean).join(" "), (name) => (cells[0].title = name));
    put("state", endpoint.state, (it) => {
      badge.dataset.state = it;
      badge.textContent = it;
    });
    put("problem", endpoint.problem, (problem) => (state.title = problem));
    requests.draw(endpoint.requests, 4);
    write(3, count(endpoint.waiting));
    warm(3, endpoint.waiting > 0);
    write(4, count(endpoint.running));
    measure(5, kv, endpoint.kv);
    put("high", endpoint.kv >= 800, (isHigh) => kv.element.classList.toggle("high", isHigh));
    write(6, count(endpoint.flight));
    measure(7, share, endpoint.share);
    write(8, time(endpoint.wait));
    write(9, time(endpoint.age));
    warm(9, endpoint.age > 2000);
    write(10, count(endpoint.failures));
    warm(10, endpoint.failures > 0);
  };
  return element;
}

let rowHeight = 0;

function drawRows() {
  const [grid, body] = [$("grid"), $("rows")];
  cursor = Math.max(0, Math.min(cursor, shown.length - 1));
  if (rowHeight === 0 && shown.length > 0) {
    const row = makeRow();
    row.draw(shown[0], 0);
    body.insertBefore(row, $("below"));
    rowHeight = row.offsetHeight;
    row.remove();
  }
  const head = $("head").offsetHeight;
  const first = Math.max(0, Math.floor((grid.scrollTop - head) / (rowHeight || 1)) - OVERSCAN);
  const last = Math.min(shown.length, Math.ceil((grid.scrollTop + grid.clientHeight) / (rowHeight || 1)) + OVERSCAN);
  const wanted = new Set();
  for (let index = first; index < last; index += 1) wanted.add(shown[index].id);
  const focused = document.activeElement?.endpoint?.id;
  const free = [];
  for (const [id, row] of rows) {
    if (!wanted.has(id) && id !== focused) {
      rows.delete(id);
      // Out of the way, or every row behind it would have to be moved.
      row.remove();
      free.push(row);
    }
  }
  let before = $("above");
  for (let index = first; index < last; index += 1) {
    const endpoint = shown[index];
    let row = rows.get(endpoint.id);
    if (!row) {
      row = free.pop() ?? makeRow();
      rows.set(endpoint.id, row);
    }
    row.draw(endpoint, index);
    if (before.nextSibling !== row) before.after(row);
    before = row;
  }
  for (const [id, row] of rows) {
    // The row with the focus went out of sight or out of the filter.
    if (!wanted.has(id)) {
      row.remove();
      rows.delete(id);
    }
  }
  $("above").style.height = `${first * rowHeight}px`;
  $("below").style.height = `${Math.max(0, shown.length - last) * rowHeight}px`;
  grid.setAttribute("aria-rowcount", String(shown.length + 1));
}

function draw() {
  for (const pool of pools) pool.draw?.();
  choose();
  drawRows();
  text($("count"), shown.length === endpoints.length ? String(endpoints.length) : `${shown.length} of ${endpoints.length}`);
  $("nothing").hidden = shown.length > 0;
  text($("nothing"), endpoints.length === 0 ? "No endpoint is known yet." : "No endpoint matches the filter.");
  showStatus();
  if (opened) drawDetails();
}

function showStatus() {
  if (wanted) {
    $("status").dataset.state = "waiting";
    return text($("status"), "a token is wanted");
  }
  const state = lost ? "lost" : at === 0 ? "waiting" : "live";
  $("status").dataset.state = paused && !lost ? "waiting" : state;
  text($("status"), lost ? "connection lost, trying again" : paused ? "paused" : at === 0 ? "connecting" : "live");
}

function focusRow(index) {
  cursor = Math.max(0, Math.min(index, shown.length - 1));
  const grid = $("grid");
  const head = $("head").offsetHeight;
  const top = cursor * rowHeight;
  if (top < grid.scrollTop) grid.scrollTop = top;
  else if (top + rowHeight + head > grid.scrollTop + grid.clientHeight) grid.scrollTop = top + rowHeight + head - grid.clientHeight;
  drawRows();
  rows.get(shown[cursor]?.id)?.focus({ preventScroll: true });
}

// ---- one endpoint

function openDetails(endpoint) {
  opened = endpoint;
  const requests = line("", "Requests, the last four minutes");
  const facts = make("dl", { className: "facts" });
  $("details-body").replaceChildren(requests, make("p", { className: "muted", textContent: "Requests waiting and running, the last four minutes" }), facts);
  opened.drawDetails = () => {
    requests.draw(endpoint.requests, 4);
    const badge = make("span", { className: "badge", textContent: endpoint.state, data: { state: endpoint.state } });
    const told = [
      ["State", badge], ["Problem", endpoint.problem], ["Address", endpoint.address], ["Namespace", endpoint.namespace],
      ["Pool", pools[endpoint.pool]?.name], ["Model server", endpoint.engine], ["Waiting", count(endpoint.waiting)], ["Running", count(endpoint.running)],
      ["KV cache", percent(endpoint.kv)], ["In flight from this Envoy", count(endpoint.flight)], ["Share of picks", percent(endpoint.share)],
      ["Picks", count(endpoint.picks)], ["Failed requests", count(endpoint.failures)], ["Times left out", count(endpoint.ejections)],
      ["Age of its figures", time(endpoint.age)], ["Predicted wait", time(endpoint.wait)],
    ];
    facts.replaceChildren(...told.filter(([, value]) => value).flatMap(([title, value]) => [make("dt", { textContent: title }), make("dd", {}, value)]));
  };
  text($("details-title"), endpoint.pod || endpoint.address);
  drawDetails();
  $("details").showModal();
}

function drawDetails() {
  opened.drawDetails();
}

// ---- picks

// Milliseconds since the Unix epoch as the time of the day.
const clock = (ms) => new Date(ms).toLocaleTimeString("en-GB");

function nameOf(address, pool) {
  const place = pools.findIndex((known) => known.name === pool);
  return endpoints.find((endpoint) => endpoint.address === address && endpoint.pool === place)?.pod || address || "nowhere";
}

function drawPick({ at_ms, pick }) {
  const served = pick.served ?? pick.picked;
  const reason = pick.served_reason ?? pick.reason;
  const head = make("summary", {},
    make("b", {}, nameOf(served, pick.pool)),
    make("span", { className: "right" }));
  const chips = [];
  if (reason) chips.push(make("span", { className: "chip", textContent: reason.replaceAll("_", " ") }));
  if (pick.error) chips.push(make("span", { className: "chip bad", textContent: pick.error }));
  head.lastElementChild.append(...chips);
  const tokens = [];
  if (pick.input_tokens !== undefined) tokens.push(`${count(pick.input_tokens)} in`);
  if (pick.cached_tokens) tokens.push(`${count(pick.cached_tokens)} cached`);
  if (pick.output_tokens !== undefined) tokens.push(`${count(pick.output_tokens)} out`);
  head.append(
    make("span", { className: "muted", title: pick.model, textContent: [...tokens, pick.model].filter(Boolean).join(" · ") }),
    make("span", { className: "muted right", textContent: pick.ttft_ms === undefined ? time(pick.duration_ms) : `TTFT ${time(pick.ttft_ms)}` }));
  const item = make("details", {}, head);
  item.addEventListener("toggle", () => {
    if (item.open && item.childElementCount === 1) item.append(drawWhy(at_ms, pick, served));
  });
  return make("li", {}, item);
}

function drawWhy(at_ms, pick, served) {
  const header = ["Endpoint", "Score", "Cost", "TTFT", "Slot", "Cached", "New", "Flight", "Age"];
  const table = make("table", {}, make("thead", {}, make("tr", {}, ...header.map((title) => make("th", { scope: "col", textContent: title })))));
  const body = make("tbody");
  for (const it of pick.ranked ?? []) {
    const cells = [
      nameOf(it.endpoint, pick.pool), it.score === undefined ? dash : String(Number(it.score.toFixed(3))), time(it.cost_ms), time(it.predicted_ttft_ms), time(it.wait_ms),
      count(it.cached_tokens), count(it.uncached_tokens), count(it.in_flight), time(it.signal_age_ms),
    ];
    body.append(make("tr", { className: it.endpoint === served ? "chosen" : "" }, ...cells.map((value) => make("td", { textContent: value }))));
  }
  table.append(body);
  const predicted = (pick.ranked ?? []).find((it) => it.endpoint === served)?.predicted_ttft_ms;
  const facts = [
    `${clock(at_ms)}`, pick.operation, pick.status && `status ${pick.status}`, pick.attempts > 1 && `${pick.attempts} attempts`,
    predicted !== undefined && pick.ttft_ms !== undefined && `first token predicted after ${time(predicted)}, came after ${time(pick.ttft_ms)}`,
    pick.duration_ms !== undefined && `took ${time(pick.duration_ms)}`, pick.target_model && pick.target_model !== pick.model && `sent as ${pick.target_model}`,
  ].filter(Boolean);
  const failed = (pick.failed ?? []).map((it) => `${nameOf(it.endpoint, pick.pool)} failed: ${it.reason}`);
  const why = make("div", { className: "why" }, make("p", { textContent: facts.join(" · ") }));
  if (failed.length > 0) why.append(make("p", { className: "warm", textContent: failed.join(" · ") }));
  if ((pick.ranked ?? []).length > 0) {
    const scroll = make("div", { className: "scroll", tabIndex: 0, role: "region", ariaLabel: "What each endpoint was rated by" }, table);
    why.append(scroll);
  }
  if (pick.request_id) why.append(make("p", { className: "muted", textContent: `request ${pick.request_id}` }));
  return why;
}

const drawn = new Map();

function drawPicks() {
  const list = $("pick-list");
  $("no-picks").hidden = picks.length > 0;
  text($("picked"), picks.length > 0 ? String(picks.length) : "");
  const scrolled = list.scrollTop > 4;
  const height = list.scrollHeight;
  let before = null;
  for (const pick of picks) {
    let item = drawn.get(pick.number);
    if (!item) {
      item = drawPick(pick);
      drawn.set(pick.number, item);
      if (before) before.after(item);
      else list.prepend(item);
    }
    before = item;
  }
  const kept = new Set(picks.map((pick) => pick.number));
  for (const [number, item] of drawn) {
    if (!kept.has(number)) {
      item.remove();
      drawn.delete(number);
    }
  }
  // Whoever reads further down goes on reading the same.
  if (scrolled) list.scrollTop += list.scrollHeight - height;
}

// ---- what people do

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  text($("theme"), `Theme: ${theme}`);
  try {
    localStorage.setItem("inpick-theme", theme);
  } catch {
    // A browser that keeps nothing forgets it.
  }
}

function nextTheme() {
  const themes = ["system", "light", "dark"];
  const current = document.documentElement.dataset.theme ?? "system";
  setTheme(themes[(themes.indexOf(current) + 1) % themes.length]);
}

function pause() {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  text($("pause"), paused ? "Go on" : "Pause");
  if (!paused && missed) {
    const events = missed;
    missed = null;
    for (const [take, data] of events) take(data);
  }
  showStatus();
}

$("pause").addEventListener("click", pause);
$("theme").addEventListener("click", nextTheme);
for (const id of ["filter", "pool", "state"]) {
  $(id).addEventListener("input", () => {
    cursor = 0;
    $("grid").scrollTop = 0;
    draw();
  });
}
$("sort").addEventListener("input", () => {
  const column = COLUMNS.find((column) => column.key === $("sort").value);
  sortBy(column.key, Boolean(column.down));
});
$("grid").addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
$("rows").addEventListener("click", (event) => {
  const row = event.target.closest(".endpoint");
  if (row) openDetails(row.endpoint);
});
$("rows").addEventListener("focusin", (event) => {
  const row = event.target.closest(".endpoint");
  if (row) cursor = shown.indexOf(row.endpoint);
});
$("rows").addEventListener("keydown", (event) => {
  const page = Math.max(1, Math.floor($("grid").clientHeight / rowHeight) - 2);
  const moves = { ArrowDown: 1, ArrowUp: -1, PageDown: page, PageUp: -page, Home: -shown.length, End: shown.length };
  if (event.key in moves) focusRow(cursor + moves[event.key]);
  else if (event.key === "Enter" || event.key === " ") openDetails(shown[cursor]);
  else return;
  event.preventDefault();
});
$("details").addEventListener("close", () => (opened = null));
$("details").addEventListener("click", (event) => event.target === $("details") && $("details").close());
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Escape" && event.target === $("filter")) {
    $("filter").value = "";
    draw();
    return;
  }
  if (event.target.closest("input, select, dialog")) return;
  const keys = wanted ? { d: nextTheme } : { "/": () => $("filter").focus(), p: pause, d: nextTheme };
  if (!(event.key in keys)) return;
  event.preventDefault();
  keys[event.key]();
});
window.addEventListener("resize", () => {
  rowHeight = 0;
  drawRows();
});

// ---- events

const TAKERS = { roster: takeRoster, past: takePast, loads: takeLoads, picks: takePicks };
const RETRY_MS = 3000;

function takeEvent(event) {
  const fields = new Map(event.split("\n").map((line) => [line.slice(0, line.indexOf(":")), line.slice(line.indexOf(":") + 1).trimStart()]));
  const take = TAKERS[fields.get("event")];
  if (!take) return;
  lost = false;
  const data = JSON.parse(fields.get("data"));
  if (!paused) return take(data);
  // Of figures the last ones are enough.
  missed = [...(missed ?? []).filter(([other]) => take !== takeLoads || other !== takeLoads), [take, data]].slice(-500);
}

// Each of the sidecar's events is a few lines, of which the one with the data is one, and ends with an empty line.
async function readEvents(body) {
  let told = 0;
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  for (let piece = await reader.read(); ; piece = await reader.read()) {
    if (piece.done) return told;
    const from = Math.max(0, unread.length - 1);
    unread += piece.value;
    if (unread.indexOf("\n\n", from) < 0) continue;
    const events = unread.split("\n\n");
    unread = events.pop();
    told += events.length;
    for (const event of events) {
      try {
        takeEvent(event);
      } catch (error) {
        // One that cannot be shown ends no connection.
        reportError(error);
      }
    }
  }
}

// A browser's own reader of events sends no token. Only the newest connection tries again.
let connection = 0;

async function connect() {
  const own = ++connection;
  const headers = token === "" ? {} : { authorization: `Bearer ${token}` };
  try {
    const answer = await fetch("api/events", { headers, cache: "no-store", credentials: "omit", redirect: "error" });
    if (answer.status === 401 || answer.status === 403) return wantToken((await answer.text()).trim());
    if (answer.ok) {
      showSignIn(false);
      // Events that a token opened end after a minute, so that a revoked one shows no more.
      if ((await readEvents(answer.body)) > 0 && own === connection) return connect();
    }
  } catch {
    // The connection broke, or there was none.
  }
  if (own !== connection) return;
  lost = true;
  showStatus();
  setTimeout(() => own === connection && connect(), RETRY_MS);
}

// ---- the token, where the sidecar asks for one

const TOKEN_KEY = "inpick-token";
let token = "";
let wanted = false;
try {
  token = sessionStorage.getItem(TOKEN_KEY) ?? "";
} catch {
  // A browser that keeps nothing asks for it again with each load.
}

function keepToken(text) {
  token = text;
  try {
    if (text === "") sessionStorage.removeItem(TOKEN_KEY);
    else sessionStorage.setItem(TOKEN_KEY, text);
  } catch {
    // As above.
  }
}

function showSignIn(isWanted) {
  wanted = isWanted;
  $("sign-in").hidden = !isWanted;
  document.querySelector("main").hidden = isWanted;
  $("pause").hidden = isWanted;
  $("forget").hidden = isWanted || token === "";
  if (isWanted) $("problem").hidden = true;
  showStatus();
}

function refuse(why) {
  $("refusal").hidden = why === "";
  text($("refusal"), why);
}

// What the sidecar says of a token that was sent is shown; without one it says no more than the form.
function wantToken(why) {
  refuse(token === "" ? "" : `The sidecar refuses the token: ${why}.`);
  keepToken("");
  $("insecure").hidden = isSecureContext;
  showSignIn(true);
  $("token").focus();
}

$("sign-in-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const said = $("token").value.trim().replace(/^(authorization:\s*)?bearer\s+/i, "");
  if (!/^[!-~]+$/.test(said)) return refuse("A token is one word of ASCII letters, digits and signs.");
  refuse("");
  $("token").value = "";
  keepToken(said);
  connect();
});
$("forget").addEventListener("click", () => {
  keepToken("");
  // What was shown with it goes too.
  location.reload();
});

let theme = "system";
try {
  theme = localStorage.getItem("inpick-theme") ?? "system";
} catch {
  // As above.
}
setTheme(["light", "dark"].includes(theme) ? theme : "system");
drawHead();
connect();
