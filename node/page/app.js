// The page of a node: shows the cluster live, reads and writes keys, lists them. Talks to this node only.
//
// A write is never called failed when its outcome is unknown: it is offered again with the same op_id, or looked up.
"use strict";

const POLL_MS = 1000;
const POLL_TIMEOUT_MS = 3000;
const REQUEST_TIMEOUT_MS = 12000;
const SEEN_MAX_S = 3;
const PREVIEW_CHARS = 80;
const VALUE_SHOWN_BYTES = 1024 * 1024;

const byId = (id) => document.getElementById(id);

// ----------------------------------------------------------------------------------------------- bytes and text

const encoder = new TextEncoder();

function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

function base64Of(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

function bytesOfBase64(text) {
  try {
    return Uint8Array.from(atob(text.trim()), (ch) => ch.charCodeAt(0));
  } catch {
    return null;
  }
}

// A JSON key or value is a string, or {"base64": …}.
function bytesOfJson(form) {
  return typeof form === "string" ? encoder.encode(form) : bytesOfBase64(form.base64);
}

function percent(bytes) {
  let path = "";
  for (const byte of bytes) {
    const ch = String.fromCharCode(byte);
    path += /[A-Za-z0-9_~-]/.test(ch) ? ch : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }
  return path;
}

// A field whose content is text or base64.
class BytesField {
  constructor(input, formOf, what) {
    this.input = input;
    this.formOf = formOf;
    this.what = what;
    formOf.addEventListener("change", () => this.rewrite());
    this.form = formOf.value;
  }

  // Keep the bytes when the way of writing them changes, if they can be written so.
  rewrite() {
    const bytes = this.form === "base64" ? bytesOfBase64(this.input.value) : encoder.encode(this.input.value);
    const text = bytes && (this.formOf.value === "base64" ? base64Of(bytes) : textOf(bytes));
    if (text === null) {
      this.formOf.value = this.form;
      throwAway(`the ${this.what} cannot be written as text`);
      return;
    }
    this.input.value = text;
    this.form = this.formOf.value;
  }

  get bytes() {
    if (this.form === "text") return encoder.encode(this.input.value);
    const bytes = bytesOfBase64(this.input.value);
    if (bytes === null) throw new Problem({ title: `The ${this.what} is not base64`, advice: "fix it; nothing was changed" });
    return bytes;
  }

  set bytes(bytes) {
    const text = textOf(bytes);
    this.form = this.formOf.value = text === null ? "base64" : "text";
    this.input.value = text === null ? base64Of(bytes) : text;
  }
}

// ------------------------------------------------------------------------------------------------------ requests

class Problem extends Error {
  constructor(form, status = 0) {
    super(form.detail || form.title || "something went wrong");
    this.form = form;
    this.status = status;
    this.unknown = form.outcome === "unknown";
  }
}

// Send one request; return the response, or throw a Problem. `mutation`: silence means unknown.
async function ask(method, path, { headers = {}, body, mutation = false, timeoutMs = REQUEST_TIMEOUT_MS, also = [] } = {}) {
  let response;
  let bytes;
  try {
    const signal = AbortSignal.timeout(timeoutMs);
    response = await fetch(path, { method, headers, body, signal, redirect: "error", cache: "no-store" });
    bytes = new Uint8Array(await response.arrayBuffer());
  } catch (error) {
    const silent = error.name === "TimeoutError" ? `no answer within ${timeoutMs / 1000} s` : "this node does not answer";
    throw new Problem({
      title: mutation ? "Outcome unknown" : "No answer",
      detail: silent,
      outcome: mutation ? "unknown" : "not_applied",
      advice: mutation ? "it may have been applied: look it up, or try again" : "try again",
    });
  }
  const answer = { status: response.status, headers: response.headers, bytes };
  if (response.ok || also.includes(response.status)) return answer;
  throw problemOf(answer, mutation);
}

function problemOf(answer, mutation) {
  const fromNode = answer.headers.has("Acordo-Node");
  let form = null;
  if ((answer.headers.get("Content-Type") || "").includes("json")) {
    try {
      form = JSON.parse(textOf(answer.bytes));
    } catch { /* not what the API promises: treated as unknown below */ }
  }
  if (!fromNode || form === null || typeof form !== "object") {
    const refused = answer.status >= 400 && answer.status < 500 && answer.status !== 404;
    form = {
      title: `Answer ${answer.status}`,
      detail: fromNode ? "the answer is damaged" : "a proxy answered, not a node",
      outcome: mutation && !refused ? "unknown" : "not_applied",
      advice: mutation && !refused ? "it may have been applied: look it up, or try again" : "try again",
    };
  }
  return new Problem(form, answer.status);
}

function jsonOf(answer) {
  try {
    return JSON.parse(textOf(answer.bytes));
  } catch {
    throw new Problem({ title: "Answer damaged", detail: "the node's answer is no JSON", advice: "try again" });
  }
}

function newOpId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return "page-" + Date.now().toString(16) + "-" + Array.from(bytes, (b) => b.toString(16).padStart(2, "0")).join("");
}

