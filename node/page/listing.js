// The tree of keys: folders by separator, page by page at one revision. The address says what is shown, so that it can
// be sent to somebody: #keys/in/orders/ a folder, #keys/key/orders/17 a key.
import { Problem, ask, element, hide, jsonOf, showProblem } from "./asking.js";
import { base64Of, byId, bytesOfJson, bytesTyped, percent, textOf, typed, visible, visibleBytes } from "./bytes.js";
import { act, busy, getKey, key, leaveFormer, showGuard } from "./keys.js";
import { number, t } from "./strings.js";
import { whenShown } from "./tabs.js";

const PREVIEW_CHARS = 80;
const FOLDER_PAGE = 100;
const NOTHING = new Uint8Array();

// Tokens of the pages before the one shown, and of the next; `asked` counts, so that an answer that comes late is left out.
const listing = { prefix: NOTHING, separator: "/", limit: "25", before: [], at: null, next: null, asked: 0, listed: false };

function query(prefix, token, limit, revision = null) {
  const parts = [`prefix=${percent(prefix)}`, `limit=${limit}`];
  if (listing.separator) parts.push(`separator=${percent(bytesTyped(listing.separator))}`);
  if (token) parts.push(`continue=${encodeURIComponent(token)}`);
  else if (revision !== null) parts.push(`revision=${revision}`);
  return `/v1/kv?${parts.join("&")}`;
}

async function list(token, before) {
  const box = byId("list-problem");
  const asked = ++listing.asked;
  listing.listed = true;
  hide(box);
  try {
    const page = jsonOf(await ask("GET", query(listing.prefix, token, listing.limit)));
    if (asked !== listing.asked) return;
    Object.assign(listing, { before, at: token, next: page.continue || null });
    showPage(page);
  } catch (problem) {
    if (asked !== listing.asked) return;
    const again = [[t("list.restart"), () => list(null, [])]];
    showProblem(box, problem, problem.status === 410 ? again : [[t("do.again"), () => list(token, before)]]);
  }
}

// What a page shows, in byte order: keys, and folders as {folder: bytes}.
function entriesOf(page) {
  const keys = page.items.map((item) => ({ item, bytes: bytesOfJson(item.key) }));
  const folders = (page.prefixes ?? []).map((form) => ({ folder: true, bytes: bytesOfJson(form) }));
  return [...keys, ...folders].sort((a, b) => compareBytes(a.bytes, b.bytes));
}

function compareBytes(a, b) {
  for (let at = 0; at < a.length && at < b.length; at++) if (a[at] !== b[at]) return a[at] - b[at];
  return a.length - b.length;
}

function showPage(page) {
  const entries = entriesOf(page);
  byId("rows").replaceChildren(...rowsOf(entries, listing.prefix, 0, page.revision));
  byId("listing").hidden = !entries.length;
  const where = t(listing.next ? "list.where" : "list.where.last", { page: listing.before.length + 1, revision: page.revision });
  const count = { keys: number(page.items.length), folders: number(entries.length - page.items.length), where };
  const told = entries.length === 0 ? "list.none" : page.prefixes?.length ? "list.both" : "list.keys";
  byId("list-state").textContent = t(told, count);
  byId("first").disabled = !listing.before.length;
  byId("previous").disabled = !listing.before.length;
  byId("next").disabled = !listing.next;
  showPath();
}

function rowsOf(entries, prefix, depth, revision) {
  return entries.map((each) => (each.folder ? folderRow(each.bytes, prefix, depth, revision) : keyRow(each, prefix, depth)));
}

// A name in its folder: what is above it is shown dim, and only on the first level.
function nameOf(bytes, prefix, depth) {
  const made = document.createDocumentFragment();
  if (textOf(bytes) === null || textOf(prefix) === null || !prefix.length) {
    made.append(visibleBytes(depth && textOf(bytes) !== null ? bytes.subarray(prefix.length) : bytes));
    return made;
  }
  if (depth === 0) {
    const above = element("span", undefined, "above");
    above.append(visible(textOf(prefix)));
    made.append(above);
  }
  made.append(visibleBytes(bytes.subarray(prefix.length)));
  return made;
}

