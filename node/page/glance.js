// The figures that are read across a room: state, leader, term, last fail-over, acknowledged writes in a second, p99.
import { element } from "./asking.js";
import { byId } from "./bytes.js";
import { lastFailover } from "./events.js";
import { live, members, onRound, percentile, ratesOf, stateOf } from "./live.js";
import { addStrings, number, t } from "./strings.js";

const RATE_MS = 2000;
const P99_MS = 10_000;

addStrings("en", {
  "glance.label": "At a glance",
  "glance.state": "State",
  "glance.leader": "Leader",
  "glance.term": "Term",
  "glance.failover": "Last fail-over",
  "glance.writes": "Acknowledged writes",
  "glance.p99": "Write p99",
  "glance.none": "none known",
  "glance.never": "none yet",
  "glance.idle": "no writes",
  "state.asking": "Asking …",
  "state.healthy": "Healthy",
  "state.degraded": "Degraded",
  "state.noleader": "No leader",
  "state.noquorum": "No quorum",
  "state.lost": "No answer",
  "state.all": "all {n} members answer",
  "state.some": "{ids} missing",
  "state.waits": "writes wait",
  "state.old": "what is below is not known to be so any more",
  "note.stopped": "writes stopped for so long",
  "note.silent": "silence of the former leader",
  "note.overall": "by {n} members, of the last 2 s",
  "note.p99": "of the last 10 s, all members",
});
addStrings("pt", {
  "glance.label": "Em resumo",
  "glance.state": "Estado",
  "glance.leader": "Líder",
  "glance.term": "Termo",
  "glance.failover": "Última troca de líder",
  "glance.writes": "Escritas confirmadas",
  "glance.p99": "p99 das escritas",
  "glance.none": "nenhum conhecido",
  "glance.never": "nenhuma ainda",
  "glance.idle": "sem escritas",
  "state.asking": "Perguntando …",
  "state.healthy": "Saudável",
  "state.degraded": "Degradado",
  "state.noleader": "Sem líder",
  "state.noquorum": "Sem quórum",
  "state.lost": "Sem resposta",
  "state.all": "os {n} membros respondem",
  "state.some": "faltam: {ids}",
  "state.waits": "escritas esperam",
  "state.old": "o que está abaixo pode não valer mais",
  "note.stopped": "foi quanto as escritas pararam",
  "note.silent": "silêncio do líder anterior",
  "note.overall": "por {n} membros, nos últimos 2 s",
  "note.p99": "nos últimos 10 s, todos os membros",
});

// Write into a tile, if it says something else than before: what did not change is not announced or repainted.
function put(id, value, note = "") {
  const tile = byId(id);
  if (tile.dataset.said === `${value}\n${note}`) return;
  tile.dataset.said = `${value}\n${note}`;
  const [number_, unit] = String(value).match(/^([\d.,]+)\s?(ms|\/s)$/)?.slice(1) ?? [value, null];
  tile.replaceChildren(element("span", number_, "figure"), ...(unit ? [element("span", ` ${unit}`, "unit")] : []));
  tile.classList.toggle("long", String(number_).length > 8 && id !== "glance-state");
  const noted = byId(`${id}-note`);
  if (noted) noted.textContent = note;
}

// The state in one word, and why: { id, note, tone }.
export function stateNow(now = performance.now()) {
  const all = [...members.values()];
  if (!all.length) return { id: "asking", note: "", tone: "quiet" };
  const answering = all.filter((each) => ["alive", "cut"].includes(stateOf(each, now)));
  const missing = all.filter((each) => !answering.includes(each) || stateOf(each, now) === "cut").map((each) => each.id);
  if (!answering.length) return { id: "lost", note: t("state.old"), tone: "bad" };
  const views = answering.map((each) => each.samples.at(-1)).filter((each) => each && now - each.at < 1500);
  const leads = views.some((each) => each.role === "leader" && each.quorum);
  const led = leads || (!views.length && live.view?.leader && live.view.quorum);
  const some = missing.length ? t("state.some", { ids: missing.join(", ") }) : "";
  if (!led) {
    const voters = all.filter((each) => each.told?.voter !== false);
    const few = voters.filter((each) => !missing.includes(each.id)).length * 2 <= voters.length;
    return { id: few ? "noquorum" : "noleader", note: [some, t("state.waits")].filter(Boolean).join(" · "), tone: "bad" };
  }
  if (missing.length) return { id: "degraded", note: some, tone: "warned" };
  return { id: "healthy", note: t("state.all", { n: all.length }), tone: "good" };
}

function show(now) {
  const state = stateNow(now);
  byId("glance").dataset.tone = state.tone;
  put("glance-state", t(`state.${state.id}`), state.note);
  const leading = [...members.values()].find((each) => each.samples.at(-1)?.role === "leader" && stateOf(each, now) === "alive");
  const leader = leading?.id ?? (state.id === "noleader" || state.id === "noquorum" ? null : live.view?.leader);
  put("fact-leader", leader ?? t("glance.none"));
  put("fact-term", live.term || live.view?.term || "–");
  const over = lastFailover();
  put("glance-failover", over ? `${number(Math.round(over.ms))} ms` : t("glance.never"), over ? t(`note.${over.measured}`) : "");
  const rates = ratesOf(RATE_MS, now);
  const sum = [...rates.values()].reduce((total, each) => total + each, 0);
  const shown = sum < 9.95 && sum > 0 ? sum.toFixed(1) : number(Math.round(sum));
  put("glance-writes", rates.size ? `${shown} /s` : "–", rates.size ? t("note.overall", { n: rates.size }) : "");
  const p99 = percentile(0.99, P99_MS, now);
  put("glance-p99", p99 === null ? t("glance.idle") : `${p99 < 10 ? p99.toFixed(1) : number(Math.round(p99))} ms`, p99 === null ? "" : t("note.p99"));
}

onRound(show);