// -------------------------------------------------------------------------------------------- showing problems

function element(name, text, className) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  return made;
}

// Show a problem in a box: what happened, what it means for the data, what to do, and buttons for that.
function showProblem(box, problem, actions = []) {
  if (!(problem instanceof Problem)) throw problem;
  const { form } = problem;
  box.replaceChildren();
  box.classList.toggle("unknown", problem.unknown);
  box.append(element("p", form.title || "Problem", "title"));
  if (form.detail && form.detail !== form.title) box.append(element("p", form.detail));
  if (form.allowed) box.append(element("p", `allowed: ${form.allowed}`));
  const facts = [form.advice, problem.status && `HTTP ${problem.status}`, form.code].filter(Boolean).join(" · ");
  if (facts) box.append(element("p", facts, "quiet"));
  if (actions.length) {
    const row = element("div", undefined, "row");
    for (const [label, act] of actions) {
      const button = element("button", label, "plain");
      button.type = "button";
      button.addEventListener("click", act);
      row.append(button);
    }
    box.append(row);
  }
  box.hidden = false;
}

function hide(box) {
  box.hidden = true;
  box.replaceChildren();
}

// ------------------------------------------------------------------------------------------------------- cluster

const cluster = { at: 0, revision: null, rate: null };

async function poll() {
  const trouble = byId("cluster-trouble");
  try {
    showCluster(jsonOf(await ask("GET", "/v1/cluster", { timeoutMs: POLL_TIMEOUT_MS })));
    document.querySelector(".mark").classList.remove("lost");
  } catch (problem) {
    document.querySelector(".mark").classList.add("lost");
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
  if (cluster.revision !== null && now > cluster.at) {
    const rate = Math.max(0, (newest - cluster.revision) / ((now - cluster.at) / 1000));
    cluster.rate = cluster.rate === null ? rate : cluster.rate * 0.5 + rate * 0.5;
  }
  cluster.at = now;
  cluster.revision = newest;

  byId("answered-by").textContent = `answered by ${seen.node}`;
  byId("fact-leader").textContent = seen.leader || "nobody";
  byId("fact-term").textContent = String(seen.term ?? "–");
  byId("fact-quorum").textContent = seen.quorum ? "yes" : "no";
  byId("fact-revision").textContent = newest.toLocaleString("en");
  byId("fact-rate").textContent = cluster.rate === null ? "–" : `${cluster.rate.toFixed(cluster.rate < 9.95 ? 1 : 0)}/s`;

  const wrong = [];
  if (!seen.leader) wrong.push("Nobody leads: writes wait. Reads go on while the store answers.");
  else if (!seen.quorum) wrong.push("This node hears no quorum.");
  if (seen.refusal) wrong.push(`Writes are refused: ${seen.refusal}.`);
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

function isDead(member, seen) {
  return member.id !== seen.node && typeof member.last_seen_s === "number" && member.last_seen_s > SEEN_MAX_S;
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
  const bar = element("progress");
  bar.max = Math.max(1, newest);
  bar.value = settled ?? 0;
  bar.setAttribute("aria-label", `${member.id} has settled ${settled ?? "an unknown number"} of ${newest} revisions`);
  card.append(bar);

  const figures = element("div", undefined, "figures quiet");
  figures.append(element("span", settled === null ? "revision unknown" : `settled ${settled.toLocaleString("en")}`));
  if (member.lag) figures.append(element("span", `${member.lag.toLocaleString("en")} entries behind`));
  if (member.id === seen.node) figures.append(element("span", "this node"));
  else if (typeof member.last_seen_s === "number") figures.append(element("span", `heard ${member.last_seen_s.toFixed(1)} s ago`));
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
  const web = /^https?:\/\//.test(member.url || "");
  if (!web || member.id === seen.node) return element("span", member.id);
  const link = element("a", member.id);
  link.href = member.url;
  link.title = `the page of ${member.id}`;
  return link;
}

// Redrawing must not take the keyboard's place away.
function keepFocus(list, redraw) {
  const held = list.contains(document.activeElement) ? document.activeElement.closest("li")?.dataset.member : null;
  redraw();
  if (held) list.querySelector(`li[data-member="${CSS.escape(held)}"] a`)?.focus();
}

// ----------------------------------------------------------------------------------------------------------- keys

const key = new BytesField(byId("key"), byId("key-form-of"), "key");
const value = new BytesField(byId("value"), byId("value-form-of"), "value");
const read = { key: null, revision: null, position: 0 };

function throwAway(text) {
  showProblem(byId("key-problem"), new Problem({ title: text[0].toUpperCase() + text.slice(1) }));
}

function say(text, good = false) {
  byId("state").textContent = text;
  byId("state").classList.toggle("good", good);
}

function sameKey() {
  return read.key !== null && base64Of(read.key) === base64Of(key.bytes);
}

// What "only if it is still as it was read" means for the key in the field.
function showGuard() {
  let known = false;
  try {
    known = sameKey();
  } catch { /* a key that is not base64 yet */ }
  byId("guard-what").textContent = !known ? "as it was read" : read.revision === 0 ? "absent" : `at revision ${read.revision}`;
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

async function getKey() {
  const bytes = key.bytes;
  const query = new URLSearchParams();
  const level = byId("level").value;
  if (level !== "linearizable") query.set("consistency", level);
  if (level === "session") query.set("min_revision", String(read.position));
  const path = keyPath(bytes) + (query.size ? `?${query}` : "");
  const answer = await ask("GET", path, { also: [404] });
  if (answer.status === 404 && !isAbsence(answer)) throw problemOf(answer, false);
  notePosition(answer);
  const how = `${answer.headers.get("Acordo-Level") || level}, as of revision ${answer.headers.get("Acordo-Revision")}`;
  if (answer.status === 404) {
    remember(bytes, 0);
    say(`Absent (${how}).`);
    return;
  }
  const revision = revisionIn(answer);
  if (answer.bytes.length > VALUE_SHOWN_BYTES) throw new Problem({ title: "The value is too large to be shown" });
  value.bytes = answer.bytes;
  remember(bytes, revision);
  say(`Revision ${revision}, ${answer.bytes.length.toLocaleString("en")} bytes (${how}).`, true);
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

function guardHeaders() {
  if (!byId("guard").checked) return {};
  if (!sameKey()) {
    throw new Problem({
      title: "This key was not read yet",
      detail: "so there is nothing to compare it with",
      advice: "get it first, or clear the box to write whatever it is now",
    });
  }
  return read.revision === 0 ? { "If-None-Match": "*" } : { "If-Match": `"${read.revision}"` };
}

function putKey() {
  const bytes = key.bytes;
  const query = new URLSearchParams();
  const ttl = byId("ttl").value.trim();
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
  return { method: "DELETE", bytes, path: keyPath(bytes), headers: guardHeaders(), opId: newOpId() };
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
  if (write.method === "PUT") say(`${done.existed ? "Written" : "Created"} at revision ${done.revision}${again}.`, true);
  else say(`${done.existed === false ? "It was absent already" : `Deleted at revision ${done.revision}`}${again}.`, true);
}

async function lookUp(write) {
  const found = jsonOf(await ask("GET", `/v1/operations/${encodeURIComponent(write.opId)}`));
  if (found.outcome === "applied") {
    remember(write.bytes, write.method === "PUT" ? found.revision : 0);
    say(`It was applied, at revision ${found.revision}.`, true);
  } else if (found.outcome === "refused" || found.outcome === "expired") {
    say(`It was not applied, and never will be (${found.outcome}).`);
  } else {
    throw new Problem({ title: "Still unknown", detail: found.detail, outcome: "unknown", advice: "look it up again" });
  }
}

// Run one action at a time; whatever goes wrong is shown, with what may be done about it.
async function act(work, actionsFor = () => []) {
  const box = byId("key-problem");
  const controls = [byId("get"), byId("put"), byId("delete")];
  if (controls[0].disabled) return;
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
      await send(made);
    },
    (problem) => actionsAfter(problem, made),
  );
}

function actionsAfter(problem, made) {
  if (made === null) return [];
  if (problem.unknown) {
    return [
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
byId("key").addEventListener("input", showGuard);
byId("value").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    write(putKey);
  }
});

// -------------------------------------------------------------------------------------------------------- listing

// Tokens of the pages before the one shown, and of the next.
const listing = { prefix: "", limit: "25", before: [], at: null, next: null };

async function list(token, before) {
  const box = byId("list-problem");
  hide(box);
  const query = new URLSearchParams({ prefix: listing.prefix, limit: listing.limit });
  if (token) query.set("continue", token);
  try {
    const page = jsonOf(await ask("GET", `/v1/kv?${query}`));
    Object.assign(listing, { before, at: token, next: page.continue || null });
    showPage(page);
  } catch (problem) {
    const again = [["List again from the start", () => list(null, [])]];
    showProblem(box, problem, problem.status === 410 ? again : [["Try again", () => list(token, before)]]);
  }
}

function showPage(page) {
  const rows = page.items.map((item) => {
    const bytes = bytesOfJson(item.key);
    const row = element("tr");
    row.dataset.key = base64Of(bytes);
    const button = element("button", textOf(bytes) ?? `base64: ${base64Of(bytes)}`);
    button.type = "button";
    button.addEventListener("click", () => {
      key.bytes = bytes;
      showGuard();
      byId("key-title").scrollIntoView({ block: "nearest" });
      act(getKey);
    });
    const first = element("td");
    first.append(button);
    row.append(first, element("td", String(item.revision), "number"), element("td", previewOf(item.value), "preview"));
    return row;
  });
  byId("rows").replaceChildren(...rows);
  byId("listing").hidden = !rows.length;
  const where = `page ${listing.before.length + 1}${listing.next ? "" : ", the last"}, as of revision ${page.revision}`;
  byId("list-state").textContent = rows.length ? `${rows.length} keys (${where}).` : `No keys (${where}).`;
  byId("first").disabled = !listing.before.length;
  byId("previous").disabled = !listing.before.length;
  byId("next").disabled = !listing.next;
}

function previewOf(form) {
  if (form === undefined || form === null) return "";
  if (typeof form === "string") return form.length > PREVIEW_CHARS ? form.slice(0, PREVIEW_CHARS) + "…" : form;
  return `base64: ${form.base64.slice(0, PREVIEW_CHARS)}`;
}

byId("list-form").addEventListener("submit", (event) => {
  event.preventDefault();
  Object.assign(listing, { prefix: byId("prefix").value, limit: byId("limit").value });
  list(null, []);
});
byId("limit").addEventListener("change", () => byId("list-form").requestSubmit());
byId("first").addEventListener("click", () => list(null, []));
byId("previous").addEventListener("click", () => list(listing.before.at(-1), listing.before.slice(0, -1)));
byId("next").addEventListener("click", () => list(listing.next, [...listing.before, listing.at]));

poll();
