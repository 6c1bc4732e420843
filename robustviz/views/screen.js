// Shows a screen (robustviz/views/screen.py). Streamlit calls this again with new data after every
// rerun, on the same elements, so state that must survive is stored on the section element. The
// slider keeps its position, unless Python gives another start position.
export default function mount({ data, parentElement, setStateValue, setTriggerValue }) {
  const root = parentElement.querySelector(".screen");
  const find = (what) => root.querySelector(what);
  const my = (root.my ??= { at: 0, start: null, timer: 0, revealed: false });
  my.data = data;
  for (const [name, colour] of Object.entries(data.colours)) root.style.setProperty(`--${name}`, colour);

  const { control } = data, range = find("input");
  find(".control").hidden = !control;
  if (control) {
    find(".label").textContent = control.label;
    range.title = control.help;
    range.max = control.values.length - 1;
    if (my.start !== control.start || my.count !== control.values.length) {
      my.start = control.start;
      my.count = control.values.length;
      my.at = control.start;
    }
    range.value = my.at;
  } else {
    my.at = 0;
  }

  if (my.picture !== data.picture) {
    my.picture = data.picture;
    find(".picture").innerHTML = data.picture;
    my.moving = [...find(".picture").querySelectorAll("[data-move]")].map((one) => [one, one.dataset.move.split(" ")]);
  }
  find(".picture").setAttribute("aria-label", data.alt);
  const sure = find(".sure > div"), list = document.createElement("ul");
  list.append(...data.sure.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
  sure.replaceChildren(list);
  find(".sure").hidden = !data.sure.length;

  if (my.question !== data.question) my.revealed = false;
  my.question = data.question;
  const asking = data.asking ?? (Boolean(data.present) && !my.revealed);
  root.classList.toggle("asking", asking);
  root.classList.toggle("hidden", Boolean(data.asking));
  root.classList.toggle("presenting", Boolean(data.present));
  find(".reveal").hidden = !asking || data.asking !== undefined;

  function draw() {
    const now = my.data, pick = (values) => values[Math.min(my.at, values.length - 1)];
    const last = now.control ? now.control.values.length - 1 : 0;
    root.style.setProperty("--at", last ? my.at / last : 0);
    if (now.control) {
      const said = now.control.values[my.at] + now.control.unit;
      find("output").textContent = said;
      range.setAttribute("aria-valuetext", said);
    }
    const answer = pick(now.answer) ?? "";
    if (find(".answer").textContent !== answer) find(".answer").textContent = answer;
    for (const [one, names] of my.moving) {
      for (const name of names) {
        if (!now.moves[name]) continue;
        const [kind, values] = now.moves[name], value = pick(values);
        if (kind === "text") one.textContent = value;
        else if (kind === "html") one.innerHTML = value;
        else if (one.getAttribute(kind) !== value) one.setAttribute(kind, value);
      }
    }
  }

  // decode all pictures in advance: otherwise each is decoded only when it is first shown
  if (my.moves !== data.moves) {
    my.moves = data.moves;
    const sources = Object.values(data.moves).filter(([kind]) => kind === "src").flatMap(([, values]) => values);
    (window.requestIdleCallback ?? setTimeout)(() => { my.pictures = [...new Set(sources)].map((src) => Object.assign(new Image(), { src })); });
  }

  range.oninput = () => {
    my.at = Number(range.value);
    draw();
    clearTimeout(my.timer);
    my.timer = setTimeout(() => { my.start = my.at; setStateValue("at", my.at); }, 500);
  };
  const clicked = (event) => {
    const one = event.target.closest("[data-click]");
    // the time makes every value differ: Streamlit would ignore the same value sent twice
    if (one) setTriggerValue("clicked", `${Date.now()} ${one.dataset.click}`);
  };
  find(".picture").onclick = clicked;
  find(".picture").onkeydown = (event) => {
    walk(event);
    const own = event.target.closest("button, a, input");
    if (!own && (event.key === "Enter" || event.key === " ") && event.target.closest("[data-click]")) {
      event.preventDefault();
      clicked(event);
    }
  };
  const carded = (event) => card(root, event.target.closest?.("[data-card]"));
  find(".picture").onpointerover = carded;
  find(".picture").onpointerleave = () => card(root, null);
  if (!my.listens) {  // there are no on… properties for these two events
    my.listens = true;
    find(".picture").addEventListener("focusin", carded);
    find(".picture").addEventListener("focusout", () => card(root, null));
  }
  find(".reveal").onclick = () => {
    my.revealed = true;
    root.classList.remove("asking");
    find(".reveal").hidden = true;
  };
  draw();
}

// Arrow keys move the focus from one mark to the next in a group with data-rove; the Tab key treats
// the whole group as one stop.
function walk(event) {
  const one = event.target.closest("[data-rove] > [tabindex]"), marks = one ? [...one.parentElement.children] : [];
  const by = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
  if (!one || !by) return;
  event.preventDefault();
  const next = marks[(marks.indexOf(one) + by + marks.length) % marks.length];
  one.tabIndex = -1;
  next.tabIndex = 0;
  next.focus();
}

// A small card beside an element: the text of its data-card, and the pictures of its data-tiles
// ("NAME COLUMN ROW,..."), cut from the sheet that is the background of the CSS class sheet-NAME.
function card(root, one) {
  const box = (root.my.card ??= root.appendChild(Object.assign(document.createElement("div"), { className: "card" })));
  box.hidden = !one;
  if (!one) return;
  const tiles = (one.dataset.tiles ?? "").split(",").filter(Boolean).map((tile) => {
    const [name, column, row] = tile.split(" "), made = document.createElement("i");
    made.className = `sheet sheet-${name}`;
    made.style.cssText = `--i:${column};--j:${row}`;
    return made;
  });
  box.replaceChildren(...tiles, Object.assign(document.createElement("span"), { textContent: one.dataset.card }));
  const here = one.getBoundingClientRect(), all = root.getBoundingClientRect();
  const left = here.right - all.left + 8, above = here.top - all.top - box.offsetHeight - 8;
  box.style.left = `${Math.max(0, Math.min(left, all.width - box.offsetWidth))}px`;
  box.style.top = `${above > 0 ? above : here.bottom - all.top + 8}px`;
}
