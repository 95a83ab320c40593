// Samples: steps, skip, noise and seed of the reader's choice, one setting or two; the state beside the guess.
(() => {
  const core = self.ddimCore;
  const live = self.ddimLive;
  const {
    SIDE, action, blank, canvas, choose, field, frame, h, mount, paced, paint, runner, seconds, seedOf, slide, tick,
    whole,
  } = self.ddimPage;

  const STEPS = [
    1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50, 60, 80, 100, 125, 150, 200, 250, 300, 400, 500, 750, 1000,
  ];
  const TIMES = [
    ["uniform", "S steps, evenly spaced"],
    ["quadratic", "S steps, quadratic"],
    ["logsnr", "S steps, even in log SNR"],
    ["every", "every k-th time (skip)"],
  ];

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

  mount("sample", sampling);
})();