function rowWith(bytes, prefix, depth) {
  const row = element("tr");
  row.dataset.key = base64Of(bytes);
  const first = element("td");
  first.dataset.depth = String(Math.min(depth, 8));
  const button = element("button");
  button.type = "button";
  button.append(nameOf(bytes, prefix, depth));
  first.append(button);
  row.append(first);
  return { row, button };
}

function keyRow({ item, bytes }, prefix, depth) {
  const { row, button } = rowWith(bytes, prefix, depth);
  if (depth) button.setAttribute("aria-label", typed(bytes));
  button.addEventListener("click", () => {
    if (!busy()) openKey(bytes); // what comes back belongs to the key that is in the field
  });
  const preview = element("td", undefined, "preview");
  if (item.expires_ms) preview.append(element("span", t("list.expires"), "badge"), " ");
  preview.append(previewOf(item.value));
  row.append(element("td", String(item.revision), "number"), preview);
  return row;
}

function folderRow(bytes, prefix, depth, revision) {
  const { row, button } = rowWith(bytes, prefix, depth);
  row.classList.add("folder");
  row.dataset.key = `folder ${row.dataset.key}`;
  button.setAttribute("aria-label", typed(bytes));
  button.setAttribute("aria-expanded", "false");
  button.addEventListener("click", () => toggle(row, button, bytes, depth, revision));
  const open = element("a", t("list.open"));
  open.href = `#keys/in/${inAddress(bytes)}`;
  open.setAttribute("aria-label", t("list.open.of", { folder: typed(bytes) }));
  const last = element("td", undefined, "preview");
  last.append(open);
  row.append(element("td", "", "number"), last);
  return row;
}

// Show what is in a folder below it, or hide it again.
async function toggle(row, button, bytes, depth, revision) {
  if (button.getAttribute("aria-expanded") === "true") {
    button.setAttribute("aria-expanded", "false");
    fold(row, depth);
    return;
  }
  button.setAttribute("aria-expanded", "true");
  await unfold(row, row, bytes, depth, revision, null);
}

function fold(row, depth) {
  while (row.nextElementSibling !== null && Number(row.nextElementSibling.dataset.level ?? 0) > depth) row.nextElementSibling.remove();
}

// Put a page of what is in a folder behind a row, as of the revision that the whole tree shows.
async function unfold(row, behind, bytes, depth, revision, token) {
  const asked = listing.asked;
  try {
    const page = jsonOf(await ask("GET", query(bytes, token, FOLDER_PAGE, revision)));
    const button = row.querySelector("button");
    if (asked !== listing.asked || button.getAttribute("aria-expanded") !== "true") return;
    const rows = rowsOf(entriesOf(page), bytes, depth + 1, revision);
    if (page.continue) rows.push(moreRow(row, bytes, depth, revision, page.continue));
    for (const each of rows) each.dataset.level = String(depth + 1);
    behind.after(...rows);
    if (behind !== row) behind.remove();
  } catch (problem) {
    if (!(problem instanceof Problem) || asked !== listing.asked) return;
    row.querySelector("button").setAttribute("aria-expanded", "false");
    showProblem(byId("list-problem"), problem, [[t("list.restart"), () => list(null, [])]]);
  }
}

function moreRow(row, bytes, depth, revision, token) {
  const made = element("tr");
  const cell = element("td");
  cell.colSpan = 3;
  cell.dataset.depth = String(Math.min(depth + 1, 8));
  const button = element("button", t("do.more"));
  button.type = "button";
  button.addEventListener("click", () => unfold(row, made, bytes, depth, revision, token), { once: true });
  cell.append(button);
  made.append(cell);
  return made;
}

function previewOf(form) {
  if (form === undefined || form === null) return "";
  if (typeof form === "string") return visible(form.length > PREVIEW_CHARS ? form.slice(0, PREVIEW_CHARS) + "…" : form);
  const made = document.createDocumentFragment();
  made.append(element("span", "base64", "escape"), ` ${form.base64.slice(0, PREVIEW_CHARS)}`);
  return made;
}

