(() => {
  const body = document.getElementById("table").tBodies[0];
  const rows = [...body.rows];
  const find = document.getElementById("find");
  const ofClass = document.getElementById("of-class");
  const ofStatus = document.getElementById("of-status");
  const shown = document.getElementById("shown");
  const names = new Intl.Collator(undefined, { numeric: true });

  function compare(column, direction, isText) {
    return (one, other) => {
      const [a, b] = [one.cells[column], other.cells[column]];
      if (isText) return direction * names.compare(a.textContent, b.textContent);
      const [x, y] = [a, b].map((cell) => Number.parseFloat(cell.textContent.replace("−", "-")));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // dashes are always last
      return direction * (x - y);
    };
  }

  // Sort a table by the column whose head is clicked. Rows of groups are shown only in the original order, which
  // the third click restores.
  function makeSortable(table, numTextColumns) {
    const original = [...table.tBodies[0].rows];
    const hasGroups = original.some((row) => row.classList.contains("group"));
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => head.querySelector("button")?.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      heads.forEach((each) => each.removeAttribute("aria-sort"));
      const restored = hasGroups && before === "descending";
      table.classList.toggle("sorted", !restored);
      if (restored) {
        table.tBodies[0].append(...original);
        return;
      }
      const direction = before === "ascending" ? -1 : 1;
      head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
      table.tBodies[0].append(...[...original].sort(compare(column, direction, column < numTextColumns)));
    }));
  }
  makeSortable(document.getElementById("table"), 3);
  const classes = document.getElementById("classes");
  if (classes) makeSortable(classes, 1);

  function filter() {
    const query = find.value.toLocaleLowerCase();
    let count = 0;
    for (const row of rows) {
      const [name, className] = [row.cells[0].textContent, row.cells[1].textContent];
      const visible = name.toLocaleLowerCase().includes(query)
        && (!ofClass.value || className === ofClass.value)
        && (!ofStatus.value || row.dataset.status.split(" ").includes(ofStatus.value));
      row.hidden = !visible;
      count += visible;
    }
    shown.textContent = `${count} of ${rows.length} rows`;
  }

  if (location.search === "?viewer") { // served by `segbundle view`
    for (const row of rows) {
      const link = document.createElement("a");
      const name = row.cells[0].textContent;
      link.href = `/#${encodeURIComponent(name)}`;
      link.className = "view";
      link.setAttribute("aria-label", `view ${name} in 3D`);
      row.cells[0].append(link);
    }
  }

  // Print collapsed parts as well.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details").forEach((details) => { details.open = true; });
  });

  // Expand a collapsed section when a link leads into it.
  document.addEventListener("click", (event) => {
    const address = event.target.closest("a")?.getAttribute("href") ?? "";
    if (address.length < 2 || !address.startsWith("#")) return;
    const collapsed = document.getElementById(address.slice(1))?.closest("details");
    if (collapsed) collapsed.open = true;
  });

  for (const control of [find, ofClass, ofStatus]) {
    for (const event of ["input", "change"]) control.addEventListener(event, filter);
  }
  filter();
})();
