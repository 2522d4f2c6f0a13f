// The last 60 seconds: acknowledged writes of each member, how long writes took, and the role of each member. The times in
// which writes stopped are drawn as bands through all of it.
import { byId } from "./bytes.js";
import { outagesSince } from "./events.js";
import { members, onRound, percentile, ratesOf, sampleOf, stateOf } from "./live.js";
import { newestProbe } from "./probe.js";
import { addStrings, t } from "./strings.js";

const SPAN_S = 60;
const RATE_MS = 1000;
const KEPT = 320;
const COLOURS = 7; // --series-1 … in the style sheet

addStrings("en", {
  "chart.title": "The last 60 seconds",
  "chart.writes": "Acknowledged writes /s",
  "chart.latency": "Write latency, ms",
  "chart.roles": "Roles",
  "chart.hint": "Red bands: writes stopped, as the probe or the nodes measured it.",
  "chart.now": "now",
  "chart.p50": "p50",
  "chart.p99": "p99",
  "chart.probe": "probe",
  "role.leader": "leads",
  "role.follower": "follows",
  "role.candidate": "stands for election",
  "role.observer": "observes",
  "role.dead": "silent",
  "role.cut": "cut off",
});
addStrings("pt", {
  "chart.title": "Os últimos 60 segundos",
  "chart.writes": "Escritas confirmadas /s",
  "chart.latency": "Latência das escritas, ms",
  "chart.roles": "Papéis",
  "chart.hint": "Faixas vermelhas: escritas paradas, medidas pela sonda ou pelos nós.",
  "chart.now": "agora",
  "chart.p50": "p50",
  "chart.p99": "p99",
  "chart.probe": "sonda",
  "role.leader": "lidera",
  "role.follower": "segue",
  "role.candidate": "candidato",
  "role.observer": "observa",
  "role.dead": "em silêncio",
  "role.cut": "isolado",
});

// Newest last: { at, rates, p50, p99, probe, roles }, one for each round.
const rounds = [];
let ids = [];
let plots = [];

const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
export const colourOf = (n) => css(`--series-${(n % COLOURS) + 1}`);

function note(now) {
  const roles = new Map();
  for (const member of members.values()) {
    const state = stateOf(member, now);
    const last = sampleOf(member);
    const role = (last && now - last.at < 1500 ? last.role : member.told?.role) ?? "unknown";
    roles.set(member.id, state === "alive" ? role : state);
  }
  rounds.push({ at: now, rates: ratesOf(RATE_MS, now), p50: percentile(0.5, RATE_MS, now), p99: percentile(0.99, RATE_MS, now), probe: newestProbe(), roles });
  while (rounds.length > KEPT) rounds.shift();
}

const wallS = (at) => (Date.now() - (performance.now() - at)) / 1000;

// Draw the outages behind the curves.
function drawOutages(u) {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  ctx.save();
  ctx.fillStyle = css("--outage");
  for (const each of outagesSince(performance.now() - SPAN_S * 1000)) {
    const from = Math.max(left, u.valToPos(wallS(each.from), "x", true));
    const to = Math.min(left + width, u.valToPos(wallS(each.to), "x", true));
    if (to > left) ctx.fillRect(from, top, Math.max(2, to - from), height);
  }
  ctx.restore();
}

// Draw a lane for each member, coloured by its role.
function drawLanes(u) {
  const { ctx } = u;
  const { left, top, width, height } = u.bbox;
  const lane = height / Math.max(1, ids.length);
  const fills = { leader: css("--accent"), follower: css("--lane"), observer: css("--lane"), candidate: css("--warn"), cut: css("--warn"), dead: css("--danger") };
  ctx.save();
  ctx.beginPath();
  ctx.rect(left, top, width, height);
  ctx.clip();
  ids.forEach((id, n) => {
    for (let at = 0; at < rounds.length; at += 1) {
      const role = rounds[at].roles.get(id);
      if (!(role in fills)) continue;
      const from = u.valToPos(wallS(rounds[at].at), "x", true);
      const until = at + 1 < rounds.length ? u.valToPos(wallS(rounds[at + 1].at), "x", true) : left + width;
      ctx.fillStyle = fills[role];
      ctx.fillRect(from - 0.5, top + n * lane + lane * 0.2, until - from + 1, lane * 0.6);
    }
  });
  ctx.restore();
}

