"use strict";

// Shows what /status says, each second. Whatever comes from there is put in as text.

const EVERY_MS = 1000;
const PATIENCE_MS = 5000;
const KEPT = 120;
const CLOCK_OFF_MS = 10000;

const byId = (id) => document.getElementById(id);
let token = null;
let last = null;
let lastAt = 0;
let lostSince = null;
const shown = new Map();

const PLOTS = [
  { title: "Grants a second", value: (s, r) => r?.grants, unit: "", led: true },
  { title: "Timestamps a second", value: (s, r) => r?.timestamps, unit: "", led: true },
  { title: "Commits a second", value: (s, r) => r?.commits, unit: "", led: true },
  { title: "A commit takes", value: (s) => latency(s.commits), unit: "ms", led: true },
  { title: "A write to the disk takes", value: (s) => latency(s.disk_writes), unit: "ms", led: false },
];

// What is worse than a warning: the node does not serve, or will not for long.
const SERIOUS = new Set(["failed", "majority_lost", "disk_slow", "clock_wrong", "certificate_expired",
  "disk_nearly_full", "lease_lapsed", "cannot_take_over", "no_leader", "cluster_not_formed", "etcd_silent",
  "node_runs_twice"]);

function element(tag, properties, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties ?? {})) {
    if (name === "class") made.className = value;
    else made.setAttribute(name, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawing(tag, properties) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(properties)) made.setAttribute(name, value);
  return made;
}

// Makes a part of the page anew if what it shows has changed.
function show(id, value, make) {
  const seen = JSON.stringify(value);
  if (shown.get(id) === seen) return;
  shown.set(id, seen);
  byId(id).replaceChildren(...make().filter((part) => part !== null));
}

function text(id, value) {
  if (byId(id).textContent !== value) byId(id).textContent = value;
}

function duration(ms) {
  const sign = ms < 0 ? "-" : "";
  const s = Math.abs(ms) / 1000;
  // A number and its unit stay on one line.
  const two = (a, unitA, b, unitB) => `${sign}${a}\u00a0${unitA}${b ? `\u00a0${b}\u00a0${unitB}` : ""}`;
  if (s < 1) return `${sign}${Math.round(s * 1000)}\u00a0ms`;
  if (s < 60) return `${sign}${s < 10 ? s.toFixed(1) : Math.floor(s)}\u00a0s`;
  if (s < 3600) return two(Math.floor(s / 60), "min", Math.floor(s % 60), "s");
  if (s < 86400) return two(Math.floor(s / 3600), "h", Math.floor((s % 3600) / 60), "min");
  return two(Math.floor(s / 86400), "d", Math.floor((s % 86400) / 3600), "h");
}

const coarse = (ms) => (ms < 60000 ? `${Math.floor(ms / 1000)}\u00a0s` : duration(ms - (ms % 60000)));

function count(number) {
  if (number >= 1e9) return `${(number / 1e9).toFixed(2)} G`;
  if (number >= 1e6) return `${(number / 1e6).toFixed(2)} M`;
  if (number >= 1e4) return `${(number / 1e3).toFixed(1)} k`;
  return number >= 100 || Number.isInteger(number) ? Math.round(number).toLocaleString("en") : number.toFixed(1);
}

// Whole numbers come as text as well, since they may have 64 bits.
const whole = (owner, name) => BigInt(owner[`${name}_text`] ?? owner[name] ?? 0).toLocaleString("en");

const some = (owner, name, one) => `${whole(owner, name)} ${one}${owner[name] === 1 ? "" : "s"}`;

function bytes(number) {
  const units = ["bytes", "kB", "MB", "GB", "TB", "PB"];
  let at = 0;
  while (number >= 1000 && at < units.length - 1) { number /= 1000; at++; }
  return `${at ? number.toFixed(1) : number} ${units[at]}`;
}

function millis(ms) {
  return ms >= 100 ? Math.round(ms).toLocaleString("en") : ms >= 10 ? ms.toFixed(1) : ms.toFixed(2);
}

