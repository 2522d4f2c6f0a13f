// Buttons that disturb members, where a local runner lets people of its machine do so: kill, take down, pause, cut off,
// make leader, heal; and what a class may try, with what to look at.
import { ask, element, jsonOf, showProblem, hide, Problem } from "./asking.js";
import { byId } from "./bytes.js";
import { onCard } from "./cluster.js";
import { live, members, onRound, stateOf } from "./live.js";
import { switchTo } from "./probe.js";
import { addStrings, t } from "./strings.js";

const LOOK_MS = 1000;
const PATIENCE_MS = 4000;

addStrings("en", {
  "try.title": "Try this",
  "try.about": "This cluster runs on your machine, so you may disturb it. The page measures with writes of its own how long nobody could write.",
  "try.do": "Do it",
  "try.undo": "Heal all members",
  "try.kill": "Kill the leader",
  "try.kill.see": "Another member stands for election within a moment. Watch how long writes stop, and that nothing acknowledged is lost.",
  "try.pause": "Pause the leader",
  "try.pause.see": "It looks alive to itself, but nobody hears it: another one leads in a higher term. Heal it, and it follows.",
  "try.follower": "Take one follower down",
  "try.follower.see": "Two of three are a majority: writes go on, and hardly slower.",
  "try.majority": "Take two members down",
  "try.majority.see": "No majority, so no write is acknowledged: they wait. Heal them, and the writes that waited are done, once each.",
  "try.transfer": "Hand the leadership over",
  "try.transfer.see": "A planned change: compare how long writes stop with a kill.",
  "try.cut": "Cut the leader off",
  "try.cut.see": "It still leads in its own eyes, and can confirm nothing. The others elect one that can.",
  "try.cut.how": "The links between members can be cut in a cluster started with --relay-links true.",
  "act.kill": "Kill",
  "act.stop": "Take down",
  "act.pause": "Pause",
  "act.cut": "Cut off",
  "act.heal": "Heal",
  "act.transfer": "Make leader",
  "act.label": "{act}: {id}",
  "act.down": "down",
  "act.paused": "paused",
  "act.iscut": "cut off",
  "act.silent": "The runner does not answer",
});
addStrings("pt", {
  "try.title": "Experimente",
  "try.about": "Este cluster roda na sua máquina, então você pode perturbá-lo. A página mede com escritas próprias por quanto tempo ninguém pôde escrever.",
  "try.do": "Fazer",
  "try.undo": "Curar todos os membros",
  "try.kill": "Derrube o líder",
  "try.kill.see": "Outro membro se candidata logo. Veja por quanto tempo as escritas param, e que nada confirmado se perde.",
  "try.pause": "Pause o líder",
  "try.pause.see": "Ele se acha vivo, mas ninguém o ouve: outro lidera em um termo maior. Cure-o, e ele segue.",
  "try.follower": "Desligue um seguidor",
  "try.follower.see": "Dois de três são maioria: as escritas continuam, quase tão rápidas.",
  "try.majority": "Desligue dois membros",
  "try.majority.see": "Sem maioria nenhuma escrita é confirmada: elas esperam. Cure-os, e as escritas que esperavam são feitas, cada uma uma vez.",
  "try.transfer": "Passe a liderança",
  "try.transfer.see": "Uma troca planejada: compare o tempo de parada com o de uma queda.",
  "try.cut": "Isole o líder",
  "try.cut.see": "Ele ainda lidera aos próprios olhos, e nada pode confirmar. Os outros elegem um que pode.",
  "try.cut.how": "As ligações entre membros podem ser cortadas em um cluster iniciado com --relay-links true.",
  "act.kill": "Derrubar",
  "act.stop": "Desligar",
  "act.pause": "Pausar",
  "act.cut": "Isolar",
  "act.heal": "Curar",
  "act.transfer": "Tornar líder",
  "act.label": "{act}: {id}",
  "act.down": "desligado",
  "act.paused": "pausado",
  "act.iscut": "isolado",
  "act.silent": "O executor não responde",
});

const runner = { port: null, asked: false, members: new Map(), links: false, lookedAt: 0 };

async function toRunner(method, path) {
  const { url, token } = runner.port;
  let answer;
  let told;
  try {
    const signal = AbortSignal.timeout(PATIENCE_MS);
    answer = await fetch(url + path, { method, signal, headers: { Authorization: `Bearer ${token}` }, cache: "no-store" });
    told = await answer.json();
  } catch {
    throw new Problem({ title: t("act.silent") });
  }
  if (!answer.ok) throw new Problem({ title: told.detail ?? `HTTP ${answer.status}`, outcome: told.outcome }, answer.status);
  return told;
}

