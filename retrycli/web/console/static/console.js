// Makes the pages pleasant; every page works without it. It polls the page that is open.
"use strict";
(() => {
  const POLL_MS = 15000;
  const POLL_REST = 20; // how many times as long as an answer takes to wait for the next, so that open pages cost little
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const asOf = document.getElementById("as-of");
  const changes = document.getElementById("changes");
  const mustRecover = "recover" in document.body.dataset;
  const shown = new Map(all("[data-live]").map((region) => [region.dataset.live, region.innerHTML]));
  const waiting = new Map();
  let pollAt = Date.now() + POLL_MS;

  // -- live regions: compared and swapped, unless somebody is using them --

  const isEdited = (field) => field.value !== field.defaultValue || field.checked !== field.defaultChecked;
  const isInUse = (region) =>
    region.contains(document.activeElement) ||
    region.querySelector("details[open]") !== null ||
    all("input, textarea", region).some(isEdited);
  const rows = (html) => {
    const parsed = new DOMParser().parseFromString(html, "text/html");
    return new Map(all("[data-key]", parsed).map((row) => [row.dataset.key, row.textContent]));
  };
  const difference = (before, after) => {
    const [old, now] = [rows(before), rows(after)];
    const changed = [...new Set([...old.keys(), ...now.keys()])].filter((key) => old.get(key) !== now.get(key));
    return Math.max(changed.length, 1);
  };
  const two = (number) => String(Math.trunc(Math.abs(number))).padStart(2, "0");
  const inZone = (at) => { // in the browser's zone instead of UTC
    const east = -at.getTimezoneOffset(); // minutes
    const local = new Date(at.getTime() + east * 60000).toISOString().slice(0, 16).replace("T", " ");
    return `${local}${east < 0 ? "-" : "+"}${two(east / 60)}:${two(east % 60)}`;
  };
  const tellZone = (within) => all("time", within).forEach((time) => { time.textContent = inZone(new Date(time.dateTime)); });
  const swap = (region, html) => {
    const ticked = all("input[type=checkbox]:checked", region).map((box) => box.value);
    const row = document.activeElement.closest("[data-key]")?.dataset.key;
    region.innerHTML = html;
    shown.set(region.dataset.live, html);
    waiting.delete(region.dataset.live);
    all("input[type=checkbox]", region).forEach((box) => { box.checked = ticked.includes(box.value); });
    tellZone(region);
    if (row) all("[data-key]", region).find((each) => each.dataset.key === row)?.querySelector("a")?.focus();
    tellTicked();
  };
  const tellWaiting = () => {
    const number = [...waiting].reduce((sum, [name, html]) => sum + difference(shown.get(name), html), 0);
    changes.hidden = number === 0;
    changes.textContent = `${number} ${number === 1 ? "change" : "changes"} · show`;
  };
  const take = (page) => {
    all("[data-live]").forEach((region) => {
      const html = all("[data-live]", page).find((each) => each.dataset.live === region.dataset.live)?.innerHTML;
      if (html === undefined || html === shown.get(region.dataset.live)) waiting.delete(region.dataset.live);
      else if (isInUse(region)) waiting.set(region.dataset.live, html);
      else swap(region, html);
    });
    asOf.innerHTML = page.getElementById("as-of").innerHTML;
    tellZone(asOf);
    tellWaiting();
  };
  const poll = async () => {
    const began = Date.now();
    pollAt = Infinity; // one request at a time
    let answer;
    try { answer = await fetch(document.body.dataset.poll ?? location.href, { cache: "no-store" }); } catch { answer = { ok: false }; }
    pollAt = began + Math.max(POLL_MS, POLL_REST * (Date.now() - began));
    const isPage = answer.ok && !answer.redirected;
    asOf.classList.toggle("stale", !isPage);
    if (!isPage) return;
    if (mustRecover) location.reload();
    else take(new DOMParser().parseFromString(await answer.text(), "text/html"));
  };
  const pollIfDue = () => { if (!document.hidden && Date.now() >= pollAt) poll(); };
  if (shown.size || mustRecover) {
    setInterval(pollIfDue, 1000);
    document.addEventListener("visibilitychange", pollIfDue);
  }
  changes.addEventListener("click", () => {
    waiting.forEach((html, name) => swap(all("[data-live]").find((region) => region.dataset.live === name), html));
    tellWaiting();
  });

  // -- fields with a time: without an offset, it is in the browser's zone --

  const withZone = (text) => {
    const [, day, hour] = /^(\d{4}-\d\d-\d\d)?[ T]?(\d\d:\d\d)?$/.exec(text.trim()) ?? [];
    if (!day && !hour) return text;
    const at = new Date(`${day ?? inZone(new Date()).slice(0, 10)}T${hour ?? "00:00"}`);
    if (!day && at > new Date()) at.setDate(at.getDate() - 1);
    return Number.isNaN(at.getTime()) ? text : inZone(at);
  };
  document.addEventListener("formdata", (event) => all("input[data-time]", event.target).forEach((field) => {
    if (event.formData.has(field.name)) event.formData.set(field.name, withZone(field.value));
  }));

  // -- ticked messages; a form that was sent is not sent again --

  const tellTicked = () => {
    const number = all("input[name=id]:checked").length;
    all("[data-ticked]").forEach((button) => { button.textContent = `Continue with ${number} ticked`; });
  };
  document.addEventListener("change", tellTicked);
  document.addEventListener("submit", (event) => {
    if (event.target.method !== "post") return;
    if (event.target.dataset.sent) event.preventDefault();
    event.target.dataset.sent = "yes";
    event.submitter?.setAttribute("aria-busy", "true");
  });
  window.addEventListener("pageshow", () => all("[data-sent]").forEach((form) => { delete form.dataset.sent; }));

  tellTicked();
  tellZone(document);
})();
