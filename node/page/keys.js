// Reading and writing one key. A write is never called failed when its outcome is unknown: it is offered again with the
// same op_id, or looked up. What is shown under a key is that key's.
import { Problem, ask, hide, jsonOf, newOpId, problemOf, showProblem } from "./asking.js";
import { BytesField, base64Of, byId, bytesOfBase64, percent, textOf, visible, visibleBytes } from "./bytes.js";
import { cluster } from "./cluster.js";
import { compared } from "./conflict.js";
import { forgetHistory, historyOf } from "./history.js";
import { number, t } from "./strings.js";

const VALUE_SHOWN_BYTES = 1024 * 1024;

export const key = new BytesField(byId("key"), byId("key-form-of"), "key", throwAway);
export const value = new BytesField(byId("value"), byId("value-form-of"), "value", throwAway);
const read = { key: null, revision: null, position: 0, valueOf: null, kept: null, lease: null };
// valueOf: the key, in base64, under which the value in the field belongs; kept: the ttl as it was read, until when;
// lease: the one that the key ends with.

function throwAway(text) {
  showProblem(byId("key-problem"), new Problem({ title: text }));
}

function say(text, good = false) {
  byId("state").textContent = text;
  byId("state").classList.toggle("good", good);
}

// The key in the field, in base64, or null while it is none.
function keyInField() {
  try {
    return base64Of(key.bytes);
  } catch {
    return null; // not base64 yet
  }
}

function sameKey() {
  return read.key !== null && base64Of(read.key) === keyInField();
}

// What "only if it is still as it was read" means for the key in the field.
export function showGuard() {
  const known = sameKey();
  byId("guard-what").textContent = !known ? t("key.guard.unread") : read.revision === 0 ? t("key.guard.absent")
    : t("key.guard.at", { revision: read.revision });
  const text = key.form === "base64" ? textOf(bytesOfBase64(key.input.value) ?? new Uint8Array()) : null;
  byId("key-shown").replaceChildren(...(text ? [t("key.shown"), visible(text)] : []));
  byId("key-shown").hidden = !text;
}

// Another key is in the field: what was read of the former one does not stay under it.
export function leaveFormer() {
  const now = keyInField();
  if (read.valueOf !== null && read.valueOf !== now && !value.edited) {
    value.clear();
    read.valueOf = null;
  }
  if (read.kept !== null && read.kept.key !== now) forgetTtl();
  if (!sameKey()) {
    noteLease(null);
    forgetHistory();
  }
}

function noteLease(lease) {
  read.lease = lease;
  byId("lease-row").hidden = lease === null;
  byId("lease-name").textContent = lease ?? "";
  byId("keep-lease").checked = true;
}

function forgetTtl() {
  if (read.kept !== null && byId("ttl").value === read.kept.shown) byId("ttl").value = "";
  read.kept = null;
  byId("ttl-note").textContent = "";
}

// Keep the time that a key has left, so that writing its value does not make it live for ever, or longer.
function keepTtl(answer, bytes) {
  forgetTtl();
  byId("ttl").value = "";
  const expiresMs = Number(answer.headers.get("Acordo-Expires"));
  if (!expiresMs) return "";
  const { logTime } = cluster;
  const nodeMs = logTime === null ? Date.now() : logTime.ms + performance.now() - logTime.at;
  const leftS = Math.max(0.1, (expiresMs - nodeMs) / 1000);
  byId("ttl").value = leftS.toFixed(1);
  read.kept = { key: base64Of(bytes), shown: byId("ttl").value, until: performance.now() + leftS * 1000 };
  byId("ttl-note").textContent = t("key.ttl.kept");
  return t("key.expires", { seconds: number(Math.round(leftS)) });
}

function ttlToSend() {
  const given = byId("ttl").value.trim();
  if (read.kept === null || given !== read.kept.shown || read.kept.key !== keyInField()) return given;
  return Math.max(0.1, (read.kept.until - performance.now()) / 1000).toFixed(3);
}

function remember(bytes, revision) {
  read.key = bytes;
  read.revision = revision;
  showGuard();
  for (const row of byId("rows").children) row.classList.toggle("chosen", row.dataset.key === base64Of(bytes));
}

function keyPath(bytes) {
  if (!bytes.length) throw new Problem({ title: t("key.empty"), allowed: t("key.empty.allowed") });
  const text = textOf(bytes);
  if (text === "." || text === "..") {
    throw new Problem({ title: t("key.dots", { key: text }), advice: t("key.dots.advice") });
  }
  return "/v1/kv/" + percent(bytes);
}

