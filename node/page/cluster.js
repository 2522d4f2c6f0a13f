// The members as a node of the cluster sees them, asked for once a second: this page's own node, or another one while that
// does not answer.
import { ask, element, jsonOf } from "./asking.js";
import { byId } from "./bytes.js";
import { baseUrl, live, members, onRound, stateOf, takeView } from "./live.js";
import { addStrings, number, t } from "./strings.js";

const POLL_MS = 1000;
const POLL_TIMEOUT_MS = 3000;

addStrings("en", {
  "cluster.title": "Members",
  "fact.quorum": "Quorum",
  "fact.store": "Store",
  "fact.revision": "Revision",
  "fact.rate": "Writes through this node",
  "yes": "yes",
  "no": "no",
  "store.own": "each member's own",
  "store.shared": "shared",
  "answered": "answered by {id}",
  "answered.instead": "{home} is gone: answered by {id}",
  "asking": "asking this node …",
  "trouble.silent": "This node does not say how the cluster is: {why}.",
  "trouble.old": "What is below is {s} s old.",
  "trouble.again": "Asking again every second.",
  "trouble.home": "{home}, whose page this is, does not answer. Shown is what {id} says; keys are read and written on {link}.",
  "trouble.home.link": "its page",
  "trouble.noleader": "This node knows no leader yet: writes wait. Reads go on while the store answers.",
  "trouble.noquorum": "This node hears no quorum.",
  "trouble.refused": "Writes are refused until somebody decides: {why}.",
  "trouble.putback": "Put the store back that was settled{way}.",
  "trouble.adopt": ", or go on from this one: acordo adopt",
  "trouble.unready": "{id} is not ready: {why}.",
  "trouble.ownstore": "The own store of {id} is {state}: {why}.",
  "trouble.fsync": "fsync={fsync}: a power cut may lose acknowledged writes.",
  "trouble.dead": "Not heard of: {ids}.",
  "member.leader": "leader",
  "member.follower": "follower",
  "member.candidate": "candidate",
  "member.observer": "observer",
  "member.unknown": "unknown",
  "member.dead": "silent",
  "member.cut": "cut off",
  "member.novote": "{role}, no vote",
  "member.revision": "revision unknown",
  "member.settled": "settled {n}",
  "member.behind": "{n} entries behind",
  "member.current": "up to date",
  "member.here": "this node",
  "member.heard": "heard {s} s ago",
  "member.never": "not heard yet",
  "member.bar": "{id} has settled {n} of {all} revisions",
  "member.digest": "digest of its machine at revision {n}: {digest}",
  "member.differs": "DIFFERS",
  "member.page": "the page of {id}",
});
addStrings("pt", {
  "cluster.title": "Membros",
  "fact.quorum": "Quórum",
  "fact.store": "Armazenamento",
  "fact.revision": "Revisão",
  "fact.rate": "Escritas por este nó",
  "yes": "sim",
  "no": "não",
  "store.own": "próprio de cada membro",
  "store.shared": "compartilhado",
  "answered": "respondido por {id}",
  "answered.instead": "{home} caiu: respondido por {id}",
  "asking": "perguntando a este nó …",
  "trouble.silent": "Este nó não diz como está o cluster: {why}.",
  "trouble.old": "O que está abaixo tem {s} s.",
  "trouble.again": "Perguntando de novo a cada segundo.",
  "trouble.home": "{home}, de quem é esta página, não responde. Mostra-se o que {id} diz; chaves se leem e escrevem na {link}.",
  "trouble.home.link": "página dele",
  "trouble.noleader": "Este nó ainda não conhece um líder: escritas esperam. Leituras continuam enquanto o armazenamento responde.",
  "trouble.noquorum": "Este nó não ouve um quórum.",
  "trouble.refused": "Escritas são recusadas até que alguém decida: {why}.",
  "trouble.putback": "Restaure o armazenamento que foi confirmado{way}.",
  "trouble.adopt": ", ou continue a partir deste: acordo adopt",
  "trouble.unready": "{id} não está pronto: {why}.",
  "trouble.ownstore": "O armazenamento de {id} está {state}: {why}.",
  "trouble.fsync": "fsync={fsync}: uma queda de energia pode perder escritas confirmadas.",
  "trouble.dead": "Sem notícia de: {ids}.",
  "member.leader": "líder",
  "member.follower": "seguidor",
  "member.candidate": "candidato",
  "member.observer": "observador",
  "member.unknown": "desconhecido",
  "member.dead": "em silêncio",
  "member.cut": "isolado",
  "member.novote": "{role}, sem voto",
  "member.revision": "revisão desconhecida",
  "member.settled": "confirmou {n}",
  "member.behind": "{n} entradas atrás",
  "member.current": "em dia",
  "member.here": "este nó",
  "member.heard": "ouvido há {s} s",
  "member.never": "ainda não ouvido",
  "member.bar": "{id} confirmou {n} de {all} revisões",
  "member.digest": "resumo da máquina dele na revisão {n}: {digest}",
  "member.differs": "DIFERE",
  "member.page": "a página de {id}",
});

