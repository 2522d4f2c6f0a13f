// The event line: what happened to the cluster while this page looked on, and what its nodes remember from before.
import { element } from "./asking.js";
import { byId } from "./bytes.js";
import { clock, live, members, onRound, seconds, stateOf } from "./live.js";
import { addStrings, number, t } from "./strings.js";

const ONE_STORY_MS = 4000; // what follows sooner belongs to the same line
const NEAR_MS = 8000; // how far from a change of leader a stop of writes may lie to be its consequence
const SHOWN_MAX = 60;
const WAIT_SHOWN_MS = 300; // a shorter wait of writes is no event by itself

addStrings("en", {
  "events.title": "What happened",
  "events.none": "Nothing has happened since this page was opened. Kill a member to see what a fail-over looks like.",
  "event.gone": "{id} gone",
  "event.back": "{id} back",
  "event.cut": "{id} cut off",
  "event.heals": "{id} heard again",
  "event.leads": "{id} leads, term {term}",
  "event.stopped": "writes stopped {time}",
  "event.stopped.here": "writes through {id} stopped {time}",
  "event.waited": "writes waited {time}",
});
addStrings("pt", {
  "events.title": "O que aconteceu",
  "events.none": "Nada aconteceu desde que esta página foi aberta. Derrube um membro para ver uma troca de líder.",
  "event.gone": "{id} caiu",
  "event.back": "{id} voltou",
  "event.cut": "{id} isolado",
  "event.heals": "{id} ouvido de novo",
  "event.leads": "{id} lidera, termo {term}",
  "event.stopped": "escritas pararam por {time}",
  "event.stopped.here": "escritas por {id} pararam por {time}",
  "event.waited": "escritas esperaram {time}",
});

// Newest last: { at, last, parts: [{ kind, text }] }; `at` is a wall time in ms.
export const stories = [];
const known = { states: new Map(), leaders: new Map(), waits: new Map(), first: true };
const outages = []; // { from, to } in performance time, of the probe or of waits
export const outagesSince = (from) => outages.filter((each) => each.to >= from);

function tell(kind, text, at = Date.now()) {
  const last = stories.at(-1);
  const over = (kind === "gone" || kind === "cut") && last?.parts.some((part) => part.kind === "back");
  if (last && at - last.last < ONE_STORY_MS && at >= last.at - 1000 && !over) {
    last.parts.push({ kind, text });
    last.last = Math.max(last.last, at);
  } else {
    stories.push({ at, last: at, parts: [{ kind, text }] });
    stories.sort((a, b) => a.at - b.at);
    while (stories.length > SHOWN_MAX) stories.shift();
  }
  show();
}

// Tell how long writes stopped, as part of the story in which it happened. `by` is what measured it: the probe, the nodes,
// or the probe while the very node was gone that it writes through (home), which says least of the cluster.
export function tellOutage(from, to, by) {
  const lasted = to - from;
  const ended = Date.now() - (performance.now() - to);
  outages.push({ from, to });
  while (outages.length > 50) outages.shift();
  const story = stories.findLast((each) => Math.abs(each.last - ended) < NEAR_MS && each.parts.some((p) => p.kind !== "waited"));
  if (!story) {
    if (lasted >= WAIT_SHOWN_MS) tell("waited", t("event.waited", { time: seconds(lasted) }), ended);
    return;
  }
  const had = story.parts.find((part) => part.kind === "stopped");
  const worth = ["home", "nodes", "probe"];
  if (had && (worth.indexOf(by) < worth.indexOf(had.by) || (by === had.by && lasted <= had.lasted))) return;
  const text = t(by === "home" ? "event.stopped.here" : "event.stopped", { time: seconds(lasted), id: live.home });
  const part = { kind: "stopped", text, lasted, by };
  story.parts = [...story.parts.filter((each) => each.kind !== "stopped"), part];
  show();
}

// The newest fail-over: how long writes stopped, or for how long the former leader had been silent; null: there was none.
export function lastFailover() {
  const story = stories.findLast((each) => each.parts.some((p) => p.kind === "leads" && p.former));
  if (!story) return null;
  const stopped = story.parts.find((part) => part.kind === "stopped");
  if (stopped && stopped.by !== "home") return { ms: stopped.lasted, measured: "stopped", at: story.at };
  const leads = story.parts.findLast((part) => part.kind === "leads");
  return leads.silentMs === null ? null : { ms: leads.silentMs, measured: "silent", at: story.at };
}

function look(now) {
  for (const member of members.values()) {
    const state = stateOf(member, now);
    const was = known.states.get(member.id);
    known.states.set(member.id, state);
    if (was === undefined || was === state || state === "unknown" || was === "unknown") continue;
    if (state === "dead") tell("gone", t("event.gone", { id: member.id }));
    else if (state === "cut") tell("cut", t("event.cut", { id: member.id }));
    else tell("back", t(was === "cut" ? "event.heals" : "event.back", { id: member.id }));
  }
  for (const [id, each] of live.leaderships) {
    if (known.leaders.get(id) === each.leader) continue;
    known.leaders.set(id, each.leader);
    if (each.former === null && known.first) continue; // the first leader that was seen is no event
    const at = known.first || Date.now() - each.at > 5000 ? each.at : Date.now();
    tell("leads", t("event.leads", { id: each.leader, term: number(each.term) }), at);
    const story = stories.findLast((s) => s.parts.some((part) => part.kind === "leads" && part.id === undefined));
    Object.assign(story.parts.find((part) => part.kind === "leads" && part.id === undefined), { former: each.former, silentMs: each.silent_ms, id, at });
  }
  for (const [id, each] of live.waits) {
    if ((known.waits.get(id) ?? 0) >= each.lasted_ms) continue;
    known.waits.set(id, each.lasted_ms);
    const to = performance.now() - (Date.now() - each.ended);
    tellOutage(to - each.lasted_ms, to, "nodes");
  }
  if (live.leaderships.size) known.first = false;
}

const RANKS = ["gone", "cut", "leads", "stopped", "waited", "back"];
const MARKS = { gone: "bad", cut: "warned", leads: "led", stopped: "measured", back: "good", waited: "warned" };

function show() {
  const rows = stories.toReversed().map((story) => {
    const row = element("li");
    const time = element("time", clock(story.at));
    time.dateTime = new Date(story.at).toISOString();
    row.append(time);
    const line = element("span", undefined, "story");
    const parts = story.parts.toSorted((a, b) => RANKS.indexOf(a.kind) - RANKS.indexOf(b.kind));
    parts.forEach((part, n) => {
      if (n) line.append(element("span", " · ", "quiet"));
      line.append(element("span", part.text, `part ${MARKS[part.kind] ?? ""}`));
    });
    row.append(line);
    return row;
  });
  byId("events").replaceChildren(...rows);
  byId("events-none").hidden = rows.length > 0;
}

onRound(look);
