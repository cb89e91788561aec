(async () => {
  const get = (id) => document.getElementById(id);
  const status = get("status");
  const layers = ["reference", "prediction", "errors"];
  const LABELS = 1002; // NIfTI intent code of label maps
  const viewer = new niivue.Niivue({
    backColor: [0.05, 0.06, 0.08, 1], crosshairColor: [1, 1, 1, 0.6], crosshairWidth: 0.4, crosshairWidthUnit: "percent",
    fontColor: [1, 1, 1, 1],
    show3Dcrosshair: true, isResizeCanvas: true, showAllOrientationMarkers: true, multiplanarPadPixels: 12,
    isRadiologicalConvention: true, sagittalNoseLeft: true, // as in the report
  });
  window.viewer = viewer; // for scripts and the browser console
  await viewer.attachTo("canvas");
  viewer.onLocationChange = (at) => {
    const [x, y, z] = at.mm;
    const sides = [["R", "L", x], ["A", "P", y], ["S", "I", z]];
    const position = sides.map(([more, less, mm]) => `${mm < 0 ? less : more} ${Math.abs(mm).toFixed(1)}`);
    const scan = at.values.find((volume) => volume.name.startsWith("scan"));
    const value = scan ? `: ${Number(scan.value).toPrecision(4)}` : "";
    get("place").textContent = `${position.join(", ")} mm${value}${classesAt(at.values)}.`;
  };

  // Names of the classes at the crosshair, such as "; reference liver, prediction background".
  function classesAt(values) {
    const found = ["reference", "prediction"].flatMap((layer) => {
      const volume = values.find((each) => each.name.startsWith(layer));
      if (!volume) return [];
      const name = classes[Math.round(volume.value) - 1]?.name ?? "background";
      return [report ? `${layer} ${name}` : name];
    });
    return found.length ? `; ${found.join(", ")}` : "";
  }

  const { cases, classes, errors, window: shown, report } = await (await fetch("/cases.json")).json();
  const [select, view, outline] = [get("case"), get("view"), get("outline")];
  cases.forEach((one, index) => select.add(new Option(one.label, index)));

  function legend(entries) {
    return entries.flatMap((entry) => {
      const key = document.createElement("span");
      key.className = "key";
      key.style.setProperty("--color", `rgb(${entry.color})`);
      key.textContent = entry.name;
      return [key, " "];
    });
  }

  // Color map of label values with a transparent background.
  function colorMap(entries) {
    const map = { R: [0], G: [0], B: [0], A: [0], I: [0], labels: ["background"] };
    entries.forEach((entry, index) => {
      entry.color.forEach((value, channel) => map["RGB"[channel]].push(value));
      map.A.push(255);
      map.I.push(index + 1);
      map.labels.push(entry.name);
    });
    return map;
  }

  // A single label map has no report, and predictions have no reference.
  get("report").hidden = !report;
  if (!report) get("predicted").textContent = "Labels";
  for (const name of layers) get(name).parentElement.hidden = !cases.some((one) => one.volumes.includes(name));
  get("both").hidden = get("reference").parentElement.hidden;

  get("legend").replaceChildren(...legend(classes));
  get("wrong").append(...legend(errors));

  function indexOf(name) {
    return viewer.volumes.findIndex((volume) => volume.name.startsWith(name));
  }

  function show() {
    for (const name of layers.filter((layer) => indexOf(layer) >= 0)) {
      const opacity = Number(get(name).value);
      // NiiVue outlines every label map, even if it is transparent.
      const outlined = outline.checked && name !== "errors" && opacity > 0;
      viewer.volumes[indexOf(name)].hdr.intent_code = outlined ? LABELS : 0;
      viewer.setOpacity(indexOf(name), opacity);
    }
    viewer.setAtlasOutline(outline.checked ? 1 : 0);
    viewer.setSliceType(Number(view.value));
  }

  // Load one case at a time, because NiiVue mixes the volumes of cases that are loaded concurrently.
  let loading = false;
  async function load() {
    document.body.dataset.state = "loading";
    if (loading) return; // the loop below loads the new selection
    loading = true;
    for (let number = null; number !== select.value;) {
      number = select.value;
      await loadCase(number);
    }
    loading = false;
  }

  async function add(number, names) {
    await viewer.addVolumesFromUrl(names.map((name) => ({
      url: `/volumes/${number}/${name}.nii.gz`, name: `${name}.nii.gz`, colormap: "gray",
      ...(name === "scan" && shown ? { cal_min: shown[0], cal_max: shown[1] } : {}),
    })));
    for (const name of names.filter((each) => each !== "scan")) {
      viewer.volumes[indexOf(name)].setColormapLabel(colorMap(name === "errors" ? errors : classes));
    }
    viewer.updateGLVolume();
    show();
  }

  // Move the crosshair to the slices with most of a label map; return false if the label map is empty or missing.
  function goToMost(name) {
    if (indexOf(name) < 0) return false;
    const { hdr, img } = viewer.volumes[indexOf(name)];
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
      const positions = [...each.keys()].filter((position) => each[position] === most[axis]);
      return positions[positions.length >> 1];
    });
    const mm = hdr.affine.slice(0, 3).map((row) => row[0] * x + row[1] * y + row[2] * z + row[3]);
    viewer.scene.crosshairPos = viewer.mm2frac(mm);
    viewer.drawScene();
    viewer.createOnLocationChange();
    return true;
  }

  async function loadCase(number) {
    const one = cases[number];
    status.textContent = `Loading ${one.case} …`;
    get("summary").textContent = one.summary;
    history.replaceState(null, "", `#${encodeURIComponent(one.case)}`);
    for (const name of layers) get(name).disabled = !one.volumes.includes(name);
    get("wrong").hidden = get("errors").disabled;
    try {
      await viewer.loadVolumes([]); // removes the volumes of the previous case
      await add(number, one.volumes.filter((name) => name !== "errors"));
      status.textContent = unknown + (one.problem ?? "");
      unknown = "";
      if (one.volumes.includes("errors")) await showErrors(number);
      ["errors", "prediction", "reference"].some(goToMost);
      if (number === select.value) document.body.dataset.state = "loaded";
    } catch (error) {
      status.textContent = `${one.case} cannot be displayed: ${error.message ?? error}`;
      if (number === select.value) document.body.dataset.state = "failed";
    }
  }

  async function showErrors(number) {
    try {
      await add(number, ["errors"]);
    } catch (error) { // reference and prediction stay visible
      get("errors").disabled = get("wrong").hidden = true;
      status.textContent = `Errors cannot be displayed: ${error.message ?? error}`;
    }
  }

  let unknown = "";
  function requestedCase() {
    let name = location.hash.slice(1);
    try {
      name = decodeURIComponent(name);
    } catch { // invalid escape in a URL that was typed
    }
    const number = cases.findIndex((one) => one.case === name);
    if (name && number < 0) unknown = `${name} is not a case with known files. `;
    return Math.max(number, 0);
  }

  select.value = requestedCase();
  select.addEventListener("change", load);
  addEventListener("hashchange", () => {
    select.value = requestedCase();
    load();
  });
  for (const control of [view, outline, ...layers.map(get)]) control.addEventListener("input", show);
  get("controls").addEventListener("submit", (event) => event.preventDefault());
  await load();
})();
