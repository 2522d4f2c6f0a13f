// Bytes and the ways they are shown and edited: what a form control cannot hold byte for byte is edited as base64.
import { Problem, element } from "./asking.js";
import { hexOf, bytesOfHex, prettyJson } from "./forms.js";
import { t } from "./strings.js";

export const byId = (id) => document.getElementById(id);

export const encoder = new TextEncoder();

export function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return null;
  }
}

export function base64Of(bytes) {
  let text = "";
  for (let at = 0; at < bytes.length; at += 8192) text += String.fromCharCode(...bytes.subarray(at, at + 8192));
  return btoa(text);
}

export function bytesOfBase64(text) {
  try {
    return Uint8Array.from(atob(text.trim()), (ch) => ch.charCodeAt(0));
  } catch {
    return null;
  }
}

// A JSON key or value is a string, or {"base64": …}.
export function bytesOfJson(form) {
  return typeof form === "string" ? encoder.encode(form) : bytesOfBase64(form.base64);
}

export function percent(bytes) {
  let path = "";
  for (const byte of bytes) {
    const ch = String.fromCharCode(byte);
    path += /[A-Za-z0-9_~-]/.test(ch) ? ch : "%" + byte.toString(16).toUpperCase().padStart(2, "0");
  }
  return path;
}

// Characters that show nothing or change how others are shown: controls, ends of lines, direction, invisible ones.
const HIDDEN = /[\p{Cc}\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff]/u;
const IN_A_LINE = /[^\n\t]/u;

// Return text as nodes that show every character: a hidden one as its escape, marked so that no plain text looks alike.
export function visible(text) {
  const made = document.createDocumentFragment();
  let plain = "";
  const flush = () => {
    if (plain) made.append(plain);
    plain = "";
  };
  for (const ch of text) {
    if (!HIDDEN.test(ch)) {
      plain += ch;
      continue;
    }
    flush();
    const short = { "\n": "\\n", "\r": "\\r", "\t": "\\t" }[ch];
    made.append(element("span", short ?? `\\u{${ch.codePointAt(0).toString(16)}}`, "escape"));
  }
  flush();
  return made;
}

// Return bytes as nodes: text with its hidden characters visible, else base64 that says so.
export function visibleBytes(bytes) {
  const text = textOf(bytes);
  if (text !== null) return visible(text);
  const made = document.createDocumentFragment();
  made.append(element("span", "base64", "escape"), ` ${base64Of(bytes)}`);
  return made;
}

// How a key or prefix is written in one line: as it is or, where that would not show all of it, as base64:…
export function typed(bytes) {
  const text = textOf(bytes);
  const plain = text !== null && !text.startsWith("base64:") && ![...text].some((ch) => HIDDEN.test(ch));
  return plain ? text : `base64:${base64Of(bytes)}`;
}

// The bytes of a line that somebody typed, or null if it is not base64 after base64:.
export function bytesTyped(line) {
  return line.startsWith("base64:") ? bytesOfBase64(line.slice(7)) : encoder.encode(line);
}

// The JSON form of bytes: a string if they are UTF-8.
export function jsonForm(bytes) {
  return textOf(bytes) ?? { base64: base64Of(bytes) };
}

// The ways to write bytes: each returns text, or null for what cannot be written so; and reads text, null if it is none.
const FORMS = {
  text: { write: textOf, parse: (text) => encoder.encode(text), plain: true },
  json: {
    write: (bytes) => prettyJson(textOf(bytes) ?? ""),
    parse: (text) => (prettyJson(text) === null ? null : encoder.encode(text)),
    plain: true,
  },
  hex: { write: hexOf, parse: bytesOfHex },
  base64: { write: base64Of, parse: bytesOfBase64 },
};

// A field whose content is written in one of these ways. What was put in comes out as it was, unless somebody changed it.
export class BytesField {
  // `what`: key or value; `refused` is told why the way of writing it cannot change.
  constructor(input, formOf, what, refused) {
    this.input = input;
    this.formOf = formOf;
    this.what = what;
    this.refused = refused;
    this.loaded = null;
    this.chosen = "text";
    formOf.addEventListener("change", () => this.rewrite());
    this.form = formOf.value;
  }

  // Say whether the control holds this text byte for byte, and shows all of it.
  holds(text) {
    const probe = this.input.cloneNode();
    probe.value = text;
    const lines = this.input.tagName === "TEXTAREA";
    return probe.value === text && ![...text].some((ch) => HIDDEN.test(ch) && (!lines || IN_A_LINE.test(ch)));
  }

  // The bytes as text of that form, or null if the control could not hold or show all of it.
  written(bytes, form) {
    const text = FORMS[form].write(bytes);
    return text === null || (FORMS[form].plain && !this.holds(text)) ? null : text;
  }

  // Keep the bytes when the way of writing them changes, if they can be written so.
  rewrite() {
    const wanted = this.formOf.value;
    const { edited } = this;
    const bytes = this.parsed();
    const text = bytes && this.written(bytes, wanted);
    if (text === null) {
      this.formOf.value = this.form;
      this.refused(t(`bytes.refused.${wanted}.${this.what}`));
      return;
    }
    this.form = this.chosen = wanted;
    this.show(bytes, text, edited);
  }

  // `edited`: they are not what was put in any more.
  show(bytes, text, edited = false) {
    this.input.value = text;
    this.loaded = { bytes, shown: this.input.value, form: this.form, edited };
  }

  get touched() {
    const { loaded } = this;
    return loaded === null ? this.input.value !== "" : this.input.value !== loaded.shown || this.form !== loaded.form;
  }

  get edited() {
    return this.touched || (this.loaded?.edited ?? false);
  }

  parsed() {
    return this.loaded !== null && !this.touched ? this.loaded.bytes : FORMS[this.form].parse(this.input.value);
  }

  get bytes() {
    const bytes = this.parsed();
    if (bytes === null) throw new Problem({ title: t(`bytes.not.${this.form}.${this.what}`), advice: t("bytes.fix") });
    return bytes;
  }

  // The form that somebody chose last is kept where it can show them, else it is text, else base64.
  set bytes(bytes) {
    const wished = ["json", "hex"].includes(this.chosen) ? [this.chosen, "text"] : ["text"];
    this.form = wished.find((form) => this.written(bytes, form) !== null) ?? "base64";
    this.formOf.value = this.form;
    this.show(bytes, FORMS[this.form].write(bytes));
  }

  clear() {
    this.form = this.formOf.value = "text";
    this.input.value = "";
    this.loaded = null;
  }
}
