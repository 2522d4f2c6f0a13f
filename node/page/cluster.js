// The cluster as this node sees it, asked for once a second.
import { ask, element, jsonOf } from "./asking.js";
import { byId } from "./bytes.js";

const POLL_MS = 1000;
const POLL_TIMEOUT_MS = 3000;
const SEEN_MAX_S = 3;

export const cluster = { at: 0, written: null, rate: null, logTime: null };

async function poll() {
  const trouble = byId("cluster-trouble");
  try {
    showCluster(jsonOf(await ask("GET", "/v1/cluster", { timeoutMs: POLL_TIMEOUT_MS })));
    document.body.classList.remove("lost");
  } catch (problem) {
    document.body.classList.add("lost"); // what is shown is not known to be so any more
    cluster.written = null;
    const since = cluster.at ? ` What is below is ${Math.round((Date.now() - cluster.at) / 1000)} s old.` : "";
    trouble.textContent = `This node does not say how the cluster is: ${problem.message}.${since} Asking again every second.`;
    trouble.hidden = false;
  }
  setTimeout(poll, POLL_MS);
}

function showCluster(seen) {
  const now = Date.now();
  const members = seen.members || [];
  const newest = Math.max(seen.ordered ?? seen.settled ?? 0, ...members.map((m) => m.applied ?? m.settled ?? 0));
  countWrites(seen.writes_acknowledged, now);
  if (Number.isSafeInteger(seen.now_ms)) cluster.logTime = { ms: seen.now_ms, at: performance.now() };
  cluster.at = now;

  byId("answered-by").textContent = `answered by ${seen.node}`;
  byId("fact-leader").textContent = seen.leader || "none known";
  byId("fact-term").textContent = String(seen.term ?? "–");
  byId("fact-quorum").textContent = seen.quorum ? "yes" : "no";
  byId("fact-revision").textContent = newest.toLocaleString("en");
  byId("fact-store").textContent = seen.store_kind === "replicated" ? "each member's own" : "shared";
  byId("fact-rate").textContent = cluster.rate === null ? "–" : `${cluster.rate.toFixed(cluster.rate < 9.95 ? 1 : 0)}/s`;

  const wrong = [];
  if (!seen.leader) wrong.push("This node knows no leader yet: writes wait. Reads go on while the store answers.");
  else if (!seen.quorum) wrong.push("This node hears no quorum.");
  const ownStore = String(seen.refusal || "").startsWith("own_store"); // the reasons in unready say more
  if (seen.refusal && !ownStore) {
    wrong.push(`Writes are refused until somebody decides: ${seen.refusal}.`);
    const way = seen.refusal === "store_foreign" ? "" : ", or go on from this one: acordo adopt";
    wrong.push(`Put the store back that was settled${way}.`);
  }
  const told = ["no_leader", "no_quorum", ...(seen.refusal && !ownStore ? ["store_refused", "store_foreign"] : [])]; // said above in other words
  for (const each of seen.unready ?? []) {
    if (!told.includes(each.code)) wrong.push(`${seen.node} is not ready: ${each.why}.`);
  }
  if (seen.store_kind === "replicated" && seen.store_state !== "sound") {
    wrong.push(`The own store of ${seen.node} is ${seen.store_state}: ${seen.store_detail}.`);
  }
  if (seen.unsafe_fsync) wrong.push(`fsync=${seen.fsync}: a power cut may lose acknowledged writes.`);
  const dead = members.filter((m) => isDead(m, seen));
  if (dead.length) wrong.push(`Not heard of: ${dead.map((m) => m.id).join(", ")}.`);
  const trouble = byId("cluster-trouble");
  const text = wrong.join(" ");
  if (trouble.textContent !== text) trouble.textContent = text;
  trouble.hidden = !text;

  // The digest of each member's machine must be the same at the same revision.
  const digests = new Map();
  for (const m of members) {
    if (m.digest && m.settled !== null && m.settled !== undefined) {
      digests.set(m.settled, (digests.get(m.settled) || new Set()).add(m.digest));
    }
  }
  const list = byId("members");
  const cards = members.map((m) => memberCard(m, seen, newest, (digests.get(m.settled) || new Set()).size > 1));
  keepFocus(list, () => list.replaceChildren(...cards));
}

// Writes per second that this node acknowledged: revisions would also count what it only catches up with.
function countWrites(written, now) {
  const known = Number.isSafeInteger(written) ? written : null;
  if (known === null || cluster.written === null || known < cluster.written || now <= cluster.at) {
    cluster.rate = null;
  } else {
    const rate = (known - cluster.written) / ((now - cluster.at) / 1000);
    cluster.rate = cluster.rate === null ? rate : cluster.rate * 0.5 + rate * 0.5;
  }
  cluster.written = known;
}

function isDead(member, seen) {
  return member.id !== seen.node && !(typeof member.last_seen_s === "number" && member.last_seen_s <= SEEN_MAX_S);
}

function memberCard(member, seen, newest, differs) {
  const dead = isDead(member, seen);
  const role = dead ? "silent" : member.role;
  const card = element("li", undefined, "member");
  card.classList.toggle("leader", !dead && member.role === "leader");
  card.classList.toggle("dead", dead);
  card.dataset.member = member.id;

  const title = element("div", undefined, "title");
  title.append(memberName(member, seen));
  title.append(element("span", member.voter === false ? `${role}, no vote` : role, `badge ${dead ? "dead" : member.role}`));
  card.append(title);

  const settled = member.settled ?? null;
  if (settled !== null) {
    const bar = element("progress");
    bar.max = Math.max(1, newest);
    bar.value = settled;
    bar.setAttribute("aria-label", `${member.id} has settled ${settled} of ${newest} revisions`);
    card.append(bar);
  }

  const figures = element("div", undefined, "figures quiet");
  figures.append(element("span", settled === null ? "revision unknown" : `settled ${settled.toLocaleString("en")}`));
  if (!dead && typeof member.lag === "number") {
    figures.append(element("span", member.lag ? `${member.lag.toLocaleString("en")} entries behind` : "up to date"));
  }
  if (member.id === seen.node) figures.append(element("span", "this node"));
  else if (typeof member.last_seen_s === "number") figures.append(element("span", `heard ${member.last_seen_s.toFixed(1)} s ago`));
  else figures.append(element("span", "not heard yet"));
  card.append(figures);

  if (member.digest) {
    const digest = element("div", `${differs ? "DIFFERS " : ""}${member.digest.slice(0, 16)}`, "digest quiet");
    digest.classList.toggle("differs", differs);
    digest.title = `digest of its machine at revision ${settled}: ${member.digest}`;
    card.append(digest);
  }
  return card;
}

function memberName(member, seen) {
  const url = member.id === seen.node ? null : reachableFrom(location, member.url, seen.url);
  if (url === null) return element("span", member.id);
  const link = element("a", member.id);
  link.href = url;
  link.title = `the page of ${member.id}`;
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
function keepFocus(list, redraw) {
  const held = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.member : null;
  redraw();
  if (held) list.querySelector(`li[data-member="${CSS.escape(held)}"] a`)?.focus();
}

poll();
