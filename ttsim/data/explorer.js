"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const AXES = { box: data.systems, setting: data.settings, batch: data.batches, length: data.lengths };
const USERS = [1, 2, 4, 8, 16, 32, 64, 128, 256, 512];
const state = { box: 0, setting: Math.min(2, data.settings.length - 1), batch: 0, length: 0, users: 0 };

function point(box, setting, batch, length) {
  const at = ((box * data.settings.length + setting) * data.batches.length + batch) * data.lengths.length + length;
  const packed = data.points[at];
  if (packed.length === 2) return { problem: packed[0], used: packed[1] };
  const [speed, ttft, used, low, high, decode, prefill] = packed;
  return { speed, ttft, used, low, high, decode, prefill };
}

function text(tag, content, attributes = {}) {
  const element = document.createElement(tag);
  element.textContent = content;
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  return element;
}

const number = (value) =>
  value >= 1000 ? Math.round(value).toLocaleString("en") : value >= 10 ? value.toFixed(1) : value.toFixed(2);
const tokens = (value) => (value % 1024 ? value.toLocaleString("en") : `${value / 1024}k`);

function card(name, best, unit, remark) {
  const element = document.createElement("div");
  element.className = "card";
  const figure = text("b", best + " ");
  figure.append(text("small", unit));
  element.append(name, figure, text("small", remark));
  return element;
}

function showCards(now, batch, users) {
  const setting = data.settings[state.setting];
  const span = now.low === null ? "no measurement tells how far off" :
    `${number(now.speed * now.low)} to ${number(now.speed * now.high)}`;
  const served = Math.min(users, batch);
  const waves = Math.ceil(users / batch);
  const one = now.ttft + (data.tokens - 1) / now.speed;
  byId("cards").replaceChildren(
    card("speed", number(now.speed), "t/s/u", span),
    card("TTFT", number(1000 * now.ttft), "ms", "of the batch that runs"),
    card("throughput", number(now.speed * served), "t/s", `${served} user${served > 1 ? "s" : ""} served at once`),
    card("request", number((one * (waves + 1)) / 2), "s", waves > 1 ? `mean, in ${waves} batches` : `${data.tokens} tokens`),
    card("Top-1", setting.top1.toFixed(1), "%", `± ${setting.error1}, estimated`),
    card("Top-5", setting.top5.toFixed(1), "%", `± ${setting.error5}, estimated`),
  );
}

function showMemory(used, capacity) {
  const share = Math.min(100, (100 * used) / capacity);
  const bar = document.createElement("div");
  bar.className = "stack";
  bar.setAttribute("role", "img");
  const said = `${(used / 1e9).toFixed(2)} of ${(capacity / 1e9).toFixed(2)} GB used`;
  bar.setAttribute("aria-label", said);
  const part = document.createElement("i");
  part.style.cssText = `width:${share}%;background:${used > capacity ? "var(--bad)" : "var(--m2,#94a3b8)"}`;
  bar.append(part);
  byId("memory").replaceChildren(bar, text("p", said, { class: "faint" }));
}

function showShares(id, shares) {
  const most = Math.max(...shares, 1);
  const rows = data.limits
    .map((limit, i) => ({ ...limit, share: shares[i] }))
    .filter((limit) => limit.share >= 0.5)
    .sort((a, b) => b.share - a.share);
  byId(id).replaceChildren(...rows.flatMap((limit) => {
    const track = text("span", "", { class: "track" });
    const bar = document.createElement("i");
    bar.style.cssText = `width:${(100 * limit.share) / most}%;background:${limit.colour}`;
    track.append(bar);
    return [text("span", limit.name, { class: "name", title: limit.what }), track,
      text("span", `${limit.share.toFixed(0)} %`, { class: "faint" })];
  }));
}

function front(points) {
  let best = -1;
  return [...points].sort((a, b) => b.speed - a.speed || b.top1 - a.top1).filter((each) => {
    const better = each.top1 > best;
    if (better) best = each.top1;
    return better;
  });
}

