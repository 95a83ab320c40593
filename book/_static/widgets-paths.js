// Runs between require.js and the widget manager: says where the manager's own files and anywidget lie beside this page,
// for otherwise both are asked from a CDN. A file named in a path has no ".js": require.js adds it.
(() => {
  const vendor = new URL("vendor", document.currentScript.src).href;
  window.requirejs.config({
    waitSeconds: 60,
    paths: {
      anywidget: `${vendor}/anywidget`,
      "@jupyter-widgets/html-manager/dist": `${vendor}/html-manager`,
      "@jupyter-widgets": `${vendor}/html-manager`,
    },
  });
})();