// As the log has it, wherever the reader is.
function moment(ms) {
  const at = new Date(ms);
  return Number.isNaN(at.getTime()) ? "?" : `${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
}

// What half of the recent ones take; or the one that hangs.
function latency(of) {
  if (!of) return undefined;
  const waits = of.under_way_ms ?? 0;
  if (of.recent === 0) return waits > 100 ? waits : undefined;
  return waits > of.max_ms * 2 && waits > 100 ? waits : of.median_ms;
}

function rates(status) {
  if (!last || status.uptime_ms <= last.uptime_ms) return null;
  const seconds = (status.uptime_ms - last.uptime_ms) / 1000;
  const rate = (name) => Math.max(0, (status.totals[name] - last.totals[name]) / seconds);
  return { grants: rate("grants"), timestamps: rate("timestamps"), commits: rate("commits") };
}

function plot(at, values, unit) {
  const known = values.filter((value) => value !== null);
  const top = Math.max(...known, unit === "ms" ? 1 : 10) * 1.08;
  const now = values[values.length - 1];
  const x = (index) => ((index + KEPT - values.length) / (KEPT - 1)) * 200;
  const y = (value) => 54 - (value / top) * 52;
  let curve = "", area = "", from = null;
  values.forEach((value, index) => {
    if (value === null) { from = null; return; }
    curve += `${from === null ? "M" : "L"}${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    area += from === null
      ? `M${x(index).toFixed(1)} 54L${x(index).toFixed(1)} ${y(value).toFixed(1)}`
      : `L${x(index).toFixed(1)} ${y(value).toFixed(1)}`;
    if (index + 1 === values.length || values[index + 1] === null) area += `L${x(index).toFixed(1)} 54Z`;
    from = index;
  });
  at.curve.setAttribute("d", curve);
  at.area.setAttribute("d", area);
  at.number.textContent = now === null ? "–" : unit === "ms" ? millis(now) : count(now);
  at.unit.textContent = now !== null && unit ? ` ${unit}` : "";
  at.top.textContent = known.length ? `up to ${unit === "ms" ? `${millis(Math.max(...known))} ms` : count(Math.max(...known))}` : "";
  at.svg.setAttribute("aria-label", `${at.title}: ${at.number.textContent}${at.unit.textContent} now, ${at.top.textContent} in the last two minutes`);
}

function makePlots() {
  for (const one of PLOTS) {
    const svg = drawing("svg", { viewBox: "0 0 200 56", preserveAspectRatio: "none", role: "img" });
    const parts = {
      title: one.title, svg,
      area: drawing("path", { class: "area" }),
      curve: drawing("path", { class: "curve" }),
      number: document.createTextNode("–"), unit: element("small"), top: element("span"),
    };
    svg.append(drawing("line", { class: "base", x1: 0, x2: 200, y1: 54.5, y2: 54.5 }), parts.area, parts.curve);
    one.values = [];
    one.parts = parts;
    one.box = element("div", { class: "plot" }, element("h3", {}, one.title),
      element("p", { class: "value" }, parts.number, parts.unit), svg,
      element("p", { class: "range" }, element("span", {}, "2 min"), parts.top));
    byId("plots").append(one.box);
  }
}

function pair(name, ...value) {
  return [element("dt", {}, name), element("dd", {}, ...value)];
}

function tone(status) {
  if (["failed", "lapsed", "no leader", "unknown"].includes(status.phase)) return "bad";
  if (status.problems.some((one) => SERIOUS.has(one.kind))) return "bad";
  return ["leading", "following"].includes(status.phase) && !status.problems.length ? "ok" : "warn";
}

function lease(status) {
  if (status.phase === "lapsed") return "has run out";
  if (status.phase !== "leading") return "not this node's";
  if (status.lease_left_ms > 0) return `${duration(status.lease_left_ms)} of ${duration(status.lease_ms)}`;
  return "idle: the next request renews it";
}

function ahead(status) {
  if (status.phase !== "leading") return "–";
  return status.ahead_of_clock_ms ? duration(status.ahead_of_clock_ms) : "not at all";
}

// Of two clocks one is wrong; the reader may know which.
function wallClock(status) {
  const off = status.now_ms - Date.now();
  const side = off > 0 ? "ahead of" : "behind";
  return `${moment(status.now_ms)}${Math.abs(off) < CLOCK_OFF_MS ? "" : `, ${coarse(Math.abs(off))} ${side} that of your machine`}`;
}

function clock(status) {
  const isWrong = status.problems.some((one) => one.kind === "clock_wrong");
  if (!status.clock_off_ms && isWrong) return "no";
  if (!status.clock_off_ms) return { leading: "yes", lapsed: "yes", following: "that of the node that leads is" }[status.phase] ?? "–";
  const side = status.clock_off_ms > 0 ? "ahead" : "behind";
  return `no: it is ${duration(Math.abs(status.clock_off_ms))} ${side}`;
}

