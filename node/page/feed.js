// The live feed of changes, and the way of one write with the times that were measured: by the node, by this browser, and
// by the feed, which is a watcher like any other.
import { Problem, ask, element, hide, jsonOf, newOpId, showProblem } from "./asking.js";
import { byId, bytesOfJson, percent, textOf, visible, visibleBytes } from "./bytes.js";
import { PROBE_KEY } from "./probe.js";
import { addStrings, number, t } from "./strings.js";
import { shownTab, whenShown } from "./tabs.js";

const SHOWN_MAX = 60;
const PREVIEW_CHARS = 60;
const TOLD_MS = 3000;
const WAY_KEY = "demo/way";

addStrings("en", {
  "tab.feed": "Live",
  "way.title": "The way of a write",
  "way.about": "Writes the key {key} once, and draws where the time went.",
  "way.do": "Write once",
  "way.sent": "to the node",
  "way.accepted": "accepted",
  "way.log": "log and store",
  "way.answer": "answer",
  "way.told": "told to a watcher",
  "way.what": "sent {sent} ms · accepted {accepted} ms · log and store {log} ms (a majority has it on disk, and it is evaluated) · answered after {all} ms",
  "way.heard": "A watcher was told {ms} ms after the write was sent.",
  "way.late": "The feed has not shown it yet.",
  "feed.title": "Changes, as they happen",
  "feed.prefix": "Prefix",
  "feed.all": "all keys",
  "feed.watch": "Watch",
  "feed.quiet": "leave out the probe",
  "feed.on": "Watching {n} changes so far, at revision {revision}.",
  "feed.off": "Not watching.",
  "feed.again": "The stream was lost: connecting again, from where it ended.",
  "feed.ended": "The stream ended: {why}.",
  "feed.deleted": "deleted",
});
addStrings("pt", {
  "tab.feed": "Ao vivo",
  "way.title": "O caminho de uma escrita",
  "way.about": "Escreve a chave {key} uma vez e desenha para onde foi o tempo.",
  "way.do": "Escrever uma vez",
  "way.sent": "até o nó",
  "way.accepted": "aceita",
  "way.log": "log e armazenamento",
  "way.answer": "resposta",
  "way.told": "contada a um observador",
  "way.what": "enviada {sent} ms · aceita {accepted} ms · log e armazenamento {log} ms (a maioria a tem no disco, e ela foi avaliada) · respondida após {all} ms",
  "way.heard": "Um observador soube {ms} ms depois do envio.",
  "way.late": "O observador ainda não a mostrou.",
  "feed.title": "Mudanças, quando acontecem",
  "feed.prefix": "Prefixo",
  "feed.all": "todas as chaves",
  "feed.watch": "Observar",
  "feed.quiet": "omitir a sonda",
  "feed.on": "Observando: {n} mudanças até agora, na revisão {revision}.",
  "feed.off": "Sem observar.",
  "feed.again": "O fluxo caiu: conectando de novo, de onde ele parou.",
  "feed.ended": "O fluxo terminou: {why}.",
  "feed.deleted": "apagada",
});

const feed = { source: null, count: 0, revision: 0, told: new Map() };

function open() {
  feed.source?.close();
  feed.count = 0;
  byId("feed-rows").replaceChildren();
  const query = new URLSearchParams({ prefix: byId("feed-prefix").value });
  feed.source = new EventSource(`/v1/watch?${query}`);
  for (const kind of ["put", "delete", "progress"]) {
    feed.source.addEventListener(kind, (event) => note(kind, JSON.parse(event.data)));
  }
  feed.source.addEventListener("error", (event) => {
    if (event.data) {
      const told = JSON.parse(event.data);
      byId("feed-state").textContent = t("feed.ended", { why: told.detail ?? told.code });
      if (!told.resumable) close();
    } else if (feed.source) byId("feed-state").textContent = t("feed.again");
  });
}

function close() {
  feed.source?.close();
  feed.source = null;
}

