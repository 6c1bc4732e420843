const MOVES = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };

// Streamlit calls this again with new data after every rerun, on the same elements, so state that
// must survive is stored on the canvas. The mask from Python is used only if Python has changed it
// (`turn` differs): otherwise a slow rerun would undo the stroke that is being painted.
export default function (component) {
  const { data, parentElement, setStateValue } = component;
  const canvas = parentElement.querySelector("canvas");
  const status = parentElement.querySelector("[role=status]");
  const brush = parentElement.querySelector("select");
  const my = (canvas.painting ??= { row: 0, column: 0, turn: null, timer: 0 });
  const { rows, columns, side, width, height } = data;
  const scale = Math.max(2, Math.round(640 / Math.max(width, height)));
  // the time makes every value differ: Streamlit would ignore the same stroke painted after Clear
  my.send = (text) => setStateValue("mask", `${Date.now()} ${text}`);
  if (my.turn !== data.turn) {
    my.turn = data.turn;
    clearTimeout(my.timer);
    my.cells = unpack(data.mask);
    my.row = Math.floor(rows / 2);
    my.column = Math.floor(columns / 2);
  }
  if (my.source !== data.image) {
    my.source = data.image;
    my.image = new Image();
    my.image.onload = draw;
    my.image.src = data.image;
  }
  canvas.setAttribute("aria-label", data.label);

  function unpack(text) {
    const letters = atob(text.replaceAll("-", "+").replaceAll("_", "/"));
    const bytes = Uint8Array.from(letters, (letter) => letter.charCodeAt(0));
    const bit = (_, at) => (bytes[at >> 3] >> (7 - (at & 7))) & 1;
    return Uint8Array.from({ length: rows * columns }, bit);
  }

  function pack() {
    const bytes = new Uint8Array(Math.ceil(my.cells.length / 8));
    my.cells.forEach((cell, at) => {
      bytes[at >> 3] |= cell << (7 - (at & 7));
    });
    const text = btoa(String.fromCharCode(...bytes));
    return text.replaceAll("+", "-").replaceAll("/", "_").replaceAll("=", "");
  }

  function allowed(row, column) {
    const inside = row >= 0 && column >= 0 && row < rows && column < columns;
    return inside && my.cells[row * columns + column] === 1;
  }

  function draw() {
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale;
      canvas.height = height * scale;
    }
    const pen = canvas.getContext("2d"), cell = side * scale;
    pen.imageSmoothingEnabled = false;
    pen.drawImage(my.image, 0, 0, canvas.width, canvas.height);
    for (let row = 0; row < rows; row++) {
      for (let column = 0; column < columns; column++) {
        if (allowed(row, column)) continue;
        pen.fillStyle = "rgba(10, 14, 20, .7)";
        pen.fillRect(column * cell, row * cell, cell, cell);
        // hatching marks forbidden pixels even where the picture is dark
        pen.strokeStyle = "rgba(190, 200, 210, .55)";
        pen.lineWidth = 1;
        pen.beginPath();
        pen.moveTo(column * cell, (row + 1) * cell);
        pen.lineTo((column + 1) * cell, row * cell);
        pen.stroke();
      }
    }
    const edges = new Path2D();
    const edge = (row, column, toRow, toColumn) => {
      edges.moveTo(column * cell, row * cell);
      edges.lineTo(toColumn * cell, toRow * cell);
    };
    for (let row = 0; row <= rows; row++) {
      for (let column = 0; column <= columns; column++) {
        const here = allowed(row, column);
        if (here !== allowed(row - 1, column)) edge(row, column, row, column + 1);
        if (here !== allowed(row, column - 1)) edge(row, column, row + 1, column);
      }
    }
    twice(pen, edges, 4);
    if (parentElement.activeElement === canvas || document.activeElement === canvas) {
      const half = (brush.value - 1) / 2, wide = brush.value * cell, cursor = new Path2D();
      cursor.rect((my.column - half) * cell, (my.row - half) * cell, wide, wide);
      twice(pen, cursor, 6);
    }
  }

  function twice(pen, path, thick) {  // black on a wider white line, visible on any picture
    for (const [colour, more] of [["#FFFFFF", thick], ["#000000", thick / 2]]) {
      pen.strokeStyle = colour;
      pen.lineWidth = more;
      pen.stroke(path);
    }
  }

  function say(where) {
    const count = my.cells.reduce((sum, cell) => sum + cell, 0);
    const percent = Math.round((100 * count) / my.cells.length);
    const share = `${count} of ${my.cells.length} ${data.unit} allowed (${percent}%).`;
    const state = allowed(my.row, my.column) ? "allowed" : "forbidden";
    const spot = `Row ${my.row + 1}, column ${my.column + 1}: ${state}. `;
    status.textContent = where ? spot + share : share;
  }

  function stamp(value) {
    const half = (brush.value - 1) / 2;
    const top = Math.max(0, my.row - half), bottom = Math.min(rows - 1, my.row + half);
    const left = Math.max(0, my.column - half), right = Math.min(columns - 1, my.column + half);
    for (let row = top; row <= bottom; row++) {
      my.cells.fill(value, row * columns + left, row * columns + right + 1);
    }
  }

  function place(event) {
    const box = canvas.getBoundingClientRect();
    const clip = (at, most) => Math.max(0, Math.min(most - 1, Math.floor(at)));
    const across = (event.clientX - box.left - canvas.clientLeft) / canvas.clientWidth;
    const down = (event.clientY - box.top - canvas.clientTop) / canvas.clientHeight;
    my.column = clip((across * width) / side, columns);
    my.row = clip((down * height) / side, rows);
  }

  function later(wait) {
    clearTimeout(my.timer);
    my.timer = setTimeout(() => my.send(pack()), wait);
  }

  canvas.onpointerdown = (event) => {
    if (event.button) return;
    place(event);
    my.stroke = allowed(my.row, my.column) ? 0 : 1;
    canvas.setPointerCapture(event.pointerId);
    clearTimeout(my.timer);
    stamp(my.stroke);
    draw();
    say(false);
  };
  canvas.onpointermove = (event) => {
    if (my.stroke === undefined) return;
    const [row, column] = [my.row, my.column];
    place(event);
    const [to, across] = [my.row, my.column];
    // fill in the cells between two events, so that a fast stroke has no gaps
    const steps = Math.max(Math.abs(to - row), Math.abs(across - column), 1);
    for (let step = 1; step <= steps; step++) {
      my.row = Math.round(row + ((to - row) * step) / steps);
      my.column = Math.round(column + ((across - column) * step) / steps);
      stamp(my.stroke);
    }
    draw();
    say(false);
  };
  canvas.onpointerup = canvas.onpointercancel = () => {
    if (my.stroke === undefined) return;
    my.stroke = undefined;
    later(0);
  };
  canvas.onkeydown = (event) => {
    const move = MOVES[event.key];
    if (move) {
      my.row = Math.max(0, Math.min(rows - 1, my.row + move[0]));
      my.column = Math.max(0, Math.min(columns - 1, my.column + move[1]));
    } else if (event.key === " ") {
      stamp(allowed(my.row, my.column) ? 0 : 1);
      later(700);
    } else return;
    event.preventDefault();
    event.stopPropagation();
    draw();
    say(true);
  };
  canvas.onfocus = canvas.onblur = draw;
  brush.onchange = draw;
  if (my.image.complete) draw();
  say(false);
}
