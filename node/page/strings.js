// What the page says, in the language that the browser asks for: English or Portuguese.
const tables = { en: new Map(), pt: new Map() };

const KEPT_AS = "acordo.language";

function chosen() {
  try {
    return localStorage.getItem(KEPT_AS);
  } catch {
    return null; // storage may be forbidden
  }
}

export const language = (chosen() || navigator.language || "en").toLowerCase().startsWith("pt") ? "pt" : "en";

// Show the page in another language from now on, also when it is opened again.
export function chooseLanguage(of) {
  localStorage.setItem(KEPT_AS, of);
  location.reload();
}

// Add texts of one part of the page. A text may hold {names}, which `t` fills in.
export function addStrings(of, texts) {
  for (const [id, text] of Object.entries(texts)) tables[of].set(id, text);
}

// Return the text of that id, in English where it has no translation; an unknown id is returned as it is.
export function t(id, values = {}) {
  const text = tables[language].get(id) ?? tables.en.get(id) ?? id;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? String(values[name]) : whole));
}

// Fill every element below `root` that names its text (data-t), placeholder (data-t-placeholder) or label (data-t-label).
export function translate(root = document) {
  for (const each of root.querySelectorAll("[data-t]")) each.textContent = t(each.dataset.t);
  for (const each of root.querySelectorAll("[data-t-placeholder]")) each.placeholder = t(each.dataset.tPlaceholder);
  for (const each of root.querySelectorAll("[data-t-label]")) each.setAttribute("aria-label", t(each.dataset.tLabel));
}

export const number = (value) => value.toLocaleString(language === "pt" ? "pt-BR" : "en");
