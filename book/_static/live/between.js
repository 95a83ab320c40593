// A row of digits between two seeds, on the line or on the great circle, and one of them under a slider.
(() => {
  const core = self.ddimCore;
  const live = self.ddimLive;
  const {
    action, blank, canvas, choose, field, frame, h, mount, paced, paint, runner, seconds, seedOf, slide, typeset,
    whole,
  } = self.ddimPage;

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

  mount("between", between);
})();