// The folders above what is listed, each a link.
function showPath() {
  const links = [linkTo(NOTHING, t("list.all"))];
  const at = listing.separator ? bytesTyped(listing.separator) : NOTHING;
  for (let end = next(listing.prefix, at, 0); at.length && end > 0; end = next(listing.prefix, at, end)) {
    const from = links.length > 1 ? links.at(-1).end : 0;
    links.push(linkTo(listing.prefix.subarray(0, end), typed(listing.prefix.subarray(from, end)), end));
  }
  links.at(-1).link.setAttribute("aria-current", "true");
  byId("path").replaceChildren(...links.map((each) => each.link));
}

function linkTo(bytes, name, end = 0) {
  const link = element("a", name);
  link.href = `#keys/in/${inAddress(bytes)}`;
  return { link, end };
}

// Where the next separator behind `from` ends, or 0.
function next(bytes, at, from) {
  for (let place = from; place + at.length <= bytes.length; place++) {
    if (at.every((byte, n) => bytes[place + n] === byte)) return place + at.length;
  }
  return 0;
}

function parentOf(bytes) {
  const at = listing.separator ? bytesTyped(listing.separator) : NOTHING;
  let end = 0;
  for (let found = at.length && next(bytes, at, 0); found > 0 && found < bytes.length; found = next(bytes, at, found)) end = found;
  return bytes.subarray(0, end);
}

// ------------------------------------------------------------------------------------------------ addresses

// Slashes and colons stay as they are, so that an address can be read.
function inAddress(bytes) {
  return percent(bytes).replaceAll("%2F", "/").replaceAll("%3A", ":").replaceAll("%2E", ".");
}

function bytesInAddress(text) {
  const bytes = [];
  for (const part of text.match(/%[0-9a-f]{2}|[^%]/giu) ?? []) {
    if (part.startsWith("%")) bytes.push(parseInt(part.slice(1), 16));
    else bytes.push(...new TextEncoder().encode(part));
  }
  return Uint8Array.from(bytes);
}

function goTo(kind, bytes) {
  const address = `#keys/${kind}/${inAddress(bytes)}`;
  if (location.hash !== address) history.pushState(null, "", address);
}

function openKey(bytes) {
  goTo("key", bytes);
  key.bytes = bytes;
  leaveFormer();
  showGuard();
  byId("key-title").scrollIntoView({ block: "nearest" });
  act(getKey);
}

function listIn(prefix) {
  listing.prefix = prefix;
  byId("prefix").value = typed(prefix);
  return list(null, []);
}

// What the address names is shown; without a name, what is there is listed when somebody first looks.
whenShown("keys", (rest) => {
  const slash = rest.indexOf("/");
  const [kind, named] = [rest.slice(0, slash), bytesInAddress(rest.slice(slash + 1))];
  if (kind === "key" && named.length) {
    if (!listing.listed) listIn(parentOf(named));
    if (!busy()) openKey(named);
  } else if (kind === "in") listIn(named);
  else if (!listing.listed) list(null, []);
});

byId("list-form").addEventListener("submit", (event) => {
  event.preventDefault();
  const prefix = bytesTyped(byId("prefix").value);
  const separator = bytesTyped(byId("separator").value);
  if (prefix === null || separator === null) {
    showProblem(byId("list-problem"), new Problem({ title: t("list.base64"), advice: t("bytes.fix") }));
    return;
  }
  Object.assign(listing, { prefix, separator: byId("separator").value, limit: byId("limit").value });
  goTo("in", prefix);
  list(null, []);
});
for (const id of ["limit", "separator"]) byId(id).addEventListener("change", () => byId("list-form").requestSubmit());
byId("first").addEventListener("click", () => list(null, []));
byId("previous").addEventListener("click", () => list(listing.before.at(-1), listing.before.slice(0, -1)));
byId("next").addEventListener("click", () => list(listing.next, [...listing.before, listing.at]));
byId("new-key").addEventListener("click", () => {
  if (busy()) return;
  key.bytes = listing.prefix;
  leaveFormer();
  showGuard();
  byId("key").focus();
});
// What somebody wrote here is shown in the tree too, unless its pages or folders were opened: they show one revision.
document.addEventListener("acordo:written", () => {
  const untouched = listing.listed && !listing.before.length && !byId("rows").querySelector("[aria-expanded=true]");
  if (untouched) list(null, []);
});
