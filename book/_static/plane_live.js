// The plane, live: the reader puts down points, and the exact denoiser carries 300 noise samples to them by DDIM.
//
// It grows in each <div class="ddim-plane" data-points="[[x, y], ...]"> of a page; points of one number, [[-1], [1]], give the
// coin: value against time. No library, no network; plane_method.js computes.
(() => {
  "use strict";
  const { T, alpha, guess, walk, normal, flat } = window.ddimPlane.method;
  const SAMPLES = 300, REACH = 2.9, MOST_POINTS = 60, MOST_STEPS = 100, SECONDS = 4;
  const LIGHT = { paper: "#fff", ink: "#595f69", line: "#e6e9ed", signal: "#2166ac", noise: "#d6604d", guess: "#1b7837", tone: "0.62 0.16" };
  const DARK = { paper: "#191c21", ink: "#b4bac4", line: "#2c3139", signal: "#7fb3e0", noise: "#f0937f", guess: "#6fc084", tone: "0.76 0.13" };
  const around = (n, f) => Array.from({ length: n }, (_, i) => f(i / n));
  const polar = (turn, radius) => [radius * Math.cos(2 * Math.PI * turn), radius * Math.sin(2 * Math.PI * turn)];
  const PRESETS = {
    1: { "three values": [[-0.8], [0.1], [0.9]], "five values": [[-1], [-0.5], [0], [0.5], [1]] },
    2: {
      "two points": [[-0.8, -0.3], [0.8, 0.3]],
      "a ring": around(12, (u) => polar(u, 1)),
      "a spiral": around(24, (u) => polar(0.1 + 1.15 * u, 0.3 + 0.7 * u)),
    },
  };
  const still = window.matchMedia("(prefers-reduced-motion: reduce)");
  const inPrint = window.matchMedia("print");
  const make = (tag, properties, ...children) => {
    const made = Object.assign(document.createElement(tag), properties);
    made.append(...children);
    return made;
  };

  function grow(box, number) {
    const given = JSON.parse(box.dataset.points), d = given[0].length, word = d === 1 ? "value" : "point";
    const presets = { [d === 1 ? "the coin" : "seven points"]: given, ...PRESETS[d] };
    // chosen: which point, or -1 for the start, the noise sample that the reader can move
    const view = { points: [], hues: [], chosen: -1, time: 0, steps: 50, eta: 0, order: 1, seed: 1, playing: false };
    let start, fresh, run, ends, soon; // x_T and z, flat; what walk returned; where its samples ended; a timer

    // ---- What there is to see and to move
    const canvas = make("canvas", { tabIndex: 0, className: d === 1 ? "line" : "" });
    canvas.setAttribute("role", "application");
    canvas.setAttribute("aria-describedby", `ddim-plane-${number}-how`);
    const status = make("p", { className: "status", role: "status" });
    const panel = make("div", { className: "panel" });
    const row = (...children) => panel.append(make("div", { className: "controls" }, ...children));
    const button = (textContent, onclick) => make("button", { type: "button", textContent, onclick });
    const id = (name) => `ddim-plane-${number}-${name}`;

    function slider(name, key, [max, step], show, read) {
      const input = make("input", { type: "range", id: id(key), min: key === "steps" ? 1 : 0, max, step });
      const output = make("output", { ariaLive: "off", htmlFor: input.id });
      input.oninput = () => ((view[key] = read(Number(input.value))), key === "time" ? setPlaying(false) : follow());
      panel.append(make("label", { htmlFor: input.id, textContent: name }), input, output);
      return () => {
        input.value = read(view[key]);
        const text = show(view[key]); // written only where it changes: a page of a chapter is long to lay out again
        if (output.value !== text) input.ariaValueText = output.value = text;
        input.disabled = key === "eta" && view.order === 2;
      };
    }
    function options(legend, type, ...choices) {
      const group = make("fieldset", { className: "controls" }, make("legend", { textContent: legend }));
      const inputs = choices.map(([, checked, onchange]) => make("input", { type, name: id(legend), checked, onchange }));
      inputs.forEach((input, i) => group.append(make("label", {}, input, choices[i][0])));
      panel.append(group);
      return inputs;
    }
    const play = make("button", { type: "button", className: "play", onclick: () => setPlaying(!view.playing) });
    row(play, button("New noise", () => (view.seed++, drawNoise(), follow())));
    const same = (v) => v;
    const sliders = [
      slider("Time t", "time", [T, 1], (v) => String(Math.round(v)), (v) => T - v), // from noise, left, to the image
      slider("Steps S", "steps", [MOST_STEPS, 1], String, same),
      slider("Noise η", "eta", [1, 0.05], (v) => v.toFixed(2), same),
    ];
    options("Order", "radio", ["first", true, () => ((view.order = 1), follow())], ["second", false, () => ((view.order = 2), (view.eta = 0), follow())]);
    const [guesses, lines] = options("Show", "checkbox", ["guesses", true, request], ["paths", true, request]);
    const preset = make("select", { id: id("preset") }, ...[...Object.keys(presets), "my own"].map((name) => new Option(name)));
    preset.onchange = () => presets[preset.value] && (load(presets[preset.value]), follow());
    row(make("label", { htmlFor: preset.id, textContent: d === 1 ? "Values" : "Points" }), preset);
    row(button(`Add a ${word}`, () => add()), button("Remove", remove));
    const how = make("p", { id: id("how"), className: "how" },
      `Click to put down a ${word}; drag it, or drag the red start, whose path is drawn thick. With the keyboard: N and P choose, the arrow keys move, Enter adds, Delete removes. `,
      make("b", { textContent: "Try: " }),
      d === 1
        ? "with 1 step all samples end at the mean; from how many on do they take sides? Then put down a third value."
        : "drag the start slowly across the border between two colours; then set η to 1 and drag it again.");
    box.replaceChildren(make("div", { className: "stage" }, canvas, panel), status, how);

    // ---- What changes it
    function load(points) {
      view.points = points.map((point) => [...point]);
      view.hues = points.map((_, i) => (d === 1 ? 60 : 20) + (360 * i) / points.length);
      view.chosen = -1;
    }
    function drawNoise() {
      start = normal(view.seed, SAMPLES * d);
      start.set(d === 1 ? [0.6] : [-1.7, 1.3]);
      fresh = normal(view.seed + 1e6, MOST_STEPS * SAMPLES * d);
    }
    function add(place = d === 1 ? [((0.618 * view.points.length) % 1) * 2 - 1] : polar(0.382 * view.points.length, 0.6)) {
      if (view.points.length === MOST_POINTS) return say(`${MOST_POINTS} ${word}s are as many as fit: remove one first.`);
      view.hues.push(137.5 * view.points.length + 40);
      view.chosen = view.points.push([...place]) - 1;
      edited();
    }
    function remove() {
      if (view.chosen < 0) return say(`Choose a ${word} first: click it, or press N in the drawing.`);
      if (view.points.length === 1) return say(`One ${word} has to stay: with none there is nothing to guess.`);
      for (const list of [view.points, view.hues]) list.splice(view.chosen, 1);
      view.chosen = Math.min(view.chosen, view.points.length - 1);
      edited();
    }
    const chosen = () => (view.chosen < 0 ? start.subarray(0, d) : view.points[view.chosen]);
    function move(to) {
      const at = chosen();
      for (let c = 0; c < d; c++) at[c] = Math.max(-REACH, Math.min(REACH, to[c]));
      return view.chosen < 0 ? follow() : edited();
    }
    const edited = () => ((preset.value = "my own"), follow());
    function follow() {
      run = null;
      clearTimeout(soon);
      soon = setTimeout(report, 700); // once it rests
      request();
    }
    function setPlaying(on) {
      view.playing = on && !still.matches;
      if (view.playing && view.time <= 0) view.time = T;
      play.textContent = view.playing ? "Pause" : "Play";
      before = null;
      request();
    }

    // ---- The paths, their ends, and a sentence about them once they rest
    function compute() {
      const size = SAMPLES * d, y = flat(view.points), of = new Int32Array(SAMPLES), shares = new Int32Array(view.points.length);
      run = walk(y, start.slice(), d, { S: view.steps, eta: view.eta, order: view.order, z: (k) => fresh.subarray(k * size, (k + 1) * size) });
      ends = { of, shares, near: 0 };
      for (let j = 0; j < SAMPLES; j++) {
        const x0 = run.states[view.steps].subarray(j * d, (j + 1) * d);
        let least = Infinity;
        for (let i = 0; i < y.length / d; i++) {
          const far = Math.hypot(x0[0] - y[i * d], d === 2 ? x0[1] - y[i * d + 1] : 0);
          if (far < least) (least = far), (of[j] = i);
        }
        shares[of[j]]++;
        ends.near += least < 0.05;
      }
    }
    function report() {
      if (!run) compute();
      const low = Math.min(...ends.shares), high = Math.max(...ends.shares), { steps, eta, order, points } = view;
      say(`${SAMPLES} noise samples, ${steps} ${steps === 1 ? "step" : "steps"}, η = ${eta}, ${order === 1 ? "first" : "second"} order: ` +
        `${ends.near} end within 0.05 of a ${word}. ` +
        (points.length === 1 ? `There is one ${word} only.` : `Each ${word} is the nearest to ${low === high ? low : `${low} to ${high}`} of them.`));
    }
    function say(text) {
      clearTimeout(soon);
      status.textContent = text;
    }

    // ---- Where things are. In two dimensions a place is (x, y); in one, time runs to the right and the value upwards.
    const ctx = canvas.getContext("2d"), trails = make("canvas"), ink = trails.getContext("2d");
    let w = 0, h = 0, scale = 1, paper = false, drawn = null; // drawn: which run, and how far, the sheet of trails shows
    const right = (time) => 34 + (w - 62) * (1 - time / T);
    const place = (x, i, time) => (d === 1 ? [right(time), h / 2 - x[i] * scale] : [w / 2 + x[i] * scale, h / 2 - x[i + 1] * scale]);
    const value = ([px, py]) => (d === 1 ? [(h / 2 - py) / scale] : [(px - w / 2) / scale, (h / 2 - py) / scale]);
    function stepAt(time) { // 2.5: halfway through the third step
      let k = 0;
      while (run.times[k + 1] > time) k++;
      return k + (run.times[k] - time) / (run.times[k] - run.times[k + 1]);
    }
    function at(j, p) { // sample j there, on the straight line between two states
      const k = Math.min(Math.floor(p), view.steps - 1), f = p - k, a = run.states[k], b = run.states[k + 1];
      const x = Array.from({ length: d }, (_, c) => a[j * d + c] + f * (b[j * d + c] - a[j * d + c]));
      return place(x, 0, run.times[k] + f * (run.times[k + 1] - run.times[k]));
    }

    // ---- The picture
    function trace(on, j, from, to) {
      let [x, y] = at(j, from);
      on.moveTo(x, y);
      for (let k = Math.floor(from) + 1; k < to; k++) {
        const [nextX, nextY] = place(run.states[k], j * d, run.times[k]);
        if (Math.abs(nextX - x) + Math.abs(nextY - y) < 2.5) continue; // no eye sees it, and it takes its time
        on.lineTo((x = nextX), (y = nextY));
      }
      on.lineTo(...at(j, to));
    }
    function dot(on, [x, y], radius) {
      on.moveTo(x + radius, y);
      on.arc(x, y, radius, 0, 2 * Math.PI);
    }
    function disc(where, radius, fillStyle, strokeStyle, lineWidth) {
      Object.assign(ctx, { fillStyle, strokeStyle, lineWidth }).beginPath();
      dot(ctx, where, radius);
      ctx.fill();
      ctx.stroke();
    }
    function byEnd(on, colours, finish, drawOne) { // all samples with the same end at once, without the reader's own
      colours.forEach((colour, i) => {
        Object.assign(on, { fillStyle: colour, strokeStyle: colour }).beginPath();
        for (let j = 1; j < SAMPLES; j++) if (ends.of[j] === i) drawOne(j);
        on[finish]();
      });
    }
    function arrow([x, y], [dx, dy]) {
      const long = Math.hypot(dx, dy) || 1, head = Math.min(4, long / 2) / long, [u, v] = [dx * head, dy * head];
      ctx.moveTo(x, y);
      ctx.lineTo(x + dx, y + dy);
      ctx.lineTo(x + dx - u - v * 0.6, y + dy - v + u * 0.6);
      ctx.moveTo(x + dx, y + dy);
      ctx.lineTo(x + dx - u + v * 0.6, y + dy - v - u * 0.6);
    }
    function field(time) {
      const y = flat(view.points), side = Array.from({ length: 13 }, (_, i) => (i - 6) * 0.37), a = alpha[time];
      if (d === 2) { // minus the predicted noise, at a quarter of its length: from x towards sqrt(alpha_t) times the guess
        const x = flat(side.flatMap((u) => side.map((v) => [u, v]))), goal = guess(y, x, d, time).map((v) => Math.sqrt(a) * v);
        for (let i = 0; i < x.length; i += 2) arrow(place(x, i), [((goal[i] - x[i]) * scale) / 4, ((x[i + 1] - goal[i + 1]) * scale) / 4]);
      } else for (let t = 50; t <= T; t += 50) { // the direction of a short step, at all times
        const b = alpha[t - 20], r = Math.sqrt((1 - b) / (1 - alpha[t])), c = Math.sqrt(b) - r * Math.sqrt(alpha[t]);
        guess(y, Float64Array.from(side), d, t).forEach((x0, i) => {
          const across = right(t - 20) - right(t), up = -(r * side[i] + c * x0 - side[i]) * scale, size = 12 / Math.hypot(across, up);
          arrow(place(side, i, t), [across * size, up * size]);
        });
      }
    }
    function axes(p) {
      Object.assign(ctx, { fillStyle: p.paper, strokeStyle: p.line, lineWidth: 1 }).fillRect(0, 0, w, h);
      Object.assign(ctx, { fillStyle: p.ink, font: "12px system-ui, sans-serif", textAlign: "center" }).beginPath();
      for (let v = -2; v <= 2; v++) {
        const [across, up] = [w / 2 + v * scale, h / 2 - v * scale], name = String(v).replace("-", "−");
        ctx.moveTo(0, up), ctx.lineTo(w, up), ctx.fillText(name, 12, up - 4);
        if (d === 2) ctx.moveTo(across, 0), ctx.lineTo(across, h), v && ctx.fillText(name, across + 9, h - 6);
      }
      if (d === 1) for (const t of [1000, 500, 0]) ctx.fillText(t === 500 ? "time t = 500" : t, right(t), h - 6);
      ctx.stroke();
    }
    function paint() {
      const p = !paper && document.documentElement.dataset.theme === "dark" ? DARK : LIGHT, time = paper ? 0 : view.time;
      if (!run) compute();
      const now = stepAt(time), colours = view.hues.map((hue) => `oklch(${p.tone} ${hue})`), shown = [p.guess, p.signal, p.noise];
      if (drawn?.run !== run || drawn.paper !== p.paper || now < drawn.upTo) {
        drawn = { run, paper: p.paper, upTo: 0 };
        ink.clearRect(0, 0, w, h);
        byEnd(ink, colours, "fill", (j) => dot(ink, at(j, 0), 1.6));
      }
      if (now > drawn.upTo) byEnd(ink, colours, "stroke", (j) => trace(ink, j, drawn.upTo, now)); // what is new since the last frame
      drawn.upTo = now;
      axes(p);
      if (guesses.checked) {
        Object.assign(ctx, { strokeStyle: p.guess, lineWidth: 1.1, globalAlpha: 0.55 }).beginPath();
        field(Math.max(1, Math.round(time)));
        ctx.stroke();
        ctx.globalAlpha = 1;
      }
      if (lines.checked) ctx.drawImage(trails, 0, 0, w, h);
      if (guesses.checked && d === 2) // where the arrows lead: the points in the size in which they sit in x_t
        for (const point of view.points) disc(place(point.map((v) => v * Math.sqrt(alpha[Math.round(time)])), 0), 2.5, p.signal, p.paper, 0.5);
      byEnd(ctx, colours, "fill", (j) => dot(ctx, at(j, now), 2.4));
      view.points.forEach((point, i) => disc(place(point, 0, 0), 7, colours[i], p.signal, 2));
      Object.assign(ctx, { strokeStyle: p.noise, lineWidth: 2.6, lineJoin: "round" }).beginPath();
      trace(ctx, 0, 0, now);
      ctx.stroke();
      disc(at(0, now), 4, p.noise, p.paper, 1);
      disc(place(start, 0, T), 8, p.noise, p.paper, 2);
      if (view.chosen >= 0 || document.activeElement === canvas)
        disc(view.chosen < 0 ? place(start, 0, T) : place(chosen(), 0, 0), 12, "transparent", p.ink, 2);
    }
    let asked = 0, before = null;
    function request() {
      asked ||= requestAnimationFrame(frame);
    }
    function frame(moment) {
      asked = 0;
      if (view.playing) {
        view.time = Math.max(0, view.time - Math.min(moment - (before ?? moment), 100) * (T / 1000 / SECONDS));
        before = moment;
        if (view.time > 0) request();
        else setPlaying(false);
      }
      if (w) paint();
      for (const show of sliders) show();
      if (canvas.ariaLabel !== name()) canvas.ariaLabel = name();
    }
    const name = () => `${d === 1 ? "One pixel over time" : "The plane"}. Chosen: ` +
      `${view.chosen < 0 ? "the start" : `${word} ${view.chosen + 1} of ${view.points.length}`}, at ${Array.from(chosen(), (v) => v.toFixed(2)).join(", ")}`;
    function fit() {
      const ratio = Math.min(window.devicePixelRatio, 2);
      [w, h] = [canvas.clientWidth, canvas.clientHeight];
      scale = h / 2 / REACH;
      for (const context of [ctx, ink]) {
        Object.assign(context.canvas, { width: Math.round(w * ratio), height: Math.round(h * ratio) });
        context.setTransform(ratio, 0, 0, ratio, 0, 0);
      }
      Object.assign(ink, { lineWidth: 1 / ratio, globalAlpha: d === 1 ? 0.35 : 0.6 });
      redraw();
    }
    function redraw() { // the same in another size or in other colours; at once, since a printer does not wait for a frame
      drawn = null;
      if (w) paint();
    }

    // ---- By hand and by keyboard
    const inside = (event) => [event.clientX - canvas.getBoundingClientRect().left, event.clientY - canvas.getBoundingClientRect().top];
    function grasp(event) { // what lies under a finger or the mouse: -1 for the start, a point's number, or null
      const [px, py] = inside(event), all = [place(start, 0, T), ...view.points.map((point) => place(point, 0, 0))];
      const far = all.map(([x, y]) => Math.hypot(x - px, y - py)), least = Math.min(...far);
      return least < (event.pointerType === "mouse" ? 13 : 22) ? far.indexOf(least) - 1 : null;
    }
    let held = null; // from where, and whether it is a point
    canvas.onpointerdown = (event) => {
      const found = grasp(event);
      held = { from: inside(event), point: found !== null, moved: false };
      if (found === null) return;
      view.chosen = found;
      canvas.setPointerCapture(event.pointerId);
      request();
    };
    canvas.onpointermove = (event) => {
      if (!held) return (canvas.style.cursor = grasp(event) === null ? "crosshair" : "grab");
      const to = inside(event);
      held.moved ||= Math.hypot(to[0] - held.from[0], to[1] - held.from[1]) > (event.pointerType === "mouse" ? 4 : 10);
      if (held.moved && held.point) move(value(to));
    };
    canvas.onpointerup = () => {
      if (held && !held.point && !held.moved) add(value(held.from));
      held = null;
    };
    canvas.onpointercancel = () => (held = null);
    canvas.addEventListener("touchstart", (event) => { // a finger on empty paper scrolls the page; on a point it must not
      if (grasp(event.touches[0]) !== null) event.preventDefault();
    }, { passive: false });
    canvas.onkeydown = (event) => {
      const by = event.shiftKey ? 0.01 : 0.05, all = view.points.length + 1;
      const to = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, by], ArrowDown: [0, -by] }[event.key];
      const turn = { n: 1, p: -1 }[event.key.toLowerCase()];
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (to) move(d === 1 ? [chosen()[0] + to[0] + to[1]] : [chosen()[0] + to[0], chosen()[1] + to[1]]);
      else if (turn) (view.chosen = ((view.chosen + 1 + turn + all) % all) - 1), request();
      else if (event.key === "Enter") add();
      else if (event.key === "Delete" || event.key === "Backspace") remove();
      else return;
      event.preventDefault();
      event.stopPropagation();
      if (turn) say(name());
      if (to) status.textContent = name(); // and the sentence about the paths a little later
    };
    canvas.onfocus = canvas.onblur = request;

    load(given);
    drawNoise();
    follow();
    setPlaying(false);
    play.hidden = still.matches;
    still.addEventListener("change", () => ((play.hidden = still.matches), setPlaying(false)));
    const onPaper = (now) => ((paper = now), redraw());
    window.addEventListener("beforeprint", () => onPaper(true));
    window.addEventListener("afterprint", () => onPaper(false));
    inPrint.addEventListener("change", () => onPaper(inPrint.matches));
    new MutationObserver(redraw).observe(document.documentElement, { attributeFilter: ["data-theme"] });
    new ResizeObserver(fit).observe(canvas);
    window.ddimPlane.live.push(Object.assign(view, { box, play: () => setPlaying(true), start: () => Array.from(start.subarray(0, d)) }));
  }

  window.ddimPlane.grow = grow;
  document.querySelectorAll(".ddim-plane").forEach(grow);
})();