// Ask once whether there is a runner; a node says in its figures whether it knows of one.
async function find() {
  const own = members.get(live.home)?.samples.at(-1);
  if (runner.asked || !own?.control) return;
  runner.asked = true;
  try {
    runner.port = jsonOf(await ask("GET", "/v1/control"));
    byId("try").hidden = false;
    await look();
  } catch { /* this browser is on another machine, or whoever signed in is no admin */ }
}

async function look() {
  runner.lookedAt = performance.now();
  try {
    const found = await toRunner("GET", "/v1/members");
    runner.links = found.links;
    runner.members = new Map(found.members.map((each) => [each.id, each]));
    for (const button of document.querySelectorAll("[data-try=cut]")) {
      button.disabled = !runner.links;
      button.title = runner.links ? "" : t("try.cut.how");
    }
  } catch {
    runner.members.clear();
  }
}

async function act(id, action) {
  const box = byId("try-problem");
  hide(box);
  switchTo(true);
  try {
    if (action === "transfer") {
      await ask("POST", "/v1/cluster/transfer", { headers: { "Content-Type": "application/json" }, body: JSON.stringify({ to: id }), mutation: true });
    } else {
      await toRunner("POST", `/v1/members/${encodeURIComponent(id)}/${action}`);
    }
    await look();
  } catch (problem) {
    showProblem(box, problem);
  }
}

const leaderNow = () => [...members.values()].find((each) => each.samples.at(-1)?.role === "leader" && stateOf(each) === "alive")?.id;
const followers = () => [...members.keys()].filter((id) => id !== leaderNow() && !disturbed(id)).sort((a, b) => (a === live.home) - (b === live.home));
const disturbed = (id) => {
  const known = runner.members.get(id);
  return Boolean(known && (known.down || known.paused || known.cut));
};

// What may be tried: [id, what to do]. Members other than this page's own are taken down first, so that it goes on looking.
const EXPERIMENTS = [
  ["kill", () => act("leader", "kill")],
  ["transfer", () => { const to = followers()[0]; return to && act(to, "transfer"); }],
  ["pause", () => act("leader", "pause")],
  ["follower", () => { const one = followers()[0]; return one && act(one, "stop"); }],
  ["majority", async () => {
    const all = [...followers(), leaderNow()].filter((id) => id && id !== live.home);
    for (const id of all.slice(0, Math.ceil(members.size / 2))) await act(id, "stop");
  }],
  ["cut", () => act("leader", "cut")],
];

function build() {
  const list = byId("try-list");
  for (const [id, run] of EXPERIMENTS) {
    const item = element("li");
    const text = element("div");
    text.append(element("strong", t(`try.${id}`)), element("p", t(`try.${id}.see`), "quiet"));
    const button = element("button", t("try.do"), "plain");
    button.type = "button";
    button.dataset.try = id;
    button.setAttribute("aria-label", t("act.label", { act: t("try.do"), id: t(`try.${id}`) }));
    button.addEventListener("click", run);
    item.append(text, button);
    list.append(item);
  }
  byId("try-heal").addEventListener("click", async () => {
    for (const id of runner.members.keys()) await act(id, "heal");
  });
}

const BUTTONS = ["kill", "stop", "pause", "cut", "transfer"];

onCard((card, member, state) => {
  const known = runner.members.get(member.id);
  if (!runner.port || !known) return;
  const row = element("div", undefined, "acts");
  const marks = [known.down && "down", known.paused && "paused", known.cut && "iscut"].filter(Boolean);
  for (const mark of marks) row.append(element("span", t(`act.${mark}`), "badge cut"));
  const leads = leaderNow() === member.id;
  for (const action of marks.length ? ["heal"] : BUTTONS) {
    if ((action === "cut" && !runner.links) || (action === "transfer" && (leads || state !== "alive" || member.voter === false))) continue;
    const button = element("button", t(`act.${action}`), action === "heal" ? "small" : "small plain");
    button.type = "button";
    button.dataset.act = action;
    button.setAttribute("aria-label", t("act.label", { act: t(`act.${action}`), id: member.id }));
    button.addEventListener("click", () => act(member.id, action));
    row.append(button);
  }
  card.append(row);
});

onRound((now) => {
  find();
  if (runner.port && now - runner.lookedAt > LOOK_MS) look();
});
build();
