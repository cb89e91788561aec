(() => {
  const table = document.getElementById("table");
  const body = table.tBodies[0];
  const rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const find = document.getElementById("find");
  const ofClass = document.getElementById("of-class");
  const ofStatus = document.getElementById("of-status");
  const shown = document.getElementById("shown");
  const names = new Intl.Collator(undefined, { numeric: true });

  function compare(column, direction) {
    const isText = column < 3;
    return (one, other) => {
      const [a, b] = [one.cells[column], other.cells[column]];
      if (isText) return direction * names.compare(a.textContent, b.textContent);
      const [x, y] = [a, b].map((cell) => Number(cell.textContent.replace("−", "-")));
      if (Number.isNaN(x) || Number.isNaN(y)) return Number.isNaN(x) - Number.isNaN(y); // dashes are always last
      return direction * (x - y);
    };
  }

  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const direction = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", direction > 0 ? "ascending" : "descending");
    rows.sort(compare(column, direction));
    body.append(...rows);
  }));

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

  // Print the configuration even if it is collapsed.
  addEventListener("beforeprint", () => {
    document.querySelectorAll("details.config").forEach((details) => { details.open = true; });
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
