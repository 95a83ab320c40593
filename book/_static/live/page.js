// What the experiments of a page are made of. They stand in sampling.js, between.js and pad.js, and are drawn into every
// <div class="ddim-live" data-part="sample | between | pad"> on any page of the book. There
// data-preset="ten | four | every | steps | eta | spacing" says what `sample` starts from, and
// data-mode="noise | encode | fill" what `pad` does. They ask live.js; nothing is loaded before the reader's first click.
(() => {
  const live = self.ddimLive;
  const calm = matchMedia("(prefers-reduced-motion: reduce)");
  const SIDE = 28;

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

  // draw an experiment into every place that asks for it
  function mount(part, experiment) {
    document.querySelectorAll(`.ddim-live[data-part="${part}"]`).forEach(experiment);
  }

  self.ddimPage = {
    SIDE, action, blank, canvas, choose, field, frame, h, id, mount, paced, paint, runner, seconds, seedOf, slide, tick,
    typeset, whole,
  };
})();
