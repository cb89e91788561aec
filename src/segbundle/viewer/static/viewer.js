(async () => {
  const get = (id) => document.getElementById(id);
  const told = get("told");
  const layers = ["reference", "prediction"];
  const viewer = new niivue.Niivue({
    backColor: [0.05, 0.06, 0.08, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.15, crosshairWidthUnit: "percent",
    show3Dcrosshair: true, isResizeCanvas: true, isRadiologicalConvention: true,
  });
  window.viewer = viewer; // for those who want more than the controls offer
  await viewer.attachTo("canvas");

  const { cases, classes } = await (await fetch("/cases.json")).json();
  const [select, view, outline] = [get("case"), get("view"), get("outline")];
  cases.forEach((one, index) => select.add(new Option(one.label, index)));
  get("legend").replaceChildren(...classes.map((one) => {
    const key = document.createElement("span");
    key.className = "key";
    key.style.setProperty("--colour", `rgb(${one.colour})`);
    key.textContent = one.name;
    return key;
  }));

  // Colours of label values, with nothing for the background.
  const table = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
  classes.forEach((one, index) => {
    one.colour.forEach((value, channel) => table["RGB"[channel]].push(value));
    table.A.push(255);
    table.I.push(index + 1);
    table.labels.push(one.name);
  });

  function place(name) {
    return viewer.volumes.findIndex((volume) => volume.name.startsWith(name));
  }

  function show() {
    for (const name of layers) {
      if (place(name) > 0) viewer.setOpacity(place(name), Number(get(name).value));
    }
    viewer.setAtlasOutline(outline.checked ? 1 : 0);
    viewer.setSliceType(Number(view.value));
  }

  // One case after another: NiiVue would mix the volumes of two that are being loaded.
  let loading = false;
  async function load() {
    document.body.dataset.state = "loading";
    if (loading) return; // the loop below sees what is selected now
    loading = true;
    for (let place = null; place !== select.value;) {
      place = select.value;
      await loadCase(place);
    }
    loading = false;
  }

  async function loadCase(number) {
    const one = cases[number];
    told.textContent = `Loading ${one.case} …`;
    get("scores").textContent = one.scores;
    location.hash = encodeURIComponent(one.case);
    for (const name of layers) get(name).disabled = !one.volumes.includes(name);
    try {
      await viewer.loadVolumes(one.volumes.map((name) => ({
        url: `/volumes/${number}/${name}.nii.gz`, name: `${name}.nii.gz`, colormap: "gray",
      })));
      for (const name of layers) {
        if (place(name) > 0) viewer.volumes[place(name)].setColormapLabel(table);
      }
      viewer.updateGLVolume();
      show();
      told.textContent = one.problem ?? "";
      if (number === select.value) document.body.dataset.state = "loaded";
    } catch (error) {
      told.textContent = `${one.case} cannot be shown: ${error.message ?? error}`;
      if (number === select.value) document.body.dataset.state = "failed";
    }
  }

  let asked = location.hash.slice(1);
  try {
    asked = decodeURIComponent(asked);
  } catch { // typed by hand
  }
  select.value = Math.max(cases.findIndex((one) => one.case === asked), 0);
  select.addEventListener("change", load);
  for (const control of [view, outline, ...layers.map(get)]) control.addEventListener("input", show);
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  if (cases.length) await load();
  else told.textContent = "There is no case whose files are known.";
})();
