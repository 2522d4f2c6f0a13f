// Tabs, which the address's fragment names: #keys, or with what to open there #keys/orders%2F17.
const openers = new Map();

// Call `opened(rest, asked)` whenever the tab of that name comes to be shown; `rest` is what follows it in the fragment.
export function whenShown(name, opened) {
  openers.set(name, opened);
}

// Return the name of the tab that the fragment names, and the rest of it. The first tab is the one without a name.
export function placeIn(hash, names) {
  const text = hash.replace(/^#/, "");
  const slash = text.indexOf("/");
  const name = slash < 0 ? text : text.slice(0, slash);
  if (!names.includes(name)) return { name: names[0], rest: "" };
  return { name, rest: slash < 0 ? "" : text.slice(slash + 1) };
}

export function showTab() {
  const panels = [...document.querySelectorAll("main > .panel")];
  const names = panels.map((panel) => panel.id.replace("panel-", ""));
  const { name, rest } = placeIn(location.hash, names);
  for (const panel of panels) panel.hidden = panel.id !== `panel-${name}`;
  for (const link of document.querySelectorAll("#tabs a")) {
    const here = link.getAttribute("href") === `#${name}`;
    if (here) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  openers.get(name)?.(rest);
}

// The tab that is shown now.
export const shownTab = () => document.querySelector("main > .panel:not([hidden])")?.id.replace("panel-", "");

addEventListener("hashchange", showTab);
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the fragment names the tab
  document.getElementById("main").focus();
});
