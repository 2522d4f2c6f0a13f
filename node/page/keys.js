// Reading and writing one key. A write is never called failed when its outcome is unknown: it is offered again with the
// same op_id, or looked up. What is shown under a key is that key's.
import { Problem, ask, hide, jsonOf, newOpId, problemOf, showProblem } from "./asking.js";
import { BytesField, base64Of, byId, bytesOfBase64, percent, textOf, visible, visibleBytes } from "./bytes.js";
import { cluster } from "./cluster.js";

const VALUE_SHOWN_BYTES = 1024 * 1024;

export const key = new BytesField(byId("key"), byId("key-form-of"), "key", throwAway);
export const value = new BytesField(byId("value"), byId("value-form-of"), "value", throwAway);
const read = { key: null, revision: null, position: 0, valueOf: null, kept: null };
// valueOf: the key, in base64, under which the value in the field belongs; kept: the ttl as it was read, until when.

function throwAway(text) {
  showProblem(byId("key-problem"), new Problem({ title: text[0].toUpperCase() + text.slice(1) }));
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
  byId("guard-what").textContent = !known ? "absent: it was not read" : read.revision === 0 ? "absent" : `at revision ${read.revision}`;
  const text = key.form === "base64" ? textOf(bytesOfBase64(key.input.value) ?? new Uint8Array()) : null;
  byId("key-shown").replaceChildren(...(text ? ["This is ", visible(text)] : []));
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
  byId("ttl-note").textContent = "what was left as it was read; it is kept";
  return `, expires in ${leftS.toFixed(0)} s`;
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
  if (!bytes.length) throw new Problem({ title: "The key is empty", allowed: "1 to 1024 bytes" });
  const text = textOf(bytes);
  if (text === "." || text === "..") {
    throw new Problem({ title: `A browser cannot ask for the key ${text}`, advice: "use the command line for it" });
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
    say("The key in the field was changed meanwhile: nothing is shown of the other one.");
    return;
  }
  if (read.valueOf !== null && read.valueOf !== asked) value.clear();
  const how = `${answer.headers.get("Acordo-Level") || level}, as of revision ${answer.headers.get("Acordo-Revision")}`;
  if (answer.status === 404) {
    if (value.loaded !== null) value.clear();
    forgetTtl();
    remember(bytes, 0);
    say(`Absent (${how}).`);
    return;
  }
  const revision = revisionIn(answer);
  if (answer.bytes.length > VALUE_SHOWN_BYTES) {
    value.clear();
    throw new Problem({ title: "The value is too large to be shown" });
  }
  value.bytes = answer.bytes;
  read.valueOf = asked;
  const expires = keepTtl(answer, bytes);
  remember(bytes, revision);
  say(`Revision ${revision}, ${answer.bytes.length.toLocaleString("en")} bytes${expires} (${how}).`, true);
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
    throw new Problem({ title: "Answer damaged", detail: "the answer has no revision", advice: "try again" });
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
      title: "This key was not read yet",
      detail: "so there is nothing to compare it with",
      advice: "get it first, or clear the box to delete whatever it is now",
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
    ? `If it is still at revision ${read.revision}.` : write.headers["If-None-Match"] ? "It was absent." : "Whatever it is now.";
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
  const again = done.again ? " (an earlier attempt had done it)" : "";
  remember(write.bytes, write.method === "PUT" ? done.revision : 0);
  holdsNow(write);
  if (write.method === "PUT") say(`${done.existed ? "Written" : "Created"} at revision ${done.revision}${again}.`, true);
  else say(`${done.existed === false ? "It was absent already" : `Deleted at revision ${done.revision}`}${again}.`, true);
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
    say(`It was applied, at revision ${found.revision}.`, true);
  } else if (found.outcome === "refused" || found.outcome === "expired") {
    say(`It was not applied, and never will be (${found.outcome}).`);
  } else if (found.code === "not_ordered") {
    throw new Problem({ title: "Not applied so far", detail: found.detail, outcome: "unknown", code: found.code,
      advice: "it may still arrive: give it up for good, try again, or look again later" });
  } else {
    throw new Problem({ title: "Still unknown", detail: found.detail, outcome: "unknown", advice: "look it up again" });
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

function actionsAfter(problem, made) {
  if (made === null) return [];
  if (problem.unknown) {
    const giveUp = ["Give it up", () => act(() => lookUp(made, true), (next) => actionsAfter(next, made))];
    return [
      ...(problem.form.code === "not_ordered" ? [giveUp] : []),
      ["Look it up", () => act(() => lookUp(made), (next) => actionsAfter(next, made))],
      ["Try again", () => act(() => send(made), (next) => actionsAfter(next.unknown ? next : stillUnknown(next), made))],
    ];
  }
  if (problem.status === 412) return [["Get what is there now", () => act(getKey)]];
  if (problem.status === 503) return [["Try again", () => act(() => send(made), (next) => actionsAfter(next, made))]];
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
  byId("ttl-note").textContent = read.kept !== null && byId("ttl").value === read.kept.shown ? "it is kept as it was read" : "";
});
byId("ask-delete-yes").addEventListener("click", () => byId("ask-delete").close("yes"));
byId("ask-delete-no").addEventListener("click", () => byId("ask-delete").close(""));
byId("value").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write(putKey);
  }
});
