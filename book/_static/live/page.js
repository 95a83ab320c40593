// What stands on the page: the experiments, drawn into every <div class="ddim-live" data-part="sample | between | pad">, on
// any page of the book. data-preset="ten | four | every | steps | eta | spacing" says what `sample` starts from, and
// data-mode="noise | encode | fill" what `pad` does. They ask live.js; nothing is loaded before the reader's first click.
(() => {
  const [core, live] = [self.ddimCore, self.ddimLive];
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const SIDE = 28;
  const STEPS = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 750, 1000,
  ];
  const TIMES = [
    ["uniform", "S steps, evenly spaced"],
    ["quadratic", "S steps, quadratic"],
    ["logsnr", "S steps, even in log SNR"],
    ["every", "every k-th time (skip)"],
  ];

  // --- elements -----------------------------------------------------------------------------------------------------------

  let ids = 0;
  const id = () => `ddim-live-${++ids}`;

  function h(tag, properties = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(properties)) {
      if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
      else if (name === "class") element.className = value;
      else if (name in element && !name.includes("-")) element[name] = value;
      else element.setAttribute(name, value);
    }
    element.append(...children);
    return element;
  }

  function field(text, input, ...after) {
    input.id ||= id();
    return h("div", { class: "ddim-field" }, h("label", { htmlFor: input.id }, text), input, ...after);
  }

  function choose(options, value, onchange) {
    const input = h("select", { onchange }, ...options.map(([key, text]) => h("option", { value: key }, text)));
    input.value = value;
    return input;
  }

  function tick(text, checked, onchange) {
    const input = h("input", { type: "checkbox", id: id(), checked, onchange });
    return [input, h("div", { class: "ddim-tick" }, input, h("label", { htmlFor: input.id }, text))];
  }

  function whole(value, lowest, highest, oninput) {
    return h("input", { type: "number", min: lowest, max: highest, step: 1, value, inputMode: "numeric", oninput });
  }

  // a slider over numbers, that says where it stands; `text` of a value is what it says
  function slide(name, { min = 0, max, step = 1, value, text = String }, oninput) {
    const shown = h("span", { class: "ddim-value", "aria-hidden": "true" });
    const range = h("input", { type: "range", min, max, step, oninput: () => (say(), oninput?.()) });
    range.value = value;
    const say = () => {
      shown.textContent = text(Number(range.value));
      range.setAttribute("aria-valuetext", shown.textContent);
    };
    say();
    const box = field(name, range, shown);
    box.classList.add("ddim-slide");
    return { box, range, set: (to) => ((range.value = to), say()), get: () => Number(range.value), say };
  }

  const seedOf = (input) => Math.min(2 ** 32 - 1, Math.max(0, Math.floor(Number(input.value) || 0)));

  // --- images ---------------------------------------------------------------------------------------------------------------

  // Unicode has no small T to set below
  const typeset = (text) => text.split("_T").flatMap((part, i) => (i ? [h("sub", {}, "T"), part] : [part]));

  function canvas(caption, kind, large = false) {
    const picture = h("canvas", { role: "img", width: SIDE, height: SIDE });
    const words = h("figcaption", { class: kind }, ...typeset(caption));
    const figure = h("figure", { class: large ? "ddim-figure ddim-wide" : "ddim-figure" }, picture, words);
    return { figure, picture, words, caption };
  }

  // n images of pixels in [-1, 1], side by side; what lies outside is cut off, as in the book's figures
  function paint({ picture, caption }, pixels, says, columns) {
    const n = pixels.length / SIDE ** 2;
    columns ??= Math.ceil(Math.sqrt(n));
    const width = columns * (SIDE + 1) - 1;
    const height = Math.ceil(n / columns) * (SIDE + 1) - 1;
    if (picture.width !== width || picture.height !== height) Object.assign(picture, { width, height });
    const context = picture.getContext("2d");
    const sheet = context.createImageData(width, height);
    const colours = new Uint32Array(sheet.data.buffer);
    for (let k = 0; k < pixels.length; k++) {
      const [image, place] = [Math.floor(k / SIDE ** 2), k % SIDE ** 2];
      const x = (image % columns) * (SIDE + 1) + (place % SIDE);
      const y = Math.floor(image / columns) * (SIDE + 1) + Math.floor(place / SIDE);
      const grey = Math.round((Math.min(1, Math.max(-1, pixels[k])) + 1) * 127.5);
      colours[y * width + x] = 0xff000000 | (grey * 0x10101);
    }
    context.putImageData(sheet, 0, 0);
    picture.setAttribute("aria-label", `${caption.replace("_", "")}${says ? `: ${says}` : ""}`);
  }

  const blank = (n = 1) => new Float32Array(n * SIDE ** 2).fill(-0.55);

  // draws at most once a frame; twice a second where the reader asked for little motion
  function paced(draw) {
    let [next, due, last] = [null, false, 0];
    const now = (time) => {
      if (calm.matches && time - last < 500) return void requestAnimationFrame(now);
      [due, last] = [false, time];
      if (next) draw(next);
      next = null;
    };
    return {
      show(state) {
        next = state;
        if (!due) requestAnimationFrame(now);
        due = true;
      },
      drop: () => (next = null),
    };
  }

  // --- what every experiment has: the button that loads, the bar, the sentences -----------------------------------------------

  function frame(root, title) {
    const told = h("p", { class: "ddim-told", role: "status" });
    const bar = h("progress", { max: 1, value: 0, "aria-label": `${title}: progress` });
    const failed = h("p", { class: "ddim-failed", role: "alert", hidden: true });
    const look = h("p", { class: "ddim-look" });
    const box = h("section", { class: "ddim-box", "aria-label": title });
    root.replaceChildren(box);
    const self_ = {
      box, told, bar, failed, look,
      say: (text) => (told.textContent = text),
      fail: (text) => ((failed.textContent = text), (failed.hidden = !text)),
      progress: (share) => ((bar.value = share), self_.say(`Loading the network: ${Math.round(100 * share)} %`)),
      lookFor: ([sentence, page, name]) =>
        look.replaceChildren(h("strong", {}, "What to look for. "), sentence, " ", h("a", { href: `${page}.html` }, name)),
    };
    if (live.obstacle()) self_.fail(live.obstacle());
    return self_;
  }

  const megabytes = live.bytes ? `${(live.bytes / 1e6).toFixed(1)} MB` : "";
  const buttons = new Set(); // their words change once the network is there

  function action(text, onclick) {
    const button = h("button", { type: "button", class: "ddim-go", onclick });
    const word = () => (button.textContent = live.ready || !megabytes ? text : `Load the network (${megabytes}) · ${text}`);
    buttons.add(word);
    word();
    button.disabled = Boolean(live.obstacle());
    return button;
  }

  // A task that a reader starts, stops and starts anew: only the newest runs. `task(signal)` rejects when it is stopped.
  function runner(ui, { go = null, stop = null } = {}, task) {
    let current = null;
    async function run(...given) {
      current?.abort();
      const mine = (current = new AbortController());
      ui.fail("");
      if (stop) stop.disabled = false;
      try {
        if (!live.ready) {
          if (go) go.disabled = true;
          await live.load(ui.progress);
          buttons.forEach((word) => word());
          ui.say("The network is loaded.");
          ui.bar.value = 0;
        }
        if (go) go.disabled = false;
        if (mine.signal.aborted) throw new DOMException("stopped", "AbortError");
        await task(mine.signal, ...given);
      } catch (error) {
        if (go) go.disabled = false;
        if (error.name !== "AbortError") {
          ui.say("");
          ui.fail(`The network could not be run: ${error.message}.`);
        } else if (mine === current) ui.say("Stopped.");
      } finally {
        if (mine === current) {
          current = null;
          if (stop) stop.disabled = true;
        }
      }
    }
    stop?.addEventListener("click", () => current?.abort());
    return run;
  }

  const seconds = (since) => `${((performance.now() - since) / 1000).toFixed(1)} s`;

  // --- sampling -------------------------------------------------------------------------------------------------------------

  const FAST = ["fast_sampling", "Fast sampling explains it."];
  const PRESETS = {
    ten: [
      "Ten steps", { n: 16, a: { steps: 10 } },
      ["The guess on the right settles on a digit while the state on the left is still mostly noise.", ...FAST],
    ],
    four: [
      "Four steps", { n: 16, a: { steps: 4 } },
      ["Strokes break and veils remain: every long jump freezes an average of several digits.", ...FAST],
    ],
    every: [
      "Every step, one digit", { n: 1, a: { steps: 1000 } },
      ["For hundreds of calls the guess hardly changes: these are the calls that skipping saves.", ...FAST],
    ],
    steps: [
      "10 against 50 steps", { n: 4, a: { steps: 10 }, b: { steps: 50 } },
      ["From the same noise come nearly the same digits, five times as expensive in B, and a little crisper.", ...FAST],
    ],
    eta: [
      "η = 0 against 1", { n: 4, a: { steps: 20 }, b: { steps: 20, eta: 1 } },
      ["B adds fresh noise at every step, so it comes to other digits from the same start.", "ddpm", "DDPM explains it."],
    ],
    spacing: [
      "Even against quadratic", { n: 4, a: { steps: 6 }, b: { steps: 6, spacing: "quadratic" } },
      ["Quadratic times spend their steps near the image: finer edges, but a few large jumps decide the shape.", ...FAST],
    ],
  };

  function lane(name, onchange) {
    const plain = { steps: 10, spacing: "uniform", eta: 0, clip: false };
    const exact = whole(10, 1, 1000, () => (nearest(), onchange()));
    const rough = slide("steps S", { max: STEPS.length - 1, value: 9, text: (i) => String(STEPS[i]) }, () => {
      exact.value = STEPS[rough.get()];
      onchange();
    });
    rough.box.querySelector(".ddim-value").replaceWith(exact);
    exact.setAttribute("aria-label", "steps S, exactly");
    const nearest = () => {
      const value = Number(exact.value) || 1;
      rough.set(STEPS.reduce((best, v, i) => (Math.abs(v - value) < Math.abs(STEPS[best] - value) ? i : best), 0));
    };
    const times = choose(TIMES, "uniform", () => (rename(), onchange()));
    const rename = () => {
      const word = times.value === "every" ? "stride k" : "steps S";
      rough.box.querySelector("label").textContent = word;
      exact.setAttribute("aria-label", `${word}, exactly`);
    };
    const eta = slide("noise η", { max: 1, step: 0.05, value: 0, text: (v) => v.toFixed(2) }, onchange);
    const [clip, clipping] = tick("clip every guess to [−1, 1]", false, onchange);
    const state = canvas("xₜ, the state", "noise");
    const guess = canvas("x̂₀, the guess", "prediction");
    const status = h("p", { class: "ddim-status" });
    const bar = h("progress", { max: 1, value: 0, "aria-label": `${name}: calls done` });
    const legend = h("legend", {}, name);
    const element = h(
      "fieldset", { class: "ddim-lane" }, legend,
      h("div", { class: "ddim-controls" }, field("times", times), rough.box, eta.box, clipping),
      h("div", { class: "ddim-pair" }, state.figure, guess.figure), bar, status,
    );
    let began = 0;
    const pace = paced(({ t, call, calls, xt, x0, time }) => {
      paint(state, xt, `t = ${t}`);
      paint(guess, x0, `seen from t = ${t}`);
      bar.value = call / calls;
      status.textContent = `t = ${t} · call ${call} of ${calls} · ${time}`;
    });
    return {
      element, legend,
      read() {
        const count = Math.min(1000, Math.max(1, Math.round(Number(exact.value) || 1)));
        const grid = times.value === "every" ? { every: count } : { steps: count, spacing: times.value };
        return { ...grid, eta: eta.get(), clip: clip.checked };
      },
      write(given) {
        const all = { ...plain, ...given };
        times.value = all.spacing;
        exact.value = all.steps;
        eta.set(all.eta);
        clip.checked = all.clip;
        nearest();
        rename();
      },
      rest(noise) {
        pace.drop();
        paint(state, noise, "noise, t = 1000");
        paint(guess, blank(noise.length / SIDE ** 2), "nothing yet");
        [bar.value, status.textContent] = [0, `t = ${live.schedule?.T ?? 1000} · ${this.calls()} calls to make`];
      },
      calls() {
        const { every, steps, spacing } = this.read();
        return live.schedule ? live.schedule.timesteps({ every, steps, spacing }).length - 1 : steps;
      },
      begin: () => (began = performance.now()),
      show: (step) => pace.show({ ...step, time: seconds(began) }),
      finish(x0) {
        pace.drop();
        paint(state, x0, "the result, t = 0");
        paint(guess, x0, "the result");
        const time = seconds(began);
        [bar.value, status.textContent] = [1, `t = 0 · ${this.calls()} calls · ${time}`];
        return `${this.calls()} calls in ${time}`;
      },
    };
  }

  function sampling(root) {
    const ui = frame(root, "Sampling");
    const lanes = [lane("Setting", rest), lane("Setting B", rest)];
    const seed = whole(0, 0, 2 ** 32 - 1, rest);
    const count = choose([["1", "1"], ["4", "4"], ["9", "9"], ["16", "16"]], "16", rest);
    const [compare, comparing] = tick("two settings side by side", false, rest);
    const go = action("Sample", () => run());
    const stop = h("button", { type: "button", disabled: true }, "Stop");
    const other = h("button", { type: "button", onclick: () => ((seed.value = seedOf(seed) + 1), rest(), live.ready && run()) }, "Next seed");
    const active = () => (compare.checked ? lanes : lanes.slice(0, 1));
    const chips = Object.entries(PRESETS).map(([key, [name]]) =>
      h("button", { type: "button", class: "ddim-chip", onclick: () => (preset(key), live.ready && run()) }, name),
    );

    // what stands there before anything is computed: the starting noise, which needs no network
    function rest() {
      lanes[1].element.hidden = !compare.checked;
      lanes[0].legend.textContent = compare.checked ? "Setting A" : "Setting";
      if (live.obstacle()) return;
      stop.disabled || stop.click();
      const noise = core.imageNoise(seedOf(seed), Number(count.value), live.size)();
      lanes.forEach((one) => one.rest(noise));
    }

    function preset(key) {
      const [, { n, a, b }, look] = PRESETS[key];
      count.value = n;
      compare.checked = Boolean(b);
      lanes[0].write(a);
      lanes[1].write(b ?? a);
      ui.lookFor(look);
      chips.forEach((chip, i) => chip.setAttribute("aria-pressed", String(Object.keys(PRESETS)[i] === key)));
      rest();
    }

    const run = runner(ui, { go, stop }, async (signal) => {
      const n = Number(count.value);
      const [noise, used] = [core.imageNoise(seedOf(seed), n, live.size)(), active()];
      used.forEach((one) => one.rest(noise));
      ui.say(`Sampling ${n === 1 ? "one digit" : `${n} digits`}.`);
      used.forEach((one) => one.begin());
      const ask = (one) => live.sample({ ...one.read(), seed: seedOf(seed), n, signal, onStep: one.show });
      const done = await Promise.all(used.map(async (one) => one.finish(await ask(one))));
      ui.say(`Done: ${done.join("; ")}.`);
    });

    ui.box.append(
      h("div", { class: "ddim-chips", role: "group", "aria-label": "Examples" }, ...chips), ui.look,
      h("div", { class: "ddim-row" }, field("seed", seed), other, field("digits", count), comparing),
      h("div", { class: "ddim-lanes" }, ...lanes.map((one) => one.element)),
      h("div", { class: "ddim-row ddim-acts" }, go, stop, ui.bar, ui.told), ui.failed,
    );
    preset(root.dataset.preset in PRESETS ? root.dataset.preset : "ten");
  }

  // --- between two seeds ------------------------------------------------------------------------------------------------------

  function between(root) {
    const ui = frame(root, "Between two seeds");
    const inputs = [whole(4, 0, 2 ** 32 - 1, rest), whole(10, 0, 2 ** 32 - 1, rest)];
    const way = choose([["circle", "great circle"], ["line", "straight line"]], "circle", () => (rest(), live.ready && run()));
    const steps = slide("steps S", { min: 1, max: 50, value: 10 });
    const row = canvas("λ from 0 to 1", "signal", true);
    const start = canvas("x_T at λ", "noise");
    const end = canvas("x₀ at λ", "prediction");
    const length = h("p", { class: "ddim-status" });
    const lambda = slide("λ", { max: 1, step: 0.02, value: 0.5, text: (v) => v.toFixed(2) }, () => (place(), live.ready && one()));
    const go = action("Draw the row", () => run());
    const stop = h("button", { type: "button", disabled: true }, "Stop");
    const weights = Array.from({ length: 9 }, (_, i) => i / 8);
    const request = (w) => ({ kind: "between", seeds: inputs.map(seedOf), way: way.value, weights: w, steps: steps.get() });

    function place() {
      if (live.obstacle()) return;
      const [a, b] = inputs.map((input) => core.imageNoise(seedOf(input), 1, live.size)());
      const x = (way.value === "line" ? core.lerp : core.slerp)(a, b, [lambda.get()]);
      const norm = Math.sqrt(x.reduce((sum, value) => sum + value * value, 0) / x.length);
      paint(start, x, `λ = ${lambda.get().toFixed(2)}`);
      length.replaceChildren(...typeset(`length of x_T: ${norm.toFixed(2)} times √784`));
    }

    function rest() {
      stop.disabled || stop.click();
      place();
      paint(row, blank(9), "nothing yet", 9);
      paint(end, blank(), "nothing yet");
    }

    const one = runner(ui, {}, async (signal) => {
      const pace = paced(({ x0 }) => paint(end, x0, "on the way"));
      const x0 = await live.walk(request([lambda.get()]), { signal, onStep: pace.show });
      pace.drop();
      paint(end, x0, `λ = ${lambda.get().toFixed(2)}`);
    });

    const run = runner(ui, { go, stop }, async (signal) => {
      const began = performance.now();
      ui.say("Drawing nine digits.");
      const pace = paced(({ x0, call, calls }) => (paint(row, x0, "on the way", 9), (ui.bar.value = call / calls)));
      const x0 = await live.walk(request(weights), { signal, onStep: pace.show });
      pace.drop();
      paint(row, x0, "nine digits between the two", 9);
      ui.bar.value = 1;
      ui.say(`Done: ${seconds(began)}. Move λ.`);
      await one();
    });

    ui.lookFor([
      "On the great circle every digit is as bold as the two at the ends; on the line the ones in the middle fade, for their noise is too short.",
      "interpolation", "Interpolation explains it.",
    ]);
    ui.box.append(
      ui.look,
      h("div", { class: "ddim-row" }, field("seed at λ = 0", inputs[0]), field("seed at λ = 1", inputs[1]), field("way", way), steps.box),
      h("div", { class: "ddim-row ddim-acts" }, go, stop, ui.bar, ui.told), ui.failed,
      row.figure, lambda.box, h("div", { class: "ddim-pair ddim-narrow" }, start.figure, end.figure), length,
    );
    rest();
  }

  // --- the drawing pad --------------------------------------------------------------------------------------------------------

  const FINE = 280; // pixels of the pad, ten for each of the network's

  // ink in [0, 1], 280 by 280, to the 784 pixels in [-1, 1] that the network knows; as in MNIST, if asked, the digit is
  // fitted into 20 by 20 pixels with its centre of mass in the middle
  function shrunk(pad, centred) {
    let source = pad;
    if (centred) {
      const ink = pad.getContext("2d").getImageData(0, 0, FINE, FINE).data;
      let [left, top, right, bottom, mass, mx, my] = [FINE, FINE, 0, 0, 0, 0, 0];
      for (let y = 0; y < FINE; y++) {
        for (let x = 0; x < FINE; x++) {
          const value = ink[4 * (y * FINE + x)];
          if (value < 40) continue;
          [left, top, right, bottom] = [Math.min(left, x), Math.min(top, y), Math.max(right, x), Math.max(bottom, y)];
          [mass, mx, my] = [mass + value, mx + value * x, my + value * y];
        }
      }
      if (mass > 0) {
        const scale = 200 / Math.max(right - left + 1, bottom - top + 1, 60);
        source = sheet();
        const context = source.getContext("2d");
        context.imageSmoothingQuality = "high";
        context.setTransform(scale, 0, 0, scale, FINE / 2 - (scale * mx) / mass, FINE / 2 - (scale * my) / mass);
        context.drawImage(pad, 0, 0);
      }
    }
    const fine = source.getContext("2d").getImageData(0, 0, FINE, FINE).data;
    const pixels = new Float32Array(SIDE ** 2);
    for (let y = 0; y < FINE; y++) {
      for (let x = 0; x < FINE; x++) pixels[Math.floor(y / 10) * SIDE + Math.floor(x / 10)] += fine[4 * (y * FINE + x)];
    }
    return pixels.map((sum) => sum / 100 / 127.5 - 1);
  }

  function sheet() {
    const one = h("canvas", { width: FINE, height: FINE });
    const context = one.getContext("2d", { willReadFrequently: true });
    context.fillStyle = "#000";
    context.fillRect(0, 0, FINE, FINE);
    return one;
  }

  // a sheet to draw on: by mouse, pen and finger, and with the arrow keys
  function drawing(onchange) {
    const pad = sheet();
    const how = h("p", { class: "ddim-hint", id: id() }, "Draw with mouse, pen or finger. With the keyboard: arrow keys move, the space bar lowers and lifts the pen.");
    Object.assign(pad, { className: "ddim-pad", tabIndex: 0 });
    for (const [key, value] of Object.entries({ role: "application", "aria-label": "Drawing pad", "aria-describedby": how.id })) {
      pad.setAttribute(key, value);
    }
    const dot = h("span", { class: "ddim-pen", "aria-hidden": "true", hidden: true });
    const spoken = h("span", { class: "ddim-unseen", role: "status" });
    const context = pad.getContext("2d");
    Object.assign(context, { strokeStyle: "#fff", lineWidth: 25, lineCap: "round", lineJoin: "round" });
    let [from, down, at] = [null, false, [FINE / 2, FINE / 2]];
    const inked = () => context.getImageData(0, 0, FINE, FINE).data.some((value, i) => i % 4 === 0 && value > 40);

    function line(to) {
      context.beginPath();
      context.moveTo(...(from ?? to));
      context.lineTo(...to);
      context.stroke();
      from = to;
      onchange(false);
    }

    const place = (event) => {
      const box = pad.getBoundingClientRect();
      return [((event.clientX - box.left) / box.width) * FINE, ((event.clientY - box.top) / box.height) * FINE];
    };
    pad.addEventListener("pointerdown", (event) => {
      if (event.button) return;
      event.preventDefault();
      pad.setPointerCapture(event.pointerId);
      from = null;
      line(place(event));
    });
    pad.addEventListener("pointermove", (event) => {
      if (!from || !pad.hasPointerCapture(event.pointerId)) return;
      const between = event.getCoalescedEvents?.() ?? [];
      (between.length ? between : [event]).forEach((one) => line(place(one)));
    });
    for (const end of ["pointerup", "pointercancel"]) {
      pad.addEventListener(end, () => {
        if (from) onchange(true);
        from = null;
      });
    }
    const moves = { ArrowLeft: [-10, 0], ArrowRight: [10, 0], ArrowUp: [0, -10], ArrowDown: [0, 10] };
    pad.addEventListener("keydown", (event) => {
      if (event.key === " ") {
        down = !down;
        spoken.textContent = down ? "pen down" : "pen up";
        from = null;
        if (down) line(at);
        else onchange(true);
      } else if (event.key in moves) {
        at = at.map((value, i) => Math.min(FINE - 5, Math.max(5, value + moves[event.key][i])));
        if (down) line(at);
      } else return;
      event.preventDefault();
      mark();
    });
    const mark = () => {
      dot.hidden = document.activeElement !== pad || !pad.matches(":focus-visible");
      dot.classList.toggle("ddim-down", down);
      [dot.style.left, dot.style.top] = at.map((value) => `${(100 * value) / FINE}%`);
    };
    pad.addEventListener("focus", mark);
    pad.addEventListener("blur", () => {
      if (down) onchange(true);
      [down, from] = [false, null];
      mark();
    });
    function clear() {
      context.save();
      context.fillStyle = "#000";
      context.fillRect(0, 0, FINE, FINE);
      context.restore();
      onchange(true);
    }
    function put(pixels) {
      const small = h("canvas", { width: SIDE, height: SIDE });
      paint({ picture: small, caption: "" }, pixels);
      context.imageSmoothingQuality = "high";
      context.drawImage(small, 0, 0, FINE, FINE);
      onchange(false);
    }
    return { pad, clear, put, inked, element: h("div", { class: "ddim-drawing" }, h("div", { class: "ddim-sheet" }, pad, dot), spoken, how) };
  }

  const HALVES = {
    lower: ["the lower half", (x, y) => y < 14],
    upper: ["the upper half", (x, y) => y >= 14],
    right: ["the right half", (x) => x < 14],
    left: ["the left half", (x) => x >= 14],
  };
  const MODES = {
    noise: [
      "Noise it, denoise it",
      ["Up to some t your digit comes back; beyond it the network draws one of its own.", "noising", "Noising explains t."],
      ["xₜ, noised", "x̂₀, first guess", "x₀, denoised"],
    ],
    encode: [
      "Encode, decode",
      ["The noise that your digit is encoded as leads back to it: the more steps, the more exactly.", "encoding", "Encoding explains it."],
      ["x_T, encoded", "x₀, decoded", "difference"],
    ],
    fill: [
      "Erase half, fill it in",
      ["Follow the strokes across the seam: with one visit they often miss each other, with five they meet.", "imputation", "Imputation explains it."],
      ["what is known", "filled in", "filled in again"],
    ],
  };
  const KINDS = ["noise", "prediction", "signal"];

  function padding(root) {
    const ui = frame(root, "Drawing pad");
    let mode = root.dataset.mode in MODES ? root.dataset.mode : "noise";
    const draw = drawing((whole_) => changed(whole_));
    const yours = canvas("your digit", "signal");
    const results = [0, 1, 2].map((i) => canvas(MODES[mode][2][i], KINDS[i]));
    const t = slide("time t", { min: 1, max: 1000, value: 500 }, () => again());
    const steps = slide("steps S", { min: 2, max: 100, value: 10 }, () => again());
    const half = choose(Object.entries(HALVES).map(([key, [name]]) => [key, name]), "lower", () => again());
    const visits = slide("visits", { min: 1, max: 5, value: 5 }, () => again());
    const seed = whole(0, 0, 2 ** 32 - 1, () => again());
    const [centre, centring] = tick("centre it as MNIST does", true, () => changed(true));
    const go = action("Start", () => run());
    const stop = h("button", { type: "button", disabled: true }, "Stop");
    const clear = h("button", { type: "button", onclick: () => draw.clear() }, "Clear");
    const borrow = action("Borrow a digit", () => run(true));
    borrow.className = "";
    const status = h("p", { class: "ddim-status" });
    const tabs = Object.entries(MODES).map(([key, [name]]) =>
      h("button", { type: "button", class: "ddim-chip", onclick: () => turn(key) }, name),
    );
    const only = { noise: [t.box, steps.box], encode: [steps.box], fill: [field("erase", half), visits.box, steps.box] };
    const settings = h("div", { class: "ddim-controls" });

    const digit = () => shrunk(draw.pad, centre.checked);

    const show = () => paint(yours, digit(), draw.inked() ? "" : "nothing drawn yet");
    const pace = paced(show);

    // at every movement of the pen, and when it is lifted
    function changed(whole_) {
      if (!whole_) return pace.show(true);
      pace.drop();
      show();
      again();
    }

    function again() {
      if (live.ready && draw.inked()) run();
      else rest();
    }

    function rest() {
      status.textContent = "";
      results.forEach((one) => paint(one, blank(), "nothing yet"));
      if (mode === "noise" && live.schedule && draw.inked()) {
        paint(results[0], core.addNoise(digit(), t.get(), core.imageNoise(seedOf(seed), 1, live.size)(), live.schedule), `t = ${t.get()}`);
      }
    }

    function turn(key) {
      mode = key;
      tabs.forEach((tab, i) => tab.setAttribute("aria-pressed", String(Object.keys(MODES)[i] === key)));
      settings.replaceChildren(...only[key], field("seed", seed));
      results.forEach((one, i) => {
        one.caption = MODES[key][2][i];
        one.words.replaceChildren(...typeset(one.caption));
      });
      if (key === "fill") steps.set(20);
      ui.lookFor(MODES[key][1]);
      again();
    }

    const EXPERIMENTS = {
      async noise(x, signal) {
        const [began, time, noise] = [performance.now(), t.get(), core.imageNoise(seedOf(seed), 1, live.size)()];
        paint(results[0], core.addNoise(x, time, noise, live.schedule), `t = ${time}`);
        const pace = paced(({ x0 }) => paint(results[2], x0, "on the way"));
        const onStep = (step) => (step.call === 1 && paint(results[1], step.x0, `seen from t = ${time}`), pace.show(step));
        const x0 = await live.walk({ kind: "down", x, t: time, steps: steps.get(), seed: seedOf(seed) }, { signal, onStep });
        pace.drop();
        paint(results[2], x0, `from t = ${time}`);
        status.textContent = `t = ${time} · ${Math.min(steps.get(), time)} calls · ${seconds(began)}`;
      },
      async encode(x, signal) {
        const [began, T] = [performance.now(), live.schedule.T];
        const up = paced(({ xs, s }) => paint(results[0], xs, `t = ${s}`));
        const xT = await live.walk({ kind: "up", x, t: T, steps: steps.get() }, { signal, onStep: up.show });
        up.drop();
        paint(results[0], xT, `t = ${T}`);
        const down = paced(({ x0 }) => paint(results[1], x0, "on the way"));
        const asked = { kind: "down", noised: true, x: xT, t: T, steps: steps.get() };
        const x0 = await live.walk(asked, { signal, onStep: down.show });
        down.drop();
        const error = x0.map((value, i) => value - x[i]);
        paint(results[1], x0);
        paint(results[2], error.map((value) => Math.abs(value) - 1), "black where there is none");
        const squares = error.reduce((sum, value) => sum + (value / 2) ** 2, 0) / error.length;
        status.textContent = `${steps.get()} calls up, ${steps.get()} down · mean squared error ${squares.toFixed(4)} · ${seconds(began)}`;
      },
      async fill(x, signal) {
        const began = performance.now();
        const known = Uint8Array.from(x, (_, i) => HALVES[half.value][1](i % SIDE, Math.floor(i / SIDE)));
        paint(results[0], x.map((value, i) => (known[i] ? value : 0)), `without ${HALVES[half.value][0]}`);
        const both = core.joined([x, x]);
        const split = (pixels) => [pixels.slice(0, SIDE ** 2), pixels.slice(SIDE ** 2)];
        const show = (pixels, says) => split(pixels).forEach((one, i) => paint(results[i + 1], one, says));
        const pace = paced(({ x0, call, calls }) => {
          show(x0.map((value, i) => (known[i % SIDE ** 2] ? both[i] : value)), "on the way");
          status.textContent = `call ${call} of ${calls}`;
        });
        const asked = { kind: "fill", x: both, known: core.joined([known, known]), n: 2, steps: steps.get(), visits: visits.get() };
        const x0 = await live.walk({ ...asked, seed: seedOf(seed) }, { signal, onStep: pace.show });
        pace.drop();
        show(x0, "");
        status.textContent = `${(steps.get() - 1) * visits.get() + 1} calls · ${seconds(began)}`;
      },
    };

    const run = runner(ui, { go, stop }, async (signal, lend = false) => {
      if (lend) {
        ui.say("Sampling a digit.");
        draw.put(await live.sample({ seed: Math.floor(Math.random() * 2 ** 32), steps: 20, signal }));
      }
      if (!draw.inked()) return void ui.say("Draw a digit first, or borrow one of the network’s.");
      ui.say("");
      await EXPERIMENTS[mode](digit(), signal);
      ui.say("Done.");
    });

    ui.box.append(
      h("div", { class: "ddim-chips", role: "group", "aria-label": "What to do with it" }, ...tabs), ui.look,
      h(
        "div", { class: "ddim-desk" }, draw.element,
        h("div", { class: "ddim-beside" }, h("div", { class: "ddim-row" }, clear, borrow, centring), settings,
          h("div", { class: "ddim-row ddim-acts" }, go, stop, ui.bar, ui.told), ui.failed),
      ),
      h("div", { class: "ddim-pair ddim-four" }, yours.figure, ...results.map((one) => one.figure)), status,
    );
    show();
    turn(mode);
  }

  const PARTS = { sample: sampling, between, pad: padding };
  for (const root of document.querySelectorAll(".ddim-live")) PARTS[root.dataset.part]?.(root);
})();
