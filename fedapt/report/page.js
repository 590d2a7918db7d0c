"use strict";
// Draws every plot of the page from the JSON beside it; its views change the data, the chips of a comparison hide its arms.

const MOST_BANDS = 8;
const hidden = new Set();
const plots = [];

// Plotly writes into what it is given, so every drawing gets a copy.
function drawing(plot) {
  const { data, layout } = structuredClone(plot.figure);
  const view = structuredClone(plot.views[plot.view] || { traces: [], layout: {} });
  view.traces.forEach((change, index) => Object.assign(data[index], change));
  for (const [key, change] of Object.entries(view.layout)) {
    layout[key] = change && !Array.isArray(change) && typeof change === "object" ? { ...layout[key], ...change } : change;
  }
  const shown = new Set(data.filter((trace) => armOf(trace) !== null).map(armOf).filter((arm) => !hidden.has(arm)));
  for (const trace of data) {
    const arm = armOf(trace);
    if (arm !== null && (hidden.has(arm) || (trace.meta.band && shown.size > MOST_BANDS))) trace.visible = false;
  }
  return { data, layout };
}

function armOf(trace) {
  return trace.meta && trace.meta.arm !== undefined ? trace.meta.arm : null;
}

function draw(plot) {
  const { data, layout } = drawing(plot);
  return Plotly.react(plot.element, data, layout, { responsive: true, displaylogo: false, modeBarButtons: [["toImage"]] });
}

function choose(plot, view) {
  plot.view = view;
  for (const button of plot.card.querySelectorAll("button[data-view]")) {
    button.setAttribute("aria-pressed", String(Number(button.dataset.view) === view));
  }
  draw(plot);
}

function show(arms, visible) {
  for (const chip of arms) {
    chip.setAttribute("aria-pressed", String(visible));
    hidden[visible ? "delete" : "add"](Number(chip.dataset.arm));
  }
  plots.filter((plot) => plot.figure.data.some((trace) => armOf(trace) !== null)).forEach(draw);
}

function start() {
  if (typeof Plotly === "undefined") {
    for (const notice of document.querySelectorAll(".no-plots")) notice.hidden = false;
    return;
  }
  for (const element of document.querySelectorAll(".plot")) {
    const { figure, views } = JSON.parse(element.nextElementSibling.textContent);
    const plot = { element, figure, views, view: 0, card: element.closest(".card") };
    plots.push(plot);
    for (const button of plot.card.querySelectorAll("button[data-view]")) {
      button.addEventListener("click", () => choose(plot, Number(button.dataset.view)));
    }
    for (const list of plot.card.querySelectorAll("select.view")) {
      list.addEventListener("change", () => choose(plot, Number(list.value)));
    }
    draw(plot);
  }
  const chips = [...document.querySelectorAll(".chip")];
  for (const chip of chips) {
    chip.addEventListener("click", () => show([chip], chip.getAttribute("aria-pressed") === "false"));
  }
  for (const button of document.querySelectorAll("button[data-arms]")) {
    button.addEventListener("click", () => show(chips, button.dataset.arms === "all"));
  }
}

document.addEventListener("DOMContentLoaded", start);