function note(kind, told) {
  feed.revision = told.revision ?? feed.revision;
  if (kind !== "progress") {
    feed.count += 1;
    const key = bytesOfJson(told.key);
    const name = textOf(key);
    if (name === WAY_KEY) {
      feed.told.set(told.revision, performance.now());
      while (feed.told.size > 20) feed.told.delete(feed.told.keys().next().value);
    }
    if (name !== PROBE_KEY || !byId("feed-quiet").checked) row(kind, told, key);
  }
  byId("feed-state").textContent = t("feed.on", { n: number(feed.count), revision: number(feed.revision) });
}

function row(kind, told, key) {
  const made = element("tr");
  const named = element("td");
  const link = element("a");
  link.append(visibleBytes(key));
  link.href = `#keys/key/${percent(key)}`;
  named.append(link);
  const value = element("td", undefined, "preview");
  if (kind === "delete") value.append(element("span", t("feed.deleted"), "badge"));
  else if (typeof told.value === "string") value.append(visible(told.value.slice(0, PREVIEW_CHARS)));
  else if (told.value?.base64) value.append(element("span", "base64", "escape"), ` ${told.value.base64.slice(0, PREVIEW_CHARS)}`);
  made.append(element("td", number(told.revision), "number"), named, value);
  byId("feed-rows").prepend(made);
  while (byId("feed-rows").children.length > SHOWN_MAX) byId("feed-rows").lastChild.remove();
}

// ------------------------------------------------------------------------------------------- the way of one write

// The stages that the node measured, of its header Server-Timing, in ms.
function stagesOf(header) {
  const found = {};
  for (const [, name, ms] of (header ?? "").matchAll(/(\w+);dur=([\d.]+)/g)) found[name] = Number(ms);
  return found;
}

async function writeOnce() {
  const box = byId("way-problem");
  hide(box);
  byId("way-do").disabled = true;
  try {
    const headers = { "Content-Type": "application/octet-stream", "Idempotency-Key": `"${newOpId()}"`, "Acordo-Timing": "true" };
    const began = performance.now();
    const answer = await ask("PUT", `/v1/kv/${encodeURIComponent(WAY_KEY)}`, { headers, body: new Date().toISOString(), mutation: true });
    const all = performance.now() - began;
    const { accept = 0, order = 0 } = stagesOf(answer.headers.get("Server-Timing"));
    const revision = jsonOf(answer).revision;
    const until = performance.now() + (feed.source ? TOLD_MS : 0);
    while (!feed.told.has(revision) && performance.now() < until) await new Promise((resume) => setTimeout(resume, 10));
    const told = feed.told.has(revision) ? feed.told.get(revision) - began : null;
    const done = accept + order;
    // There and back took what is left. Each is taken for half of it, but nobody was told before it was done.
    const way = Math.max(0, Math.min((all - done) / 2, (told ?? all) - done));
    const stages = [["sent", 0, way], ["accepted", way, accept], ["log", way + accept, order], ["answer", way + done, all - way - done]];
    if (told !== null) stages.push(["told", way + done, Math.max(0.1, told - way - done)]);
    draw(stages);
    const ms = (value) => value.toFixed(1);
    const words = t("way.what", { sent: ms(way), accepted: ms(accept), log: ms(order), all: ms(all) });
    byId("way-words").textContent = `${words} ${told === null ? t("way.late") : t("way.heard", { ms: ms(told) })}`;
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    showProblem(box, problem);
  } finally {
    byId("way-do").disabled = false;
  }
}

function draw(stages) {
  const end = Math.max(...stages.map(([, from, took]) => from + took));
  byId("way").replaceChildren(...stages.map(([name, from, took]) => {
    const made = element("li");
    const lane = element("span", undefined, "lane");
    const bar = element("i", undefined, `bar ${name}`);
    bar.style.left = `${(from / end) * 100}%`;
    bar.style.width = `${Math.max(0.4, (took / end) * 100)}%`;
    lane.append(bar);
    made.append(element("span", t(`way.${name}`)), lane, element("span", `${took.toFixed(1)} ms`, "number"));
    return made;
  }));
}

byId("way-about").textContent = t("way.about", { key: WAY_KEY });
byId("way-do").addEventListener("click", writeOnce);
byId("feed-form").addEventListener("submit", (event) => {
  event.preventDefault();
  open();
});
whenShown("feed", () => { if (!feed.source) open(); });
addEventListener("hashchange", () => { if (feed.source && shownTab() !== "feed") close(); });