const time = (u, values) => values.map((value) => {
  const ago = Math.round(Date.now() / 1000 - value);
  return ago <= 1 ? t("chart.now") : `−${ago} s`;
});

function axes(size) {
  const base = { stroke: css("--quiet"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui, sans-serif" };
  const marks = () => [60, 45, 30, 15, 0].map((ago) => Date.now() / 1000 - ago);
  return [{ ...base, values: time, splits: marks, size: 26 }, { ...base, size, space: 28 }];
}

function make(id, height, series, scales, hooks, more = {}) {
  const host = byId(id);
  const options = {
    width: Math.max(200, host.clientWidth), height, series, scales, hooks,
    axes: axes(44), legend: { show: false }, padding: [8, 8, 0, 0],
    cursor: { sync: { key: "minute" }, drag: { x: false, y: false }, points: { show: false }, y: false },
    ...more,
  };
  return new window.uPlot(options, [[]], host);
}

const fromZero = (least) => ({ range: (_, low, high) => [0, Math.max(least, (high ?? 0) * 1.15)] });
const lastMinute = { time: true, range: () => [Date.now() / 1000 - SPAN_S, Date.now() / 1000] };

function build() {
  for (const each of plots) each.destroy();
  const line = (label, stroke, more = {}) => ({ label, stroke, width: 2, spanGaps: false, points: { show: false }, ...more });
  plots = [
    make("chart-writes", 150, [{}, ...ids.map((id, n) => line(id, colourOf(n), { fill: `${colourOf(n)}22` }))], { x: lastMinute, y: fromZero(5) }, { drawClear: [drawOutages] }),
    make("chart-latency", 120, [{}, line(t("chart.p50"), css("--series-2")), line(t("chart.p99"), css("--series-4")), line(t("chart.probe"), css("--ink"), { width: 1, points: { show: false } })],
      { x: lastMinute, y: fromZero(2) }, { drawClear: [drawOutages] }),
    make("chart-roles", 30 + 22 * ids.length, [{}, { show: false }], { x: lastMinute, y: { range: () => [0, Math.max(1, ids.length)] } },
      { drawClear: [drawLanes] }, { axes: [axes(44)[0], { ...axes(44)[1], grid: { show: false }, splits: () => ids.map((_, n) => ids.length - n - 0.5), values: () => ids, space: 1 }] }),
  ];
  legend("legend-writes", ids.map((id, n) => [id, colourOf(n)]));
  legend("legend-latency", [[t("chart.p50"), css("--series-2")], [t("chart.p99"), css("--series-4")], [t("chart.probe"), css("--ink")]]);
  legend("legend-roles", ["leader", "follower", "candidate", "dead"].map((role) => [t(`role.${role}`), css({ leader: "--accent", follower: "--lane", candidate: "--warn", dead: "--danger" }[role])]));
}

function legend(id, entries) {
  byId(id).replaceChildren(...entries.map(([text, colour]) => {
    const made = document.createElement("span");
    const dot = document.createElement("i");
    dot.style.background = colour;
    made.append(dot, text);
    return made;
  }));
}

let builtFor = "";
function draw(now) {
  note(now);
  if (document.hidden || byId("panel-overview").hidden || byId("chart-writes").clientWidth === 0) return;
  const dark = matchMedia("(prefers-color-scheme: dark)").matches;
  const names = [...members.keys()].sort();
  const wanted = `${names} ${dark} ${byId("chart-writes").clientWidth}`;
  if (wanted !== builtFor) {
    builtFor = wanted;
    ids = names;
    build();
  }
  const xs = rounds.map((each) => wallS(each.at));
  const of = (pick) => rounds.map((each) => pick(each) ?? null);
  plots[0].setData([xs, ...ids.map((id) => of((each) => each.rates.get(id)))]);
  plots[1].setData([xs, of((each) => each.p50), of((each) => each.p99), of((each) => each.probe)]);
  plots[2].setData([xs, xs.map(() => null)]);
}

onRound(draw);