export async function getKey() {
  const bytes = key.bytes;
  const asked = base64Of(bytes);
  const query = new URLSearchParams();
  const level = byId("level").value;
  if (level !== "linearizable") query.set("consistency", level);
  if (level === "session") query.set("min_revision", String(read.position));
  const path = keyPath(bytes) + (query.size ? `?${query}` : "");
  const answer = await ask("GET", path, { also: [404] });
  if (answer.status === 404 && !isAbsence(answer)) throw problemOf(answer, false);
  notePosition(answer);
  if (keyInField() !== asked) {
    say(t("key.meanwhile"));
    return;
  }
  if (read.valueOf !== null && read.valueOf !== asked) value.clear();
  const how = t("key.how", { level: answer.headers.get("Acordo-Level") || level, revision: answer.headers.get("Acordo-Revision") });
  if (answer.status === 404) {
    if (value.loaded !== null) value.clear();
    forgetTtl();
    noteLease(null);
    remember(bytes, 0);
    say(t("key.absent", { how }));
    historyOf(bytes, restore);
    return;
  }
  const revision = revisionIn(answer);
  if (answer.bytes.length > VALUE_SHOWN_BYTES) {
    value.clear();
    throw new Problem({ title: t("key.large") });
  }
  value.bytes = answer.bytes;
  read.valueOf = asked;
  const expires = keepTtl(answer, bytes);
  noteLease(answer.headers.get("Acordo-Lease"));
  remember(bytes, revision);
  say(t("key.read", { revision, bytes: number(answer.bytes.length), expires, how }), true);
  historyOf(bytes, restore);
}

// Put the value of an earlier version into the field; it is written when somebody puts it.
function restore(bytes) {
  value.bytes = bytes;
  value.loaded.edited = true;
  read.valueOf = keyInField();
  byId("value").focus();
}

function isAbsence(answer) {
  const form = problemOf(answer, false).form;
  return form.code === "key_not_found";
}

function notePosition(answer) {
  const position = Number(answer.headers.get("Acordo-Revision"));
  if (Number.isSafeInteger(position)) read.position = Math.max(read.position, position);
}

function revisionIn(answer) {
  const revision = Number((answer.headers.get("ETag") || "").replaceAll('"', ""));
  if (!Number.isSafeInteger(revision) || revision < 1) {
    throw new Problem({ title: t("ask.damaged"), detail: t("key.norevision"), advice: t("ask.again") });
  }
  return revision;
}

// A key that was not read is only created: what somebody else keeps there is not overwritten unseen.
function guardHeaders() {
  if (!byId("guard").checked) return {};
  return !sameKey() || read.revision === 0 ? { "If-None-Match": "*" } : { "If-Match": `"${read.revision}"` };
}

function putKey() {
  const bytes = key.bytes;
  const query = new URLSearchParams();
  const ttl = ttlToSend();
  if (ttl) query.set("ttl", ttl);
  if (read.lease !== null && sameKey() && byId("keep-lease").checked) query.set("lease", read.lease);
  return {
    method: "PUT",
    bytes,
    path: keyPath(bytes) + (query.size ? `?${query}` : ""),
    headers: { "Content-Type": "application/octet-stream", ...guardHeaders() },
    body: value.bytes,
    opId: newOpId(),
  };
}

function deleteKey() {
  const bytes = key.bytes;
  const guarded = byId("guard").checked;
  if (guarded && !sameKey()) {
    throw new Problem({
      title: t("key.unread"),
      detail: t("key.unread.detail"),
      advice: t("key.unread.advice"),
    });
  }
  return { method: "DELETE", bytes, path: keyPath(bytes), headers: guarded ? guardHeaders() : {}, opId: newOpId() };
}

// Ask a person before a key is deleted; it is this one that is deleted then, whatever the field holds by then.
function confirmed(write) {
  if (write.method !== "DELETE") return true;
  const dialog = byId("ask-delete");
  byId("ask-delete-key").replaceChildren(visibleBytes(write.bytes));
  byId("ask-delete-what").textContent = write.headers["If-Match"]
    ? t("delete.at", { revision: read.revision }) : t(write.headers["If-None-Match"] ? "delete.absent" : "delete.whatever");
  dialog.returnValue = "";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
  });
}

// Send a write; all attempts of it carry the same op_id, so that it takes effect at most once.
async function send(write) {
  const headers = { ...write.headers, "Idempotency-Key": `"${write.opId}"` };
  const answer = await ask(write.method, write.path, { headers, body: write.body, mutation: true });
  if (!answer.headers.has("Acordo-Node")) throw problemOf(answer, true);
  notePosition(answer);
  const done = jsonOf(answer);
  const told = { revision: done.revision, again: done.again ? t("key.done.again") : "" };
  remember(write.bytes, write.method === "PUT" ? done.revision : 0);
  holdsNow(write);
  if (write.method === "PUT") say(t(done.existed ? "key.done.written" : "key.done.created", told), true);
  else say(t(done.existed === false ? "key.done.nothing" : "key.done.deleted", told), true);
  historyOf(write.bytes, restore);
  document.dispatchEvent(new CustomEvent("acordo:written"));
}

