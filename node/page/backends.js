// What this node stands on, and what the loss of each means; and every member's disk, state and digests.
import { ask, element, jsonOf } from "./asking.js";
import { byId } from "./bytes.js";
import { live, members, stateOf } from "./live.js";
import { addStrings, number, t } from "./strings.js";
import { shownTab, whenShown } from "./tabs.js";

const LOOK_MS = 2000;

addStrings("en", {
  "tab.backends": "Health",
  "back.title": "What this node stands on",
  "back.of": "As {id} sees it.",
  "back.ok": "ok",
  "back.bad": "trouble",
  "back.required": "without it this node serves nothing",
  "back.optional": "without it this node serves on",
  "loss.drain": "A node that is stopping finishes what it has and takes nothing new.",
  "loss.member": "A member that was removed, or whose disk is gone, never counts again: replace it.",
  "loss.leader": "Without a leader writes wait. Nothing acknowledged is lost.",
  "loss.quorum": "Without a majority no write is acknowledged and no linearizable read answered; stale reads go on.",
  "loss.machine": "A member whose state differs from the leader's confirms nothing, and is rebuilt.",
  "loss.time": "Until the log's time is known, times to live cannot be given.",
  "loss.store": "Without the store writes wait and reads that are not cached fail; what was acknowledged is in it.",
  "loss.ledger": "A store that is not what was settled is not served before an operator decides.",
  "loss.own_store": "A member whose own file is damaged fetches it anew; the others go on.",
  "loss.fsync": "Where the disk is not waited for, a power cut of all members may lose acknowledged writes.",
  "loss.members": "Members that disagree about who belongs to the cluster do not take part.",
  "loss.cache": "Without the shared cache reads go to the store: slower, never wrong.",
  "loss.broadcast": "Without the broadcast subscribers hear later; watches are not affected.",
  "loss.other": "An additional check of this installation.",
  "disks.title": "Members' disks and digests",
  "disks.member": "Member",
  "disks.state": "Store",
  "disks.fsync": "fsync",
  "disks.unwritten": "Not in its file yet",
  "disks.unsynced": "Oldest unsynced entry",
  "disks.settled": "Settled",
  "disks.digest": "Digest of its machine",
  "disks.content": "Content digest, at row",
  "disks.level": "Feature level",
  "disks.bytes": "{n} bytes",
  "disks.silent": "does not say",
});
addStrings("pt", {
  "tab.backends": "Saúde",
  "back.title": "Do que este nó depende",
  "back.of": "Como {id} vê.",
  "back.ok": "ok",
  "back.bad": "problema",
  "back.required": "sem isto este nó não serve nada",
  "back.optional": "sem isto este nó continua servindo",
  "loss.drain": "Um nó que está parando termina o que tem e não aceita nada novo.",
  "loss.member": "Um membro removido, ou cujo disco se perdeu, nunca mais conta: substitua-o.",
  "loss.leader": "Sem líder as escritas esperam. Nada confirmado se perde.",
  "loss.quorum": "Sem maioria nenhuma escrita é confirmada e nenhuma leitura linearizável respondida; leituras antigas continuam.",
  "loss.machine": "Um membro cujo estado difere do estado do líder nada confirma, e é refeito.",
  "loss.time": "Até que se conheça o tempo do log, não se podem dar prazos.",
  "loss.store": "Sem o armazenamento as escritas esperam e leituras fora do cache falham; o que foi confirmado está nele.",
  "loss.ledger": "Um armazenamento que não é o que foi confirmado não é servido antes que um operador decida.",
  "loss.own_store": "Um membro cujo arquivo está danificado busca-o de novo; os outros continuam.",
  "loss.fsync": "Onde não se espera o disco, uma queda de energia de todos pode perder escritas confirmadas.",
  "loss.members": "Membros que discordam sobre quem pertence ao cluster não participam.",
  "loss.cache": "Sem o cache compartilhado as leituras vão ao armazenamento: mais lentas, nunca erradas.",
  "loss.broadcast": "Sem a difusão os assinantes sabem mais tarde; observações não são afetadas.",
  "loss.other": "Uma verificação adicional desta instalação.",
  "disks.title": "Discos e resumos dos membros",
  "disks.member": "Membro",
  "disks.state": "Armazenamento",
  "disks.fsync": "fsync",
  "disks.unwritten": "Ainda fora do arquivo",
  "disks.unsynced": "Entrada mais antiga sem sync",
  "disks.settled": "Confirmado",
  "disks.digest": "Resumo da máquina",
  "disks.content": "Resumo do conteúdo, na linha",
  "disks.level": "Nível de recursos",
  "disks.bytes": "{n} bytes",
  "disks.silent": "não diz",
});

