// Typesets the equations while every slide is laid out, then starts reveal.js.
(async () => {
  const leaves = () => [...document.querySelectorAll(".slides section")].filter((s) => !s.querySelector("section"));

  // A slide that is too tall shrinks until it fits: nothing may lie below the edge, whatever the chapter says tomorrow.
  function fit(slide) {
    if (!slide) return;
    const shown = [...slide.children].filter((e) => e.tagName !== "ASIDE");
    const top = () => slide.getBoundingClientRect().top;
    const tall = () => (Math.max(...shown.map((e) => e.getBoundingClientRect().bottom)) - top()) / Reveal.getScale();
    slide.style.zoom = 1;
    for (let zoom = 1; tall() > 700 && zoom > 0.5; zoom -= 0.04) slide.style.zoom = zoom;
  }

  await MathJax.startup.promise;
  await MathJax.typesetPromise();

  await Reveal.initialize({
    width: 1120,
    height: 720,
    margin: 0.04,
    center: false,
    hash: true,
    transition: "none",
    slideNumber: "c/t",
    showSlideNumber: "all",
    plugins: [RevealNotes],
    keyboardCondition: (event) => !event.target.closest?.("input, summary"),
  });
  // reveal.js gives slides sizes only while it shows them
  Reveal.on("slidechanged", (event) => fit(event.currentSlide));
  Reveal.on("resize", () => fit(Reveal.getCurrentSlide()));
  document.addEventListener("toggle", () => fit(Reveal.getCurrentSlide()), true);
  // in a picture that a slider draws, the size comes late
  document.addEventListener("load", (event) => { if (event.target.tagName === "IMG") fit(Reveal.getCurrentSlide()); }, true);
  fit(Reveal.getCurrentSlide());

  // The arrow keys belong to a slider that has the focus; Escape gives them back.
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && event.target.matches?.("input[type=range]")) {
      event.target.blur();
      event.stopPropagation();
    }
  }, true);
  // Dragging a slider on a touch screen does not turn the slide.
  for (const slide of leaves()) if (slide.querySelector(".jupyter-widgets")) slide.dataset.preventSwipe = "";
  document.documentElement.dataset.ready = "";
})();
