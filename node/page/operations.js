// The timeline of one operation by its op_id: what the look-up says of it, and where it stands in the ledger.
import { Problem, ask, element, hide, jsonOf, showProblem } from "./asking.js";
import { byId, bytesOfJson, visibleBytes } from "./bytes.js";
import { language, number, t } from "./strings.js";
import { whenShown } from "./tabs.js";

const SEARCH_MAX = 64;
const OF_PAGE = /^page-([0-9a-f]{11,12})-/;

let asked = 0;

async function lookUp(opId, settle = false) {
  const mine = ++asked;
  hide(byId("operation-problem"));
  byId("operation-state").textContent = t("op.asking");
  try {
    const path = `/v1/operations/${encodeURIComponent(opId)}`;
    const found = jsonOf(await ask(settle ? "POST" : "GET", path, { mutation: settle }));
    if (mine !== asked) return;
    show(opId, found);
    if (found.revision) await showRow(found, mine);
  } catch (problem) {
    if (!(problem instanceof Problem) || mine !== asked) return;
    byId("timeline").replaceChildren();
    byId("operation-state").textContent = t("op.none");
    showProblem(byId("operation-problem"), problem, [[t("do.lookup"), () => lookUp(opId)]]);
  }
}

function show(opId, found) {
  byId("operation-state").textContent = t(`op.is.${found.outcome}`);
  const made = OF_PAGE.exec(opId);
  const steps = [step("done", t("op.submitted"), made === null ? t("op.submitted.client") : t("op.submitted.page", { at: moment(parseInt(made[1], 16)) }))];
  if (found.outcome === "unknown") {
    steps.push(step("open", t("op.ordered"), found.detail || t("op.notyet")));
  } else if (found.outcome === "pending") {
    steps.push(step("done", t("op.ordered"), ""), step("open", t("op.judged"), found.detail || t("op.notyet")));
  } else {
    steps.push(step("done", t("op.ordered"), t("op.revision", { revision: number(found.revision) })));
    steps.push(step(found.outcome === "applied" ? "done" : "failed", t("op.judged"), judged(found)));
  }
  byId("timeline").replaceChildren(...steps);
  const actions = [];
  if (["unknown", "pending"].includes(found.outcome)) actions.push([t("do.lookagain"), () => lookUp(opId)]);
  if (found.code === "not_ordered") actions.push([t("op.cancel"), () => lookUp(opId, true)]);
  for (const [label, act] of actions) {
    const button = element("button", label, "plain");
    button.type = "button";
    button.addEventListener("click", act);
    byId("timeline").lastElementChild.append(button);
  }
}

function judged(found) {
  if (found.outcome === "applied") return t(found.branch === "otherwise" ? "op.applied.otherwise" : "op.applied");
  if (found.outcome === "refused" && typeof found.guard === "number") {
    return t(found.current ? "op.refused.at" : "op.refused.absent", { guard: found.guard, current: found.current ?? 0 });
  }
  return t(`op.is.${found.outcome}`);
}

function step(state, title, text) {
  const made = element("li", undefined, state);
  made.append(element("strong", title));
  if (text) made.append(element("p", text));
  return made;
}

function moment(ms) {
  return new Date(ms).toLocaleString(language === "pt" ? "pt-BR" : "en", { dateStyle: "medium", timeStyle: "medium" });
}

async function showRow(found, mine) {
  let row;
  try {
    row = await rowOf(found.revision);
  } catch (problem) {
    if (!(problem instanceof Problem)) throw problem;
    if (mine === asked) byId("timeline").append(step("open", t("op.ledger"), t(problem.status === 403 ? "op.ledger.admin" : "op.ledger.none")));
    return;
  }
  if (mine !== asked) return;
  const record = row?.body.find((each) => each.revision === found.revision);
  if (record === undefined) {
    byId("timeline").append(step("open", t("op.ledger"), t("op.ledger.none")));
    return;
  }
  const made = step("done", t("op.ledger"), t("op.row", {
    seq: number(row.seq), term: number(row.term), committer: row.committer, at: moment(row.log_time_ms),
  }));
  if (record.principal) made.append(element("p", t("op.principal", { principal: record.principal })));
  if (record.keys.length) {
    const keys = element("p", `${t("op.keys")} `);
    record.keys.forEach((key, at) => keys.append(at ? ", " : "", visibleBytes(bytesOfJson(key))));
    made.append(keys);
  }
  made.append(element("p", t("op.digest", { digest: row.digest.slice(0, 16) }), "quiet"));
  byId("timeline").append(made);
}

async function rowFrom(seq) {
  const answer = await ask("GET", `/v1/ledger?limit=1${seq === null ? "" : `&from=${seq}`}`, { also: [400] });
  return answer.status === 400 ? undefined : jsonOf(answer).rows[0];
}

// The row that has a revision, by halving: rows are numbered by 1, and their revisions rise. Undefined: it is not kept.
async function rowOf(revision) {
  const first = await rowFrom(null);
  if (first === undefined || revision < first.first) return undefined;
  let low = first.seq; // no row before has it
  let high = low + Math.max(1, revision - first.last); // the first that may be the one, or be behind it
  let left = SEARCH_MAX;
  for (; left > 0; left--) {
    const row = await rowFrom(high);
    if (row === undefined || row.last >= revision) break;
    [low, high] = [high + 1, high + (high - first.seq) + 1];
  }
  for (; left > 0 && low < high; left--) {
    const middle = Math.floor((low + high) / 2);
    const row = await rowFrom(middle);
    if (row === undefined || row.last >= revision) high = middle;
    else low = middle + 1;
  }
  const row = await rowFrom(low);
  return row !== undefined && row.first <= revision && revision <= row.last ? row : undefined;
}

byId("operation-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const opId = byId("op-id").value.trim();
  if (!opId) return;
  history.pushState(null, "", `#operations/${encodeURIComponent(opId)}`);
  lookUp(opId);
});
whenShown("operations", (rest) => {
  if (!rest) return;
  let opId;
  try {
    opId = decodeURIComponent(rest);
  } catch {
    return; // no address that this page makes
  }
  byId("op-id").value = opId;
  lookUp(opId);
});
