// What belongs to the browser's window and not to a page: a new page starts at its top, a page is
// drawn again when the browser changes between light and dark, and a lecturer goes on with the arrow
// keys: first to the answer, if it is hidden, then to the next page. Draws nothing.
let last = null, asked = null, stop = null;

export default function frame({ data, setTriggerValue }) {
  stop?.();  // Streamlit calls this function again for new data, and ends it only with the page
  const main = document.querySelector('[data-testid="stMain"]');
  if (last !== null && last !== data.page) main?.scrollTo(0, 0);
  last = data.page;

  // Python has chosen the colours of the pictures for data.scheme
  const app = document.querySelector('[data-testid="stApp"]');
  function recolour() {
    const now = getComputedStyle(app).colorScheme;
    if (now === data.scheme) asked = null;
    else if (now !== asked) setTriggerValue("go", `${Date.now()} ${(asked = now)}`);
  }
  const watcher = new MutationObserver(recolour);
  watcher.observe(app, { attributeFilter: ["class"] });
  recolour();
  if (!data.present) return (stop = () => watcher.disconnect());

  function figures() {
    const found = [...main.querySelectorAll('[data-testid="stPlotlyChart"], .st-key-title-row')];
    return found.map((one) => one.getBoundingClientRect().top + main.scrollTop - 8);
  }
  function onward() {  // the button that reveals the answer, if it is still to be pressed, or leads to the next step
    const inside = [...main.querySelectorAll("*")].map((one) => one.shadowRoot).filter(Boolean);
    const reveal = [main, ...inside].map((root) => root.querySelector(".reveal:not([hidden])")).find(Boolean);
    return reveal ?? main.querySelector(".st-key-onward button");
  }
  function key(event) {
    const from = event.composedPath()[0];
    if (event.altKey || event.ctrlKey || event.metaKey || from.matches?.("input, textarea, select, [role=slider], [role=option], [role=combobox]")) return;
    const way = { ArrowRight: 1, PageDown: 1, ArrowLeft: -1, PageUp: -1 }[event.key];
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    const button = way > 0 && onward();
    if (button) button.click();
    else if (way) setTriggerValue("go", `${Date.now()} ${way}`);
    if (step) {
      const here = main.scrollTop, tops = figures();
      const next = step > 0 ? tops.find((top) => top > here + 20) : tops.reverse().find((top) => top < here - 20);
      main.scrollTo(0, next ?? (step > 0 ? main.scrollHeight : 0));
    }
    if (way || step) event.preventDefault();
  }
  document.addEventListener("keydown", key);
  return (stop = () => {
    watcher.disconnect();
    document.removeEventListener("keydown", key);
  });
}
