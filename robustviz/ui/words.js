// The Glossary: entries, and a search box that leaves those in which each word typed begins a word.
export default function words({ data, parentElement }) {
  const find = (what) => parentElement.querySelector(what);
  const list = find(".entries"), box = find("input");
  const split = (text) => text.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter(Boolean);
  if (list.made !== data.html) {
    list.made = data.html;
    list.innerHTML = data.html;
  }
  const entries = [...list.querySelectorAll("dl > div")];
  box.oninput = () => {
    const wanted = split(box.value);
    let shown = 0;
    for (const entry of entries) {
      const said = (entry.said ??= split(`${entry.dataset.key} ${entry.textContent}`));
      entry.hidden = !wanted.every((word) => said.some((each) => each.startsWith(word)));
      shown += !entry.hidden;
    }
    for (const part of list.children) part.hidden = !part.querySelector("dl > div:not([hidden])");
    find("output").textContent = wanted.length ? `${shown} of ${entries.length}` : data.said;
  };
  box.oninput();
}
