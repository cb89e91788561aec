(async () => {
  const get = (id) => document.getElementById(id);
  const told = get("told");
  const layers = ["reference", "prediction", "errors"];
  const LABELS = 1002; // NIfTI's intent code of label maps
  const viewer = new niivue.Niivue({
    backColor: [0.05, 0.06, 0.08, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.4, crosshairWidthUnit: "percent",
    show3Dcrosshair: true, isResizeCanvas: true, showAllOrientationMarkers: true, multiplanarPadPixels: 12,
    isRadiologicalConvention: true, sagittalNoseLeft: true, // as in the report
  });
  window.viewer = viewer; // for those who want more than the controls offer
  await viewer.attachTo("canvas");
  viewer.onLocationChange = (at) => {
    const [x, y, z] = at.mm;
    const sides = [["R", "L", x], ["A", "P", y], ["S", "I", z]];
    const words = sides.map(([more, less, mm]) => `${mm < 0 ? less : more} ${Math.abs(mm).toFixed(1)}`);
    const scan = at.values.find((one) => one.name.startsWith("scan"));
    get("place").textContent = `${words.join(", ")} mm${scan ? `: ${Number(scan.value).toPrecision(4)}` : ""}.`;
  };

  const { cases, classes, errors, window: shown } = await (await fetch("/cases.json")).json();
  const [select, view, outline] = [get("case"), get("view"), get("outline")];
  cases.forEach((one, index) => select.add(new Option(one.label, index)));

  function keys(named) {
    return named.flatMap((one) => {
      const key = document.createElement("span");
      key.className = "key";
      key.style.setProperty("--colour", `rgb(${one.colour})`);
      key.textContent = one.name;
      return [key, " "];
    });
  }

  // Colours of label values, with nothing for the background.
  function table(named) {
    const found = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
    named.forEach((one, index) => {
      one.colour.forEach((value, channel) => found["RGB"[channel]].push(value));
      found.A.push(255);
      found.I.push(index + 1);
      found.labels.push(one.name);
    });
    return found;
  }

  get("legend").replaceChildren(...keys(classes));
  get("wrong").append(...keys(errors));

  function place(name) {
    return viewer.volumes.findIndex((volume) => volume.name.startsWith(name));
  }

  function show() {
    for (const name of layers.filter((one) => place(one) > 0)) {
      const opacity = Number(get(name).value);
      // NiiVue outlines what calls itself a label map, also if it is invisible.
      const outlined = outline.checked && name !== "errors" && opacity > 0;
      viewer.volumes[place(name)].hdr.intent_code = outlined ? LABELS : 0;
      viewer.setOpacity(place(name), opacity);
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

  async function add(number, names) {
    await viewer.addVolumesFromUrl(names.map((name) => ({
      url: `/volumes/${number}/${name}.nii.gz`, name: `${name}.nii.gz`, colormap: "gray",
      ...(name === "scan" && shown ? { cal_min: shown[0], cal_max: shown[1] } : {}),
    })));
    for (const name of names.filter((one) => place(one) > 0)) {
      viewer.volumes[place(name)].setColormapLabel(table(name === "errors" ? errors : classes));
    }
    viewer.updateGLVolume();
    show();
  }

  // In each plane to the slice with most of a label map; whether there is any.
  function goToMost(name) {
    if (place(name) < 0) return false;
    const { hdr, img } = viewer.volumes[place(name)];
    const counts = [1, 2, 3].map((axis) => new Uint32Array(hdr.dims[axis]));
    let voxel = 0;
    for (let z = 0; z < counts[2].length; z++) {
      for (let y = 0; y < counts[1].length; y++) {
        for (let x = 0; x < counts[0].length; x++) {
          if (!img[voxel++]) continue;
          counts[0][x]++; counts[1][y]++; counts[2][z]++;
        }
      }
    }
    const most = counts.map((each) => each.reduce((a, b) => Math.max(a, b), 0));
    if (!most[0]) return false;
    const [x, y, z] = counts.map((each, axis) => {
      const places = [...each.keys()].filter((one) => each[one] === most[axis]);
      return places[places.length >> 1];
    });
    const mm = hdr.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
    viewer.scene.crosshairPos = viewer.mm2frac(mm);
    viewer.drawScene();
    viewer.createOnLocationChange();
    return true;
  }

  async function loadCase(number) {
    const one = cases[number];
    told.textContent = `Loading ${one.case} …`;
    get("told-of").textContent = one.told;
    history.replaceState(null, "", `#${encodeURIComponent(one.case)}`);
    for (const name of layers) get(name).disabled = !one.volumes.includes(name);
    get("wrong").hidden = get("errors").disabled;
    try {
      await viewer.loadVolumes([]); // takes away those of the case before
      await add(number, one.volumes.filter((name) => name !== "errors"));
      told.textContent = unknown + (one.problem ?? "");
      unknown = "";
      if (one.volumes.includes("errors")) await showErrors(number);
      ["errors", "prediction", "reference"].some(goToMost);
      if (number === select.value) document.body.dataset.state = "loaded";
    } catch (error) {
      told.textContent = `${one.case} cannot be shown: ${error.message ?? error}`;
      if (number === select.value) document.body.dataset.state = "failed";
    }
  }

  async function showErrors(number) {
    try {
      await add(number, ["errors"]);
    } catch (error) { // the volumes that they were to be made of are shown
      get("errors").disabled = get("wrong").hidden = true;
      told.textContent = `Errors cannot be shown: ${error.message ?? error}`;
    }
  }

  let unknown = "";
  function asked() {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch { // typed by hand
    }
    const number = cases.findIndex((one) => one.case === name);
    if (name && number < 0) unknown = `${name} is none of the cases whose files are known. `;
    return Math.max(number, 0);
  }

  select.value = asked();
  select.addEventListener("change", load);
  addEventListener("hashchange", () => {
    select.value = asked();
    load();
  });
  for (const control of [view, outline, ...layers.map(get)]) control.addEventListener("input", show);
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  await load();
})();
