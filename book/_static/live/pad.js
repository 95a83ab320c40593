// What becomes of the reader's digit: noised and denoised, encoded and decoded, erased in half and filled in.
(() => {
  const core = self.ddimCore;
  const live = self.ddimLive;
  const {
    SIDE, action, blank, canvas, choose, field, frame, h, mount, paced, paint, runner, seconds, seedOf, slide, tick,
    typeset, whole,
  } = self.ddimPage;
  const { drawing, shrunk } = self.ddimDrawing;

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

    let kept = null; // what the network gets of the drawing, until that changes
    const digit = () => (kept ??= shrunk(draw.pad, centre.checked));

    const show = () => paint(yours, digit(), draw.inked() ? "" : "nothing drawn yet");
    const pace = paced(show);

    // at every movement of the pen, and when it is lifted
    function changed(whole_) {
      kept = null;
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

  mount("pad", padding);
})();
