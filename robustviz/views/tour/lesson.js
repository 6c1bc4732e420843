// The lesson: one step at a time; the answer is shown after a guess. Guesses stay on this device.
const find = (what) => document.querySelector(what);
const KEY = `robustviz-lesson-${id}`;  // all HTML files opened from disk share one localStorage
let guesses = lesson.map(() => null), at = 0;
try {
  const kept = JSON.parse(localStorage.getItem(KEY));
  if (Array.isArray(kept) && kept.length === lesson.length) {
    guesses = kept.map((one, step) => (Number.isInteger(one) && one >= 0 && one < lesson[step].options.length ? one : null));
  }
} catch { /* a browser may forbid localStorage, e.g. for a file on a memory stick */ }

const steps = lesson.map((step, number) => {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: `${number + 1} ${step.title}` });
  button.onclick = () => go(number);
  return button;
});
const last = Object.assign(document.createElement("button"), { type: "button", textContent: "Your answers" });
last.onclick = () => go(lesson.length);
find("nav").append(...steps, last);

function score() {
  const made = lesson.filter((_, step) => guesses[step] !== null).length;
  const right = lesson.filter((one, step) => guesses[step] === one.right).length;
  return made ? `${right} of ${made} guesses right` : "";
}

function go(number, focus = true) {
  at = number;
  try { history.replaceState(null, "", `#${at + 1}`); } catch { /* a viewer without addresses begins again at step 1 */ }
  const done = at === lesson.length;
  [...steps, last].forEach((button, place) => (place === at ? button.setAttribute("aria-current", "step") : button.removeAttribute("aria-current")));
  find(".step").hidden = done;
  find(".end").hidden = !done;
  find(".again").hidden = guesses.every((one) => one === null);
  if (done) end();
  else draw(true);
  find(".score").textContent = score();
  if (focus) find(done ? ".end h2" : ".step h2").focus();
}

function end() {
  find(".sum").textContent = `${score() || "No guess yet"}. ${lesson.length} steps.`;
  find(".answers").replaceChildren(...lesson.map((step, place) => {
    const guess = guesses[place], said = guess === null ? "" : ` You said ${step.options[guess]}. ${guess === step.right ? "Yes." : "No."} ${step.told}`;
    return Object.assign(document.createElement("li"), { textContent: step.question + said });
  }));
}

function draw(fresh) {
  const step = lesson[at], guess = guesses[at], open = guess === null;
  find(".step h2").textContent = `${at + 1}. ${step.title}`;
  find(".intro").textContent = step.intro;
  find("legend").textContent = step.question;
  find(".options").replaceChildren(...step.options.map((text, place) => {
    const label = document.createElement("label"), radio = document.createElement("input");
    Object.assign(radio, { type: "radio", name: "guess", value: place, disabled: !open, checked: guess === place, required: true });
    label.append(radio, Object.assign(document.createElement("span"), { textContent: text, className: !open && place === step.right ? "right" : "" }));
    return label;
  }));
  find("form button").hidden = !open;
  find(".next").hidden = open;
  find(".next").textContent = at + 1 === lesson.length ? "Your answers" : "Next step";
  find(".told").textContent = open ? "" : `${guess === step.right ? "Yes." : "No."} ${step.told}`;
  if (fresh) find(".here").innerHTML = body;
  const screen = (open && step.before) || step.screen;
  const control = open || step.reveals === null ? screen.control : { ...screen.control, start: step.reveals };
  mount({ data: { ...screen, control, asking: open && step.hides }, parentElement: find(".here"), setStateValue() {}, setTriggerValue() {} });
}

find("form").onsubmit = (event) => {
  event.preventDefault();
  guesses[at] = Number(new FormData(event.target).get("guess"));
  try { localStorage.setItem(KEY, JSON.stringify(guesses)); } catch { /* as above */ }
  draw(false);
  find(".score").textContent = score();
  find(".next").focus();
};
find(".next").onclick = () => go(at + 1);
find(".save").onclick = () => {
  const cell = (text) => `"${String(text).replaceAll('"', '""').replace(/^[=+@-]/, "'$&")}"`;
  const rows = [["name", "step", "question", "guess", "measured", "right"], ...lesson.map((step, place) => [
    find(".who").value, place + 1, step.question, step.options[guesses[place]] ?? "", step.options[step.right],
    guesses[place] == null ? "" : Number(guesses[place] === step.right),
  ])];
  // the byte order mark at the beginning makes spreadsheets read the file as UTF-8
  const text = "\ufeff" + rows.map((row) => row.map(cell).join(",")).join("\r\n") + "\r\n";
  const name = ["answers", ...(find(".who").value.match(/[\p{L}\p{N}]+/gu) ?? [])].join("-");
  const link = document.createElement("a");
  Object.assign(link, { href: URL.createObjectURL(new Blob([text], { type: "text/csv" })), download: `${name}.csv` });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);  // not at once: some browsers read it later
};
find(".again").onclick = () => {
  guesses = lesson.map(() => null);
  find(".who").value = "";
  try { localStorage.removeItem(KEY); } catch { /* as above */ }
  go(0);
};
go(Math.min(Math.max(parseInt(location.hash.slice(1)) || 1, 1), lesson.length + 1) - 1, false);  // where a reload left it
