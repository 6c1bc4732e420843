// The Glossary: entries, and a search box that leaves those in which every word typed stands.
export default function words({ data, parentElement }) {
  const find = (what) => parentElement.querySelector(what);
  const list = find("dl"), box = find("input");
  if (list.made !== data.html) {
    list.made = data.html;
    list.innerHTML = data.html;
  }
  box.oninput = () => {
    const wanted = box.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const entry of list.children) {
      const said = entry.textContent.toLowerCase() + " " + entry.dataset.key;
      entry.hidden = !wanted.every((word) => said.includes(word));
      shown += !entry.hidden;
    }
    find("output").textContent = wanted.length ? `${shown} of ${list.children.length}` : data.said;
  };
  box.oninput();
}
