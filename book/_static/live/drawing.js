// The sheet that the reader draws on, and the image that the network gets of it.
(() => {
  const { SIDE, h, id, paint } = self.ddimPage;

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
  function drawing(say) {
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
    let some = null; // whether there is ink, once somebody asked
    const inked = () => (some ??= context.getImageData(0, 0, FINE, FINE).data.some((value, i) => i % 4 === 0 && value > 40));
    const onchange = (whole) => {
      some = null;
      say(whole);
    };

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

  self.ddimDrawing = { drawing, shrunk };
})();