// The value in the field, if it is still what was written, is now that key's.
function holdsNow(write) {
  if (write.method !== "PUT" || base64Of(write.bytes) !== keyInField()) return;
  if (base64Of(value.bytes) === base64Of(write.body)) value.show(write.body, value.input.value);
  read.valueOf = base64Of(write.bytes);
}

// `settle`: give an operation up that nobody has ordered yet, so that it is definite.
async function lookUp(write, settle = false) {
  const method = settle ? "POST" : "GET";
  const found = jsonOf(await ask(method, `/v1/operations/${encodeURIComponent(write.opId)}`, { mutation: settle }));
  if (found.outcome === "applied") {
    remember(write.bytes, write.method === "PUT" ? found.revision : 0);
    holdsNow(write);
    say(t("key.found.applied", { revision: found.revision }), true);
  } else if (found.outcome === "refused" || found.outcome === "expired") {
    say(t("key.found.not", { outcome: found.outcome }));
  } else if (found.code === "not_ordered") {
    throw new Problem({ title: t("key.found.sofar"), detail: found.detail, outcome: "unknown", code: found.code,
      advice: t("key.found.sofar.advice") });
  } else {
    throw new Problem({ title: t("key.found.unknown"), detail: found.detail, outcome: "unknown", advice: t("key.found.again") });
  }
}

export function busy() {
  return byId("get").disabled;
}

// Run one action at a time; whatever goes wrong is shown, with what may be done about it.
export async function act(work, actionsFor = () => []) {
  const box = byId("key-problem");
  const controls = [byId("get"), byId("put"), byId("delete")];
  if (busy()) return;
  hide(box);
  for (const control of controls) control.disabled = true;
  try {
    await work();
  } catch (problem) {
    byId("state").classList.remove("good");
    showProblem(box, problem, actionsFor(problem));
    box.scrollIntoView({ block: "nearest" });
  } finally {
    for (const control of controls) control.disabled = false;
  }
}

async function write(prepare) {
  let made = null;
  await act(
    async () => {
      made = prepare();
      if (await confirmed(made)) await send(made);
    },
    (problem) => actionsAfter(problem, made),
  );
}

// A write was refused because somebody else wrote in between: show both values, and let the person decide.
async function showConflict(made) {
  const answer = await ask("GET", keyPath(made.bytes), { also: [404] });
  if (answer.status === 404 && !isAbsence(answer)) throw problemOf(answer, false);
  const theirs = answer.status === 404 ? { bytes: null, revision: 0 } : { bytes: answer.bytes, revision: revisionIn(answer) };
  const condition = theirs.revision ? { "If-Match": `"${theirs.revision}"` } : { "If-None-Match": "*" };
  const over = { ...made, opId: newOpId(), headers: { "Content-Type": "application/octet-stream", ...condition } };
  byId("key-problem").append(
    compared(made.body, theirs, () => act(() => send(over), (next) => actionsAfter(next, over))),
  );
}

function actionsAfter(problem, made) {
  if (made === null) return [];
  if (problem.unknown) {
    const giveUp = [t("do.giveup"), () => act(() => lookUp(made, true), (next) => actionsAfter(next, made))];
    return [
      ...(problem.form.code === "not_ordered" ? [giveUp] : []),
      [t("do.lookup"), () => act(() => lookUp(made), (next) => actionsAfter(next, made))],
      [t("do.again"), () => act(() => send(made), (next) => actionsAfter(next.unknown ? next : stillUnknown(next), made))],
    ];
  }
  if (problem.status === 412) {
    if (made.method === "PUT") showConflict(made).catch(() => {}); // what is there now can be asked for by the button
    return [[t("do.theirs"), () => act(getKey)]];
  }
  if (problem.status === 503) return [[t("do.again"), () => act(() => send(made), (next) => actionsAfter(next, made))]];
  return [];
}

// A definite refusal of a later attempt says nothing of the earlier one, unless it speaks of the op_id itself.
function stillUnknown(problem) {
  if (![409, 412, 422].includes(problem.status) && problem.form.code !== "expired") problem.unknown = true;
  return problem;
}

byId("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  act(getKey);
});
byId("put").addEventListener("click", () => write(putKey));
byId("delete").addEventListener("click", () => write(deleteKey));
byId("key").addEventListener("input", () => {
  leaveFormer();
  showGuard();
});
byId("key-form-of").addEventListener("change", showGuard);
byId("ttl").addEventListener("input", () => {
  byId("ttl-note").textContent = read.kept !== null && byId("ttl").value === read.kept.shown ? t("key.ttl.kept") : "";
});
byId("ask-delete-yes").addEventListener("click", () => byId("ask-delete").close("yes"));
byId("ask-delete-no").addEventListener("click", () => byId("ask-delete").close(""));
byId("value").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write(putKey);
  }
});
