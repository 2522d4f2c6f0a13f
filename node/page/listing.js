// Listing keys by prefix, page by page at one revision.
import { ask, element, hide, jsonOf, showProblem } from "./asking.js";
import { base64Of, byId, bytesOfJson, visible, visibleBytes } from "./bytes.js";
import { act, busy, getKey, key, leaveFormer, showGuard } from "./keys.js";

const PREVIEW_CHARS = 80;

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
    const button = element("button");
    button.append(visibleBytes(bytes));
    button.type = "button";
    button.addEventListener("click", () => {
      if (busy()) return; // what comes back belongs to the key that is in the field
      key.bytes = bytes;
      leaveFormer();
      showGuard();
      byId("key-title").scrollIntoView({ block: "nearest" });
      act(getKey);
    });
    const first = element("td");
    first.append(button);
    const preview = element("td", undefined, "preview");
    if (item.expires_ms) preview.append(element("span", "expires", "badge"), " ");
    preview.append(previewOf(item.value));
    row.append(first, element("td", String(item.revision), "number"), preview);
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
  if (typeof form === "string") return visible(form.length > PREVIEW_CHARS ? form.slice(0, PREVIEW_CHARS) + "…" : form);
  const made = document.createDocumentFragment();
  made.append(element("span", "base64", "escape"), ` ${form.base64.slice(0, PREVIEW_CHARS)}`);
  return made;
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