function showChart() {
  const points = [];
  data.systems.forEach((_, box) => data.settings.forEach((setting, index) => {
    const found = point(box, index, state.batch, state.length);
    if (found.speed) points.push({ box, setting: index, speed: found.speed, top1: setting.top1, error: setting.error1 });
  }));
  const holder = byId("chart");
  if (!points.length) return holder.replaceChildren(text("p", "nothing fits at this batch and prompt"));
  const width = Math.max(300, Math.min(holder.clientWidth || 640, 900));
  const [height, left, bottom, top, right] = [360, 46, 46, 34, width < 480 ? 24 : 120];
  const speeds = points.map((each) => each.speed);
  const [x0, x1] = [Math.log(Math.min(...speeds) / 1.15), Math.log(Math.max(...speeds) * 1.15)];
  const tops = points.flatMap((each) => [each.top1 - each.error, each.top1 + each.error]);
  const [y0, y1] = [Math.min(...tops) - 0.5, Math.max(...tops) + 0.5];
  const x = (value) => left + ((Math.log(value) - x0) / (x1 - x0)) * (width - left - right);
  const y = (value) => top + ((y1 - value) / (y1 - y0)) * (height - top - bottom);
  const shapes = [];
  for (let i = 0; i <= 4; i++) {
    const value = y0 + (i / 4) * (y1 - y0);
    const speed = Math.exp(x0 + (i / 4) * (x1 - x0));
    shapes.push(`<line x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}" stroke="var(--line)"/>`,
      `<text x="${left - 6}" y="${y(value) + 4}" text-anchor="end" fill="var(--faint)">${value.toFixed(1)}</text>`,
      `<text x="${x(speed)}" y="${height - 24}" text-anchor="middle" fill="var(--faint)">${number(speed)}</text>`);
  }
  shapes.push(`<text x="${(left + width - right) / 2}" y="${height - 4}" text-anchor="middle" fill="var(--ink)">speed, t/s/u</text>`,
    `<text x="0" y="14" fill="var(--ink)">Top-1, %</text>`);
  const own = front(points.filter((each) => each.box === state.box));
  shapes.push(`<polyline fill="none" stroke="var(--c5,#d55e00)" stroke-width="1.5" points="${own
    .map((each) => `${x(each.speed)},${y(each.top1)}`).join(" ")}"/>`);
  points.sort((a, b) => (a.box === state.box) - (b.box === state.box));
  for (const each of points) {
    const mine = each.box === state.box;
    const now = mine && each.setting === state.setting;
    const colour = mine ? "var(--c5,#d55e00)" : "var(--c0,#0072b2)";
    const name = `${data.systems[each.box].name}, ${data.settings[each.setting].name}`;
    if (now) shapes.push(`<line x1="${x(each.speed)}" x2="${x(each.speed)}" y1="${y(each.top1 - each.error)}" y2="${y(each.top1 + each.error)}" stroke="${colour}"/>`);
    shapes.push(`<circle cx="${x(each.speed)}" cy="${y(each.top1)}" r="${now ? 8 : mine ? 5 : 3.5}" fill="${colour}" opacity="${mine ? 1 : 0.55}" data-box="${each.box}" data-setting="${each.setting}"><title></title></circle>`);
    const end = x(each.speed) > width - 130; // labels stay inside
    if (mine) shapes.push(`<text x="${x(each.speed) + (end ? -10 : 10)}" y="${y(each.top1) + (each.setting % 2 ? 15 : -6)}" text-anchor="${end ? "end" : "start"}" fill="${colour}" class="label"></text>`);
    each.label = name;
  }
  holder.innerHTML = `<svg viewBox="0 0 ${width} ${height}" width="${width}" height="${height}" role="img" style="font:13px system-ui">${shapes.join("")}</svg>`;
  holder.firstChild.setAttribute("aria-label", `Speed against Top-1 of ${points.length} points`);
  holder.querySelectorAll("circle").forEach((circle, i) => {
    circle.firstChild.textContent = `${points[i].label}: ${number(points[i].speed)} t/s/u, Top-1 ${points[i].top1} %`;
    circle.addEventListener("click", () => { state.box = points[i].box; state.setting = points[i].setting; show(); });
  });
  const mine = points.filter((each) => each.box === state.box);
  holder.querySelectorAll(".label").forEach((label, i) => { label.textContent = data.settings[mine[i].setting].name; });
}

