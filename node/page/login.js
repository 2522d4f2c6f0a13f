// Signing in and out. The token is sent once, in a header; what the browser keeps of it no script can read.
import { ask, element, hide, jsonOf, Problem, showProblem } from "./asking.js";
import { addStrings, t } from "./strings.js";

addStrings("en", {
  "login.title": "Sign in",
  "login.why": "Access to this cluster is controlled.",
  "login.token": "Token",
  "login.do": "Sign in",
  "login.as": "signed in as {who}",
  "login.out": "Sign out",
});
addStrings("pt", {
  "login.title": "Entrar",
  "login.why": "O acesso a este cluster é controlado.",
  "login.token": "Token",
  "login.do": "Entrar",
  "login.as": "conectado como {who}",
  "login.out": "Sair",
});

// Ask who is signed in: show who, or the form. Without access control, and at older nodes, show nothing.
export async function showWho() {
  const answer = await ask("GET", "/v1/access", { also: [401, 404] }).catch((error) => {
    if (error instanceof Problem) return null; // the rest of the page says that the node is silent
    throw error;
  });
  if (answer === null || answer.status === 404) return;
  if (answer.status === 401) return showForm();
  const { on, principal } = jsonOf(answer);
  if (on && principal !== null) showSignedIn(principal);
}

function showForm() {
  if (document.getElementById("login")) return;
  const form = element("form");
  form.id = "login";
  form.setAttribute("aria-label", t("login.title"));
  const field = element("input");
  Object.assign(field, { id: "login-token", type: "password", autocomplete: "off", required: true, spellcheck: false });
  const label = element("label", t("login.token"));
  label.htmlFor = field.id;
  const button = element("button", t("login.do"));
  button.type = "submit";
  const trouble = element("div", undefined, "problem");
  trouble.id = "login-problem";
  trouble.setAttribute("role", "alert");
  trouble.hidden = true;
  const row = element("div", undefined, "row");
  row.append(field, button);
  form.append(element("h2", t("login.title")), element("p", t("login.why"), "quiet"), label, row, trouble);
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    signIn(field, trouble);
  });
  document.querySelector("main").prepend(form);
  field.focus();
}

async function signIn(field, trouble) {
  hide(trouble);
  const text = field.value.trim();
  try {
    if (!/^[\x21-\x7e]+$/.test(text)) throw new Problem({ title: t("login.token"), detail: "acordo_…", advice: "" });
    await ask("POST", "/v1/session", { headers: { Authorization: `Bearer ${text}` } });
  } catch (error) {
    showProblem(trouble, error);
    field.select();
    return;
  }
  field.value = "";
  location.reload();
}

function showSignedIn(who) {
  const line = element("p", undefined, "quiet");
  line.id = "signed-in";
  const button = element("button", t("login.out"), "plain");
  button.type = "button";
  button.id = "sign-out";
  button.addEventListener("click", async () => {
    try {
      await ask("DELETE", "/v1/session");
    } catch (error) {
      if (!(error instanceof Problem)) throw error;
      button.textContent = error.message;
      return;
    }
    location.reload();
  });
  line.append(element("span", t("login.as", { who })), " ", button);
  document.querySelector("header").append(line);
}

showWho();