function showHero(status) {
  const hero = document.querySelector(".hero");
  hero.className = `hero ${tone(status)}`;
  text("phase", status.phase);
  text("summary", `${status.summary}, for ${coarse(status.phase_ms)}`);
  const facts = {
    Leader: status.leader ?? "none known", Epoch: status.epoch ?? "–", Lease: lease(status),
    "Ahead of the clock": ahead(status), "Requests waiting": whole(status, "waiting"),
  };
  show("facts", facts, () => Object.entries(facts).map(([name, value]) => element("div", {}, ...pair(name, value))));
}

function showProblems(status) {
  const problems = status.problems.map((one) => ({ ...one, ago: coarse(one.lasts_ms), lasts_ms: 0, lasts_ms_text: 0, since_ms_text: 0, since_ms: 0 }));
  show("problems", problems, () => {
    if (!problems.length) return [element("li", { class: "none" }, "Nothing is wrong, as far as this node knows.")];
    return problems.map((one) => element("li", { class: SERIOUS.has(one.kind) ? "" : "warn" },
      element("p", { class: "what" }, one.what),
      one.do ? element("p", { class: "do" }, `What to do: ${one.do}.`) : null,
      element("p", { class: "since" }, `For ${one.ago}`)));
  });
}

const STATES = { leads: "ok", follows: "", learns: "", unreached: "bad", unknown: "warn" };

function showMembers(status) {
  byId("members-card").hidden = !status.members.length;
  const members = status.members.map((one) => ({ ...one, ago: one.unreached_ms === null ? null : coarse(one.unreached_ms), unreached_ms: 0, unreached_ms_text: 0 }));
  show("members", members, () => members.map((one) => element("tr", {},
    element("td", {}, `${one.id}`, one.own ? element("span", { class: "muted" }, "  this node") : null),
    element("td", {}, element("span", { class: `pill ${STATES[one.state] ?? ""}` }, one.ago === null ? one.state : `not reached for ${one.ago}`),
      one.reason ? element("small", {}, one.reason) : null,
      one.votes || one.state === "learns" ? null : element("small", {}, "without a vote")),
    element("td", { "data-label": "Lag" }, one.lag_entries === null ? "–" : one.lag_entries === 0 ? "none" : one.lag_entries === 1 ? "1 entry" : `${whole(one, "lag_entries")} entries`),
    element("td", { "data-label": "Clients" }, one.service_address),
    element("td", { "data-label": "Peers" }, one.peer_address))));
}

function showTime(status) {
  const disk = status.disk_writes;
  const pairs = [
    ["Wall clock", wallClock(status)], ["It is followed", clock(status)],
    ["Reserved until", status.reserved_until_ms ? moment(status.reserved_until_ms) : "–"],
    ["Commits", `${whole(status.totals, "commits")} since the start; the longest of late ${status.commits.recent ? `${millis(status.commits.max_ms)}\u00a0ms` : "–"}`],
    ["Disk", disk ? `${some(disk, "count", "write")}; the longest of late ${disk.recent ? `${millis(disk.max_ms)}\u00a0ms` : "–"}` : "not measured with this driver"],
    ["Granted", `${some(status.totals, "timestamps", "timestamp")} in ${some(status.totals, "grants", "call")}`],
  ];
  show("time", pairs, () => pairs.flatMap(([name, value]) => pair(name, value)));
}

function use(name, told, share, kind) {
  const inner = element("i");
  inner.style.width = `${Math.min(100, share * 100)}%`;
  return element("div", { class: "use" }, element("div", { class: "row" }, element("span", {}, name), element("span", {}, told)),
    element("div", { class: `bar ${kind}`, "aria-hidden": "true" }, share > 0 ? inner : null));
}

function showUsage(status) {
  const leads = ["leading", "lapsed"].includes(status.phase);
  show("usage", [leads, status.usage, status.free_bytes, status.reserve_bytes], () => {
    const parts = status.usage.map((one) => {
      const share = one.limit ? one.used / one.limit : 0;
      const told = leads ? `${whole(one, "used")} of ${whole(one, "limit")}` : `at most ${whole(one, "limit")}`;
      return use(one.what, told, leads ? share : 0, share >= 0.9 ? "bad" : share >= 0.75 ? "warn" : "");
    });
    if (status.free_bytes !== null) {
      const low = status.free_bytes < status.reserve_bytes;
      parts.push(element("p", { class: low ? "low" : "muted" },
        `${bytes(status.free_bytes)} free on the disk; ${bytes(status.reserve_bytes)} are kept in reserve`));
    }
    if (!leads) parts.push(element("p", { class: "muted" }, "How much is used is known to the leader."));
    return parts;
  });
}