function showBoxes() {
  const wish = { speed: +byId("want-speed").value, ttft: +byId("want-ttft").value / 1000, top1: +byId("want-top1").value };
  const batch = data.batches[state.batch];
  const rows = [];
  data.systems.forEach((system, box) => {
    const found = data.settings.map((setting, index) => ({ system, box, setting, index, ...point(box, index, state.batch, state.length) }))
      .filter((each) => each.speed);
    for (const each of found)
      each.meets = each.speed >= wish.speed && each.ttft <= wish.ttft && each.setting.top1 >= wish.top1;
    found.sort((a, b) => b.meets - a.meets || b.speed - a.speed);
    if (found.length) rows.push(found[0]);
  });
  const price = (row) => row.system.price ?? Infinity;
  rows.sort((a, b) => b.meets - a.meets || price(a) - price(b) || a.box - b.box);
  const best = rows.find((row) => row.meets);
  byId("cheapest").textContent = best ?
    `${best.system.name} with ${best.setting.name}: ${number(best.speed)} t/s/u, ${number(1000 * best.ttft)} ms, Top-1 ${best.setting.top1} %` +
    (best.system.price ? `, boards of about ${best.system.price.toLocaleString("en")} $` : ", no public price") :
    "Nothing here meets it at this batch and prompt.";
  byId("boxes").replaceChildren(...rows.map((row) => {
    const line = document.createElement("tr");
    if (row.box === state.box) line.className = "now";
    const cells = [[row.system.name, 1], [row.system.price?.toLocaleString("en") ?? "?"], [row.setting.name, 1], [number(row.speed)],
      [number(1000 * row.ttft)], [number(row.speed * batch)], [row.setting.top1.toFixed(1)], [row.meets ? "yes" : "no", 1]];
    line.append(...cells.map(([content, left]) => text("td", content, left ? { class: "left" } : {})));
    return line;
  }));
}

function show() {
  for (const [name, values] of Object.entries(AXES)) {
    byId(name).max = values.length - 1;
    byId(name).value = state[name];
    const value = values[state[name]];
    const said = value.name ?? (name === "length" ? tokens(value) : value);
    byId(`${name}-out`).textContent = said;
    byId(name).setAttribute("aria-valuetext", said);
  }
  byId("users").value = state.users;
  byId("users-out").textContent = USERS[state.users];
  byId("users").setAttribute("aria-valuetext", USERS[state.users]);
  const now = point(state.box, state.setting, state.batch, state.length);
  byId("problem").hidden = !now.problem;
  byId("problem").textContent = now.problem ? `${data.systems[state.box].name}: ${now.problem}` : "";
  if (now.problem) byId("cards").replaceChildren();
  else showCards(now, data.batches[state.batch], USERS[state.users]);
  showMemory(now.used ?? 0, data.systems[state.box].capacity);
  const none = data.limits.map(() => 0);
  showShares("decode", now.decode ?? none);
  showShares("prefill", now.prefill ?? none);
  showChart();
  showBoxes();
  history.replaceState(null, "", "#" + Object.entries(state).map(([name, value]) => `${name}=${value}`).join("&"));
}

for (const part of location.hash.slice(1).split("&")) {
  const [name, value] = part.split("=");
  const most = name === "users" ? USERS.length : AXES[name]?.length;
  if (most && /^\d+$/.test(value)) state[name] = Math.min(+value, most - 1);
}
for (const name of Object.keys(state)) byId(name).addEventListener("input", (event) => { state[name] = +event.target.value; show(); });
for (const name of ["speed", "ttft", "top1"]) byId(`want-${name}`).addEventListener("input", showBoxes);
show();
addEventListener("resize", showChart);