export const cluster = { at: 0, node: null, written: null, rate: null, logTime: null };

async function poll() {
  const trouble = byId("cluster-trouble");
  try {
    showCluster(jsonOf(await ask("GET", `${baseUrl()}/v1/cluster`, { timeoutMs: POLL_TIMEOUT_MS })));
    document.body.classList.remove("lost");
  } catch (problem) {
    document.body.classList.add("lost"); // what is shown is not known to be so any more
    cluster.written = null;
    const since = cluster.at ? t("trouble.old", { s: Math.round((Date.now() - cluster.at) / 1000) }) : "";
    trouble.textContent = [t("trouble.silent", { why: problem.message }), since, t("trouble.again")].filter(Boolean).join(" ");
    trouble.hidden = false;
  }
  setTimeout(poll, POLL_MS);
}

function showCluster(seen) {
  const now = Date.now();
  countWrites(seen, now);
  if (Number.isSafeInteger(seen.now_ms)) cluster.logTime = { ms: seen.now_ms, at: performance.now() };
  cluster.at = now;
  live.home ??= seen.node; // the first answer is this page's own node's
  const ofHome = seen.node === live.home;
  if (ofHome) live.homeUrl = seen.url;
  const own = live.homeUrl;
  takeView(seen, (each) => (each.id === live.home ? location.origin : reachableFrom(location, each.url, own)));

  document.body.classList.toggle("home-lost", !ofHome);
  byId("answered-by").textContent = t(ofHome ? "answered" : "answered.instead", { id: seen.node, home: live.home });
  byId("fact-quorum").textContent = t(seen.quorum ? "yes" : "no");
  byId("fact-revision").textContent = number(newestOf(seen));
  byId("fact-store").textContent = t(seen.store_kind === "replicated" ? "store.own" : "store.shared");
  byId("fact-rate").textContent = cluster.rate === null ? "–" : `${cluster.rate.toFixed(cluster.rate < 9.95 ? 1 : 0)}/s`;
  showTrouble(seen);
  redraw();
}

const newestOf = (seen) => Math.max(seen.ordered ?? seen.settled ?? 0, ...(seen.members ?? []).map((m) => m.applied ?? m.settled ?? 0));

// Say in words what is wrong, and what a person can do about it.
function showTrouble(seen) {
  const wrong = [];
  if (!seen.leader) wrong.push(t("trouble.noleader"));
  else if (!seen.quorum) wrong.push(t("trouble.noquorum"));
  const ownStore = String(seen.refusal || "").startsWith("own_store"); // the reasons in unready say more
  if (seen.refusal && !ownStore) {
    wrong.push(t("trouble.refused", { why: seen.refusal }));
    wrong.push(t("trouble.putback", { way: seen.refusal === "store_foreign" ? "" : t("trouble.adopt") }));
  }
  const told = ["no_leader", "no_quorum", ...(seen.refusal && !ownStore ? ["store_refused", "store_foreign"] : [])]; // said above in other words
  for (const each of seen.unready ?? []) {
    if (!told.includes(each.code)) wrong.push(t("trouble.unready", { id: seen.node, why: each.why }));
  }
  if (seen.store_kind === "replicated" && seen.store_state !== "sound") {
    wrong.push(t("trouble.ownstore", { id: seen.node, state: seen.store_state, why: seen.store_detail }));
  }
  if (seen.unsafe_fsync) wrong.push(t("trouble.fsync", { fsync: seen.fsync }));
  const dead = [...members.values()].filter((each) => ["dead", "cut"].includes(stateOf(each))).map((each) => each.id);
  if (dead.length) wrong.push(t("trouble.dead", { ids: dead.join(", ") }));
  const nodes = wrong.length ? [wrong.join(" ")] : [];
  if (seen.node !== live.home) nodes.unshift(...homeLost(seen), " ");
  const trouble = byId("cluster-trouble");
  const text = nodes.map((each) => each.textContent ?? each).join("");
  if (trouble.textContent !== text) trouble.replaceChildren(...nodes);
  trouble.hidden = !text;
}

function homeLost(seen) {
  const [before, after] = t("trouble.home", { home: live.home, id: seen.node, link: "\n" }).split("\n");
  const link = element("a", t("trouble.home.link"));
  link.href = reachableFrom(location, seen.url, live.homeUrl) ?? "#";
  return [before, link, after];
}

// Writes per second that this node acknowledged: revisions would also count what it only catches up with.
function countWrites(seen, now) {
  const known = Number.isSafeInteger(seen.writes_acknowledged) ? seen.writes_acknowledged : null;
  if (known === null || cluster.written === null || known < cluster.written || now <= cluster.at || seen.node !== cluster.node) {
    cluster.rate = null;
  } else {
    const rate = (known - cluster.written) / ((now - cluster.at) / 1000);
    cluster.rate = cluster.rate === null ? rate : cluster.rate * 0.5 + rate * 0.5;
  }
  Object.assign(cluster, { written: known, node: seen.node });
}

