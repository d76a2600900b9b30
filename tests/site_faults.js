// What is wrong with a page for those who cannot see it, or not well: one text a fault.
() => {
  const faults = [];
  const named = (one) => (one.getAttribute("aria-label") || one.textContent || one.alt || "").trim()
    || (one.labels && one.labels.length) || one.getAttribute("aria-labelledby");
  for (const one of document.querySelectorAll("a, button, input, select, summary, [role=region], nav"))
    if (!named(one)) faults.push(`no name: ${one.outerHTML.slice(0, 80)}`);
  for (const one of document.querySelectorAll("img")) if (!one.alt) faults.push("no alt");
  for (const one of document.querySelectorAll("svg:not([aria-hidden])"))
    if (one.getAttribute("role") !== "img" || !one.querySelector("title") || !one.querySelector("desc"))
      faults.push("a drawing without words");
  for (const one of document.querySelectorAll("table"))
    for (const head of one.querySelectorAll("th")) if (!head.scope) faults.push("a heading without scope");
  let level = 0;
  for (const one of document.querySelectorAll("h1, h2, h3, h4")) {
    const now = Number(one.tagName[1]);
    if (now > level + 1) faults.push(`heading ${now} after ${level}`);
    level = now;
  }
  if (document.querySelectorAll("h1").length !== 1 || document.querySelectorAll("main").length !== 1)
    faults.push("not one heading and one main part");
  if (!document.documentElement.lang || !document.title) faults.push("no language or title");
  if (document.documentElement.scrollWidth > innerWidth) faults.push(`wider than the window: ${document.documentElement.scrollWidth}`);

  const parse = (text) => { const v = text.match(/[\d.]+/g).map(Number); return v.length > 3 && v[3] === 0 ? null : v.slice(0, 3); };
  const light = (c) => { const [r, g, b] = c.map((v) => v / 255).map((v) => v <= .04045 ? v / 12.92 : ((v + .055) / 1.055) ** 2.4); return .2126 * r + .7152 * g + .0722 * b; };
  for (const one of document.querySelectorAll("main *, header *")) {
    const own = [...one.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || !one.getClientRects().length || one.closest("svg, option")) continue;
    let below = one, back = null;
    while (below && !(back = parse(getComputedStyle(below).backgroundColor))) below = below.parentElement;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(back || [255, 255, 255])].sort((x, y) => y - x);
    if ((a + .05) / (b + .05) < 4.5) faults.push(`contrast: ${one.outerHTML.slice(0, 80)}`);
  }
  return faults;
}