const OPTIONAL = ["own_store", "fsync", "members", "cache", "broadcast"];

function showChecks(health) {
  byId("back-of").textContent = t("back.of", { id: health.node });
  byId("checks").replaceChildren(...Object.entries(health.checks).map(([name, said]) => {
    const ok = said === "ok";
    const made = element("li", undefined, `check-row ${ok ? "" : OPTIONAL.includes(name) ? "warned" : "bad"}`);
    const title = element("div", undefined, "title");
    title.append(element("strong", name), element("span", t(ok ? "back.ok" : "back.bad"), `badge ${ok ? "leader" : "dead"}`));
    const loss = t(`loss.${name}`);
    made.append(title);
    if (!ok) made.append(element("p", said));
    const known = loss !== `loss.${name}`;
    made.append(element("p", known ? loss : t("loss.other"), "quiet"));
    if (known) made.append(element("p", t(OPTIONAL.includes(name) ? "back.optional" : "back.required"), "quiet"));
    return made;
  }));
}

const COLUMNS = [
  ["state", (view) => (view.store_kind === "replicated" ? view.store_state : t("store.shared"))],
  ["fsync", (view) => view.fsync],
  ["unwritten", (view) => t("disks.bytes", { n: number(view.unwritten_bytes) })],
  ["unsynced", (view) => `${(view.unsynced_age_s * 1000).toFixed(0)} ms`],
  ["settled", (view) => number(view.settled)],
  ["digest", (view) => view.digest.slice(0, 12)],
  ["content", (view) => (view.content_digest ? `${view.content_digest.slice(0, 12)} · ${number(view.content_seq)}` : "–")],
  ["level", (view) => (view.feature_level ? String(view.feature_level) : "–")],
];

async function showDisks() {
  const all = [...members.values()].sort((a, b) => a.id.localeCompare(b.id));
  const rows = await Promise.all(all.map(async (member) => {
    const row = element("tr");
    const head = element("th", member.id);
    head.scope = "row";
    row.append(head);
    try {
      if (member.url === null || stateOf(member) === "dead") throw new Error("silent");
      const own = member.id === live.home;
      const answer = await fetch(new URL("/v1/cluster", member.url), { signal: AbortSignal.timeout(LOOK_MS), cache: "no-store", credentials: own ? "same-origin" : "include" });
      if (!answer.ok) throw new Error(`HTTP ${answer.status}`);
      const view = await answer.json();
      for (const [, pick] of COLUMNS) row.append(element("td", pick(view)));
      if (view.store_state !== "sound") row.title = view.store_detail;
    } catch {
      const silent = element("td", t("disks.silent"), "quiet");
      silent.colSpan = COLUMNS.length;
      row.append(silent);
    }
    return row;
  }));
  byId("disks").replaceChildren(...rows);
}

let running = false;
async function look() {
  if (running) return;
  running = true;
  while (shownTab() === "backends") {
    try {
      showChecks(jsonOf(await ask("GET", "/health", { also: [503] })));
      await showDisks();
    } catch { /* the overview says that this node does not answer */ }
    await new Promise((resume) => setTimeout(resume, LOOK_MS));
  }
  running = false;
}

const headings = element("tr");
for (const name of ["member", ...COLUMNS.map(([each]) => each)]) {
  const made = element("th", t(`disks.${name}`));
  made.scope = "col";
  headings.append(made);
}
byId("disks-head").replaceChildren(headings);
whenShown("backends", look);
