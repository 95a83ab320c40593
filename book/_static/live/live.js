// The network in the reader's browser: loads it on demand into a worker, and asks it. Needs core.js and parts.js before it.
//
//   await ddim.sample({seed: 0, steps: 10, eta: 0, n: 1, spacing: "uniform", clip: false})
//
// gives a Float32Array of n * 784 pixels, those of `generate(..., noise="js")` in Python before it limits them to [-1, 1].
// `every` instead of `steps` visits every k-th time; `first` is the number of the first image; `onStep` is called with
// {t, s, call, calls, xt, x0, xs} after each call of the network; `signal`, of an AbortController, stops it.
(() => {
  const core = self.ddimCore;
  const parts = self.ddimParts; // written when the book is built; without it, the book was built without the network
  const folder = new URL("parts/", document.currentScript.src).href;
  const schedule = parts && new core.Schedule(parts.schedule);
  const size = parts && parts.schedule.shape.reduce((a, b) => a * b);

  // whether the browser takes a module of one function with these instructions
  function takes(...body) {
    const start = [0, 97, 115, 109, 1, 0, 0, 0, 1, 5, 1, 96, 0, 1, 123, 3, 2, 1, 0, 10, body.length + 4, 1, body.length + 2, 0];
    return WebAssembly.validate(new Uint8Array([...start, ...body, 11]));
  }
  const simd = () => takes(65, 1, 253, 15); // a vector of one number
  const relaxed = () => takes(65, 1, 253, 15, 65, 2, 253, 15, 253, 128, 2); // picked by another; with it a call takes two thirds of the time

  // why this browser cannot run it, or ""
  function obstacle() {
    if (!parts) return "This copy of the book was built without the network: “make book” adds it.";
    const needed = { WebAssembly: "WebAssembly", Worker: "workers", DecompressionStream: "DecompressionStream" };
    const lacking = Object.keys(needed).filter((name) => !(name in self));
    if ("WebAssembly" in self && !simd()) lacking.push("SIMD");
    if (!lacking.length) return "";
    const names = lacking.map((name) => needed[name] ?? name).join(" and ");
    return `This browser lacks ${names}: the network runs in Chrome and Edge from 91, Firefox from 113, Safari from 16.4.`;
  }

  const build = parts && (!obstacle() && relaxed() ? "relaxed" : "compat");
  const files = parts && parts.files.filter((file) => !file.build || file.build === build);
  const bytes = files && files.reduce((sum, file) => sum + file.bytes, 0);

  // The first code of the worker: unpacks what it is sent, and starts it. (Its source is taken as text: from a file that
  // was double-clicked a browser starts no worker in any other way.)
  function bootstrap() {
    const pieces = {};
    function plain({ part, base64 }) {
      try {
        return atob(base64);
      } catch {
        throw new Error(`its part “${part}” is damaged`);
      }
    }
    async function unpacked(part) {
      const stream = new Blob(pieces[part]).stream().pipeThrough(new DecompressionStream("gzip"));
      delete pieces[part];
      const whole = new Response(stream).arrayBuffer().catch(() => {
        throw new Error(`its part “${part}” is damaged`);
      });
      return new Uint8Array(await whole);
    }
    self.onmessage = async ({ data }) => {
      try {
        if (data.part) {
          const text = plain(data);
          const bytes = new Uint8Array(text.length);
          for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
          (pieces[data.part] ??= []).push(bytes);
          return;
        }
        (0, eval)(new TextDecoder().decode(await unpacked("runtime")));
        await self.ddimStart({ wasm: await unpacked("wasm"), model: await unpacked("model"), schedule: data.schedule });
        self.postMessage({ kind: "ready" });
      } catch (error) {
        self.postMessage({ kind: "broken", message: error.message });
      }
    };
  }

  function script(name) {
    return new Promise((resolve, reject) => {
      const tag = document.createElement("script");
      tag.src = `${folder}${name}?v=${parts.version}`;
      tag.onload = () => resolve(tag.remove());
      tag.onerror = () => reject(new Error(`${name} could not be loaded`));
      document.head.append(tag);
    });
  }

  let loading = null;
  const listeners = new Set(); // of the share that has been loaded

  // the worker, with the network in it; started once, and again only if that failed
  function load(onProgress) {
    if (onProgress) listeners.add(onProgress);
    loading ??= start().catch((error) => {
      loading = null;
      throw error;
    });
    return loading.finally(() => listeners.delete(onProgress));
  }

  async function start() {
    if (obstacle()) throw new Error(obstacle());
    const source = new Blob([`(${bootstrap})()`], { type: "text/javascript" });
    const address = URL.createObjectURL(source);
    const worker = new Worker(address);
    const ready = new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => (data.kind === "ready" ? resolve() : reject(new Error(data.message)));
      worker.onerror = (event) => reject(new Error(event.message || "the worker does not start"));
    });
    ready.catch(() => {}); // it is awaited below, and may fail before
    try {
      let done = 0;
      for (const { part, name, bytes: more } of files) {
        let came = false;
        self.ddimPart = (base64) => (came = true) && worker.postMessage({ part, base64 });
        await script(name);
        if (!came) throw new Error(`${name} is damaged`);
        done += more;
        listeners.forEach((listener) => listener(done / bytes));
      }
      worker.postMessage({ schedule: parts.schedule });
      await ready;
    } catch (error) {
      worker.terminate();
      throw error;
    } finally {
      delete self.ddimPart;
      URL.revokeObjectURL(address);
    }
    const end = (message) => {
      worker.onmessage = worker.onerror = null; // or a second word of its end would end the next one
      worker.terminate();
      loading = null; // the next request starts another
      api.ready = false;
      waiting.forEach((answer) => answer({ kind: "failed", message }));
    };
    worker.onmessage = ({ data }) => (data.kind === "broken" ? end(data.message) : waiting.get(data.id)?.(data));
    worker.onerror = (event) => end(event.message || "the worker has stopped");
    api.ready = true;
    return worker;
  }

  // --- requests -----------------------------------------------------------------------------------------------------------

  const waiting = new Map();
  let last = 0;

  const stopped = () => new DOMException("stopped", "AbortError");

  // ask the worker for a walk (see worker.js); resolves to where it ends
  async function walk(request, { onStep, onProgress, signal } = {}) {
    const worker = await load(onProgress);
    if (signal?.aborted) throw stopped();
    const id = ++last;
    const stop = () => worker.postMessage({ id, kind: "stop" });
    signal?.addEventListener("abort", stop);
    try {
      return await new Promise((resolve, reject) => {
        waiting.set(id, (message) => {
          if (message.kind === "step") {
            try {
              if (!signal?.aborted) onStep?.(message);
            } catch (error) {
              stop();
              reject(error);
            }
          } else if (message.kind === "done") resolve(message.x0);
          else reject(message.kind === "stopped" ? stopped() : new Error(message.message));
        });
        worker.postMessage({ ...request, id });
      });
    } finally {
      waiting.delete(id);
      signal?.removeEventListener("abort", stop);
    }
  }

  async function sample({ onStep, onProgress, signal, ...asked } = {}) {
    if (obstacle()) throw new Error(obstacle());
    const { seed = 0, n = 1, first = 0, eta = 0, spacing = "uniform", clip = false, every } = asked;
    const steps = every === undefined ? (asked.steps ?? 10) : asked.steps;
    core.whole(seed, "seed", 0, 2 ** 32 - 1);
    core.whole(n, "n", 1, 4096);
    core.whole(first, "first", 0, 2 ** 32 - 1 - n);
    core.checkEta(eta);
    schedule.timesteps({ steps, every, spacing }); // complains of what it cannot make
    return walk({ kind: "sample", seed, n, first, eta, spacing, clip: Boolean(clip), every, steps }, { onStep, onProgress, signal });
  }

  const api = { sample, walk, load, obstacle, schedule, size, bytes, build, ready: false };
  self.ddimLive = api;
  self.ddim = { sample };
})();
