// All members, asked by this browser four times a second, so that a dead one is seen at once. Whoever shows something of
// it hears of every round (`onRound`), and of what happened (`happened`).
import { element } from "./asking.js";

export const ROUND_MS = 250;
const PATIENCE_MS = 800;
const HIDDEN_MS = 2000;
const KEPT_MS = 65_000;
const STALL_MS = 300;
const SEEN_MAX_S = 1.5;

// By id: url, samples (newest last), lastOk, silent (no answer to the newest question), asking,
// reached (it ever answered), heard (the other members heard it since it answers).
export const members = new Map();
export const live = { view: null, viewAt: 0, home: null, leader: null, term: 0, homeGoneAt: -1e9, leaderships: new Map(), waits: new Map(), started: Date.now() };

const listeners = [];
export const onRound = (listener) => listeners.push(listener);

// Take the view of the cluster from the node that answers for it: who the members are, and where this browser finds them.
export function takeView(view, urlOf) {
  live.view = view;
  live.viewAt = performance.now();
  const ids = new Set();
  for (const each of view.members ?? []) {
    ids.add(each.id);
    const known = members.get(each.id) ?? { id: each.id, url: null, samples: [], lastOk: -1e9, silent: false, asking: false, reached: false, heard: false };
    known.url = urlOf(each);
    known.told = each;
    known.heard ||= known.lastOk > 0 && typeof each.last_seen_s === "number" && each.last_seen_s <= SEEN_MAX_S;
    members.set(each.id, known);
  }
  for (const id of members.keys()) if (!ids.has(id)) members.delete(id);
}

// How a member is: "alive", "dead" (it does not answer), "cut" (it answers, and the others do not hear it), "unknown".
export function stateOf(member, now = performance.now()) {
  const heard = member.told?.last_seen_s;
  const viewOld = now - live.viewAt > 3000;
  const told = live.view && member.id === live.view.node ? true : typeof heard === "number" && heard <= SEEN_MAX_S;
  if (member.reached) {
    if (member.silent && now - member.lastOk > 400) return "dead";
    return told || viewOld || !member.heard || !live.view.leader ? "alive" : "cut";
  }
  if (viewOld) return "unknown";
  return told ? "alive" : "dead";
}

export const sampleOf = (member) => member.samples.at(-1) ?? null;

async function askOne(member) {
  member.asking = true;
  const began = performance.now();
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    const own = new URL(member.url).origin === location.origin;
    const answer = await fetch(new URL("/v1/activity", member.url), { signal, cache: "no-store", credentials: own ? "same-origin" : "include" });
    if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
    const told = await answer.json();
    const now = performance.now();
    member.samples.push({ at: now, took: now - began, ...told });
    while (member.samples.length && now - member.samples[0].at > KEPT_MS) member.samples.shift();
    Object.assign(member, { lastOk: now, silent: false, reached: true });
    takeTold(told);
  } catch (error) {
    // What is late because this browser stood still says nothing of the member.
    const own = error.name === "TimeoutError" && lateMs > STALL_MS;
    if (!own) Object.assign(member, { silent: true, heard: false });
    if (!own && member.id === live.home) live.homeGoneAt = performance.now();
  } finally {
    member.asking = false;
  }
}

// Remember what a node tells of leaders and of long waits, once for all nodes that tell it.
function takeTold(told) {
  const skew = Date.now() - told.wall_ms;
  for (const each of told.leaderships ?? []) {
    const id = `${each.term}/${each.leader}`;
    const known = live.leaderships.get(id);
    const silent = Math.max(known?.silent_ms ?? 0, each.former === null ? 0 : each.silent_ms ?? 0);
    live.leaderships.set(id, { ...each, former: each.former ?? known?.former ?? null, silent_ms: silent || null, at: known?.at ?? each.since_ms + skew });
  }
  for (const each of told.waits ?? []) {
    const id = `${told.node}/${told.incarnation}/${each.ended_ms - each.lasted_ms}`;
    live.waits.set(id, { node: told.node, lasted_ms: each.lasted_ms, ended: each.ended_ms + skew, writes: each.writes });
  }
  for (const kept of [live.leaderships, live.waits]) while (kept.size > 200) kept.delete(kept.keys().next().value);
  if (told.leader !== null && told.term >= live.term) Object.assign(live, { leader: told.leader, term: told.term });
}

// What the cluster acknowledged in a second, over the last `windowMs`: the sum of the members that answer; null: unknown.
export function ratesOf(windowMs, now = performance.now()) {
  const rates = new Map();
  for (const member of members.values()) {
    const last = sampleOf(member);
    if (last === null || now - last.at > 1000) continue;
    const first = member.samples.find((each) => each.at >= now - windowMs && each.incarnation === last.incarnation);
    if (!first || first === last) continue;
    rates.set(member.id, ((last.writes_acknowledged - first.writes_acknowledged) * 1000) / (last.at - first.at));
  }
  return rates;
}

// A percentile of how long acknowledged writes took at all members in the last `windowMs`; null: there was none.
export function percentile(share, windowMs, now = performance.now()) {
  let sums = null;
  let bounds = [];
  for (const member of members.values()) {
    const last = sampleOf(member);
    const first = last && member.samples.find((each) => each.at >= now - windowMs && each.incarnation === last.incarnation);
    if (!first || first === last) continue;
    bounds = last.write_ms.bounds;
    sums ??= last.write_ms.counts.map(() => 0);
    last.write_ms.counts.forEach((count, n) => { sums[n] += count - first.write_ms.counts[n]; });
  }
  const all = sums?.reduce((sum, each) => sum + each, 0) ?? 0;
  if (!all) return null;
  let seen = 0;
  const at = sums.findIndex((count) => (seen += count) >= share * all);
  return bounds[Math.min(at, bounds.length - 1)];
}

let lateMs = 0; // how late the newest rounds were
let roundAt = performance.now();

function round() {
  const late = performance.now() - roundAt - ROUND_MS;
  roundAt = performance.now();
  lateMs = Math.max(late, lateMs * 0.6);
  for (const member of members.values()) {
    if (member.url !== null && !member.asking) askOne(member);
  }
  const now = performance.now();
  for (const listener of listeners) listener(now);
  setTimeout(round, document.hidden ? HIDDEN_MS : ROUND_MS);
}

// The member through which the page goes on: its own node while that answers, else the first that does.
export function baseUrl() {
  const all = [...members.values()];
  const own = all.find((each) => each.id === live.home);
  if (!own || !own.silent) return "";
  const other = all.find((each) => each.url !== null && each.reached && !each.silent);
  return other ? new URL(other.url).origin : "";
}

export const seconds = (ms, digits = 2) => `${(ms / 1000).toFixed(digits)} s`;
export const clock = (at) => new Date(at).toLocaleTimeString([], { hour12: false });
export const strong = (text) => element("strong", text);

setTimeout(round, 50);