function showChanges(status) {
  const changes = status.changes.map((one) => ({ ...one, ago: coarse(one.ago_ms), ago_ms: 0, ago_ms_text: 0 }));
  show("changes", changes, () => changes.length ? changes.map((one) => element("li", {},
    element("time", {}, moment(one.at_ms)),
    element("p", {}, element("span", { class: "what" }, one.what), one.epoch ? ` in epoch ${one.epoch}` : "", one.cause ? `: ${one.cause}` : "",
      element("span", { class: "muted" }, `  ${one.ago} ago`))))
    : [element("li", {}, element("p", { class: "muted" }, "Nothing yet since this node began."))]);
}

function showCertificates(status) {
  byId("certificates-card").hidden = !status.certificates.length;
  const days = (one) => Math.floor(one.expires_in_ms / 86400000);
  const certificates = status.certificates.map((one) => ({ name: one.name, used_for: one.used_for, at: one.expires_ms, days: days(one), over: one.expires_in_ms < 0 }));
  show("certificates", certificates, () => certificates.map((one) => element("li", {},
    element("span", { class: "when" }, element("span", { class: `pill ${one.over ? "bad" : one.days <= 30 ? "warn" : ""}` },
      one.over ? "expired" : `${one.days} days left`)),
    element("p", {}, one.name, element("span", { class: "muted" }, `  ${one.used_for}, until ${moment(one.at)}`)))));
}

function render(status) {
  const name = status.leader && status.phase === "leading" ? status.leader
    : status.members.find((one) => one.own)?.service_address ?? location.host;
  text("name", status.member === null ? name : `node ${status.member} · ${name}`);
  document.title = `${status.phase}${status.problems.length ? ` (${status.problems.length})` : ""} · ${name} · tsoracle`;
  const rate = rates(status);
  for (const one of PLOTS) {
    const value = one.value(status, rate);
    one.values.push(value === undefined || value === null ? null : value);
    if (one.values.length > KEPT) one.values.shift();
    plot(one.parts, one.values, one.unit);
  }
  // A node that has led within these two minutes has something to show.
  const hasLed = status.phase === "leading" || PLOTS.some((one) => one.led && one.values.some((value) => value > 0));
  for (const one of PLOTS) one.box.hidden = one.led ? !hasLed : !status.disk_writes;
  byId("led").hidden = hasLed || status.phase !== "following";
  showHero(status);
  showProblems(status);
  showMembers(status);
  showTime(status);
  showUsage(status);
  showChanges(status);
  showCertificates(status);
  text("about", `tsoracle ${status.version}, driver ${status.driver}, up for ${coarse(status.uptime_ms)}`);
  byId("content").hidden = false;
}

function lost(reason) {
  lostSince ??= Date.now();
  byId("live").className = "off";
  text("live-text", "no connection");
  byId("main").classList.add("stale");
  byId("lost").hidden = false;
  const since = lastAt ? ` What is shown is of ${moment(lastAt)}, ${coarse(Date.now() - lastAt)} ago.` : "";
  text("lost", `This page does not reach its node (${reason}). The node may have stopped; the page goes on trying.${since}`);
}

function found() {
  lostSince = null;
  byId("live").className = "on";
  text("live-text", "live");
  byId("main").classList.remove("stale");
  byId("lost").hidden = true;
}

async function look() {
  const headers = token ? { authorization: `Bearer ${token}` } : {};
  const response = await fetch("status", { cache: "no-store", headers, signal: AbortSignal.timeout(PATIENCE_MS) });
  if (response.status === 401 || response.status === 403) {
    text("token-reason", await response.text());
    byId("token-form").hidden = false;
    byId("content").hidden = true;
    return found();
  }
  // It is asked for by others as well; the next second will do.
  if (response.status === 429) return;
  if (!response.ok) throw new Error(`it answers ${response.status}: ${(await response.text()).trim()}`);
  const status = await response.json();
  byId("token-form").hidden = true;
  render(status);
  last = status;
  lastAt = Date.now();
  found();
}

async function run() {
  for (;;) {
    const began = Date.now();
    try {
      await look();
    } catch (error) {
      lost(error.name === "TimeoutError" ? "it does not answer" : error.message);
    }
    await new Promise((done) => setTimeout(done, Math.max(100, EVERY_MS - (Date.now() - began))));
  }
}

byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim() || null;
  byId("token").value = "";
});
makePlots();
run();
