// Runs in a worker, behind LiteRT (`self.litert`) and core.js (`self.ddimCore`): holds the network and answers requests.
// In: {id, kind, ...} to start a walk, {id, kind: "stop"} to end it. Out: {id, kind: "step" | "done" | "stopped" | "failed"}, and
// {kind: "broken"} when it cannot go on.
(() => {
  const core = self.ddimCore;
  let network = null;
  let schedule = null;
  let turn = Promise.resolve(); // the runtime answers one call at a time; walks take turns, call by call
  const stopped = new Set();
  class Stopped extends Error {}
  const { port1, port2 } = new MessageChannel();

  // give messages (stop, above all) their chance; a timer would wait 4 ms
  const breathe = () =>
    new Promise((resolve) => {
      port1.onmessage = resolve;
      port2.postMessage(0);
    });

  async function call(x, t, id) {
    const [C, H, W] = schedule.shape;
    const size = C * H * W;
    const eps = new Float32Array(x.length);
    const time = new self.litert.Tensor(new Int32Array([t]), [1]);
    try {
      for (let at = 0; at < x.length; at += size) {
        if (stopped.has(id)) throw new Stopped();
        const image = new self.litert.Tensor(x.slice(at, at + size), [1, C, H, W]);
        const [answer] = await network.run([image, time]);
        eps.set(answer.toTypedArray(), at);
        [image, answer].forEach((tensor) => tensor.delete());
        await breathe();
      }
      time.delete();
    } catch (error) {
      if (error instanceof Stopped) time.delete(); // after another error the runtime goes, and all that it holds
      throw error;
    }
    return eps;
  }

  function walk(asked) {
    const predict = (x, t) => {
      const answer = turn.then(() => call(x, t, asked.id));
      turn = answer.catch(() => {});
      return answer;
    };
    const size = schedule.shape.reduce((a, b) => a * b);
    const { seed = 0, n = 1, first = 0, eta = 0, clip = false } = asked;
    const draw = core.imageNoise(seed, n, size, first);
    if (asked.kind === "sample") {
      return core.sample(predict, schedule, draw(), schedule.timesteps(asked), { eta, clip, draw });
    }
    if (asked.kind === "between") {
      const [a, b] = asked.seeds.map((one) => core.imageNoise(one, 1, size)());
      const way = asked.way === "line" ? core.lerp : core.slerp;
      return core.sample(predict, schedule, way(a, b, asked.weights), schedule.timesteps(asked), { eta, clip, draw });
    }
    if (asked.kind === "down") {
      // from an image noised to t, or from a state that is there already
      const xt = asked.noised ? asked.x : core.addNoise(asked.x, asked.t, draw(), schedule);
      return core.sample(predict, schedule, xt, schedule.from(asked.t, asked.steps), { eta, clip, draw });
    }
    if (asked.kind === "up") return core.encode(predict, schedule, asked.x, schedule.from(asked.t, asked.steps));
    if (asked.kind === "fill") {
      const tau = schedule.timesteps({ steps: asked.steps });
      return core.fill(predict, schedule, asked.x, asked.known, tau, { draw, visits: asked.visits });
    }
    throw new RangeError(`unknown request ${asked.kind}`);
  }

  async function answer(asked) {
    const { id } = asked;
    try {
      let end = null;
      for await (const state of walk(asked)) {
        if (stopped.has(id)) throw new Stopped();
        end = state.xs;
        self.postMessage({ id, kind: "step", ...state });
      }
      self.postMessage({ id, kind: "done", x0: end });
    } catch (error) {
      if (error instanceof WebAssembly.RuntimeError) throw error; // of the runtime, which may not go on after it
      self.postMessage(error instanceof Stopped ? { id, kind: "stopped" } : { id, kind: "failed", message: error.message });
    } finally {
      stopped.delete(id);
    }
  }

  self.ddimStart = async ({ wasm, model, schedule: asked }) => {
    schedule = Object.assign(new core.Schedule(asked), { shape: asked.shape });
    self.Module = { wasmBinary: wasm, print() {}, printErr() {} }; // what it prints is what it is made of
    await self.litert.loadLiteRt("litert.js");
    network = await self.litert.loadAndCompile(model, { accelerator: "wasm" });
    const running = new Set();
    self.onmessage = ({ data }) => {
      if (data.kind !== "stop") {
        running.add(data.id);
        answer(data).then(() => running.delete(data.id), (error) => self.postMessage({ kind: "broken", message: error.message }));
      } else if (running.has(data.id)) stopped.add(data.id);
    };
  };
})();