let drawn = "";
function redraw() {
  const seen = live.view;
  if (seen === null) return;
  drawn = statesNow();
  const newest = newestOf(seen);
  // The digest of each member's machine must be the same at the same revision.
  const digests = new Map();
  for (const m of seen.members ?? []) {
    if (m.digest && m.settled !== null && m.settled !== undefined) {
      digests.set(m.settled, (digests.get(m.settled) || new Set()).add(m.digest));
    }
  }
  const list = byId("members");
  const cards = (seen.members ?? []).map((m) => memberCard(m, seen, newest, (digests.get(m.settled) || new Set()).size > 1));
  keepFocus(list, () => list.replaceChildren(...cards));
}

const statesNow = () => [...members.values()].map((each) => `${each.id} ${stateOf(each)} ${each.samples.at(-1)?.role}`).join();

onRound(() => {
  if (statesNow() !== drawn) redraw(); // it need not wait for the next answer
});

// Each adds something to a member's card: (card, member, state) => nothing.
const additions = [];
export const onCard = (add) => additions.push(add);

function roleOf(member, state) {
  if (state === "dead" || state === "cut") return state;
  const last = members.get(member.id)?.samples.at(-1);
  return last && performance.now() - last.at < 1500 ? last.role : member.role;
}

function memberCard(member, seen, newest, differs) {
  const state = members.has(member.id) ? stateOf(members.get(member.id)) : "unknown";
  const role = roleOf(member, state);
  const card = element("li", undefined, "member");
  card.classList.toggle("leader", role === "leader");
  card.classList.toggle("dead", state === "dead");
  card.classList.toggle("cut", state === "cut");
  card.dataset.member = member.id;

  const title = element("div", undefined, "title");
  title.append(memberName(member));
  const named = t(`member.${role}`);
  title.append(element("span", member.voter === false ? t("member.novote", { role: named }) : named, `badge ${role}`));
  card.append(title);

  const settled = member.settled ?? null;
  if (settled !== null) {
    const bar = element("progress");
    bar.max = Math.max(1, newest);
    bar.value = settled;
    bar.setAttribute("aria-label", t("member.bar", { id: member.id, n: settled, all: newest }));
    card.append(bar);
  }

  const figures = element("div", undefined, "figures quiet");
  figures.append(element("span", settled === null ? t("member.revision") : t("member.settled", { n: number(settled) })));
  if (state === "alive" && typeof member.lag === "number") {
    figures.append(element("span", member.lag ? t("member.behind", { n: number(member.lag) }) : t("member.current")));
  }
  if (member.id === live.home) figures.append(element("span", t("member.here")));
  else if (typeof member.last_seen_s === "number") figures.append(element("span", t("member.heard", { s: member.last_seen_s.toFixed(1) })));
  else figures.append(element("span", t("member.never")));
  card.append(figures);

  if (member.digest) {
    const digest = element("div", `${differs ? `${t("member.differs")} ` : ""}${member.digest.slice(0, 16)}`, "digest quiet");
    digest.classList.toggle("differs", differs);
    digest.title = t("member.digest", { n: settled, digest: member.digest });
    card.append(digest);
  }
  for (const add of additions) add(card, member, state);
  return card;
}

function memberName(member) {
  const url = member.id === live.home ? null : reachableFrom(location, member.url, live.homeUrl);
  if (url === null) return element("span", member.id);
  const link = element("a", member.id);
  link.href = url;
  link.title = t("member.page", { id: member.id });
  return link;
}

// Where this browser reaches a member, or null. An advertised loopback address is another machine's own, unless this
// page comes from one too; then the member is where this node is, if the page's port is the one that this node tells.
export function reachableFrom(here, advertised, own) {
  const parsed = (url) => (URL.canParse(url || "") ? new URL(url) : null);
  const loopback = (host) => /^(localhost|127\.[\d.]+|\[::1\])$/.test(host);
  const [theirs, ours] = [parsed(advertised), parsed(own)];
  if (theirs === null || !/^https?:$/.test(theirs.protocol)) return null;
  if (!loopback(theirs.hostname) || loopback(here.hostname)) return theirs.href;
  if (ours === null || !loopback(ours.hostname) || ours.port !== here.port) return null;
  theirs.hostname = here.hostname;
  return theirs.href;
}

// Redrawing must not take the keyboard's place away.
function keepFocus(list, redrawIt) {
  const active = list.contains(document.activeElement) ? document.activeElement : null;
  const held = active?.closest("li")?.dataset.member;
  const which = active?.dataset.act ? `[data-act="${active.dataset.act}"]` : "a";
  redrawIt();
  if (held) list.querySelector(`li[data-member="${CSS.escape(held)}"] ${which}`)?.focus();
}

poll();
