"""The report's style sheet: quiet in light, in dark and on paper."""

STYLE = """
:root {
  --ground: #fcfcfa; --ink: #1b1e22; --muted: #6a7078; --rule: #e1e2de; --pale: #eeefeb;
  --before: #a9aeb5; --after: #1f6f8b; --good: #2c7a4b; --warn: #9a5b00; --bad: #b3261e;
  --read: #8877a8; --decode: #b9aed0; --frame: #5d4a85; --start: #8d949d; --load: #6a7078;
  --wait: #d1495b; --task: #e59aa4; --blocked: #edae49; --batch: #dfe9ec; --condition: #74b3c7;
  --sample: #cfe3e9; --step: #1f6f8b; --relabel: #a9d3de; --quality: #c4872a; --encode: #e2bd7d;
  --write: #8a5a1c; --fsync: #5e3b0e; --commit: #f0e0c4;
  --host-to-device: #3a9d6a; --device-to-host: #8fcfaa; --compute: #174f63;
}
@media (prefers-color-scheme: dark) {
  :root {
    --ground: #15171a; --ink: #e4e4e0; --muted: #979da6; --rule: #2d3137; --pale: #22262b;
    --before: #767d87; --after: #5cb3cf; --good: #6fcf97; --warn: #e5a64b; --bad: #f28b82;
    --read: #a99bc8; --decode: #7d6f9e; --frame: #cfc4e6; --start: #767d87; --load: #9aa1ab;
    --wait: #e0697a; --task: #97505a; --blocked: #edae49; --batch: #33525c; --condition: #8fd0e3;
    --sample: #55707a; --step: #3d93af; --relabel: #cdeaf2; --quality: #d99b3f; --encode: #f0d19b;
    --write: #a8752f; --fsync: #7a5118; --commit: #5c4a30;
    --host-to-device: #4fb581; --device-to-host: #2f6b4c; --compute: #7fd0ea;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 40px 32px 64px; max-width: 1320px; background: var(--ground);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
  font-variant-numeric: tabular-nums; -webkit-print-color-adjust: exact; print-color-adjust: exact;
}
h1 { margin: 10px 0 6px; max-width: 26em; font-size: 38px; font-weight: 600; line-height: 1.15;
  letter-spacing: -0.02em; text-wrap: balance; }
h2 { margin: 0; font-size: 15px; font-weight: 600; }
h3 { margin: 0 0 4px; font-size: 14px; font-weight: 600; }
p { margin: 0 0 12px; max-width: 76em; }
b { font-weight: 600; }
.lede { margin: 0 0 4px; font-size: 17px; }
.muted { color: var(--muted); }
.badge { display: inline-block; margin-right: 10px; padding: 1px 10px; border-radius: 99px;
  border: 1px solid; font-weight: 600; }
.good { color: var(--good); } .warn { color: var(--warn); } .bad { color: var(--bad); }
.tiles { display: flex; flex-wrap: wrap; margin: 26px 0 0; border-top: 1px solid var(--ink); }
.tiles div { flex: 1 1 130px; padding: 12px 16px 0 0; }
.tiles dd { margin: 0; font-size: 26px; line-height: 1.2; }
.tiles dt { color: var(--muted); }
section { display: grid; grid-template-columns: 128px minmax(0, 1fr); margin-top: 40px;
  padding-top: 14px; border-top: 1px solid var(--rule); }
.wide { overflow-x: auto; margin-bottom: 18px; }
table { border-collapse: collapse; font-size: 14px; }
th { color: var(--muted); font-weight: 400; text-align: left; vertical-align: bottom; }
th, td { padding: 4px 24px 4px 0; border-bottom: 1px solid var(--rule); }
td { vertical-align: top; }
td:last-child { overflow-wrap: anywhere; }
.numbers th, .numbers td { white-space: nowrap; }
.numbers th + th, .numbers td + td { text-align: right; }
.lines td { white-space: nowrap; }
.pairs td:first-child { color: var(--muted); white-space: nowrap; }
.pairs td:last-child { font-family: ui-monospace, Menlo, Consolas, monospace; font-size: 12.5px; }
details { margin: -8px 0 18px; }
summary { margin-bottom: 8px; color: var(--muted); font-size: 14px; cursor: pointer; }
figure { margin: 0 0 18px; break-inside: avoid; }
figcaption { margin-bottom: 8px; color: var(--muted); }
figcaption b { color: var(--ink); }
.panels { display: grid; grid-template-columns: repeat(auto-fill, minmax(290px, 1fr)); gap: 36px; }
svg { display: block; height: auto; overflow: visible; }
text { fill: var(--ink); font: 12px system-ui, sans-serif; font-variant-numeric: tabular-nums; }
.tick { fill: var(--muted); } .name { fill: var(--ink); }
.axis, .grid { stroke: var(--rule); } .median { stroke: var(--ink); }
.mark { stroke: var(--ink); stroke-dasharray: 3 3; }
.before { fill: var(--before); } .after { fill: var(--after); }
.area { fill: var(--after); opacity: 0.8; } .track { fill: var(--pale); }
.stage, .key { fill: var(--muted); background: var(--muted); }
.read { fill: var(--read); background: var(--read); }
.decode { fill: var(--decode); background: var(--decode); }
.frame { fill: var(--frame); background: var(--frame); }
.start { fill: var(--start); background: var(--start); }
.load { fill: var(--load); background: var(--load); }
.wait { fill: var(--wait); background: var(--wait); }
.task { fill: var(--task); background: var(--task); }
.blocked { fill: var(--blocked); background: var(--blocked); }
.batch { fill: var(--batch); background: var(--batch); }
.condition { fill: var(--condition); background: var(--condition); }
.sample { fill: var(--sample); background: var(--sample); }
.step { fill: var(--step); background: var(--step); }
.relabel { fill: var(--relabel); background: var(--relabel); }
.quality { fill: var(--quality); background: var(--quality); }
.encode { fill: var(--encode); background: var(--encode); }
.write { fill: var(--write); background: var(--write); }
.fsync { fill: var(--fsync); background: var(--fsync); }
.commit { fill: var(--commit); background: var(--commit); }
.host-to-device { fill: var(--host-to-device); background: var(--host-to-device); }
.compute { fill: var(--compute); background: var(--compute); }
.device-to-host { fill: var(--device-to-host); background: var(--device-to-host); }
.work { fill: var(--step); background: var(--step); }
.tables { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 480px), 1fr));
  gap: 0 48px; }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; margin: 10px 0; font-size: 13px;
  color: var(--muted); }
.key { display: inline-block; width: 11px; height: 11px; border-radius: 2px; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(280px, 1fr));
  gap: 34px 20px; }
.card { margin: 0; }
.card div { display: flex; gap: 4px; }
.card p { margin: 6px 0 0; font-size: 13px; color: var(--muted); }
.card data { color: var(--ink); }
.card img { width: 0; flex: 1; aspect-ratio: 1 / 4; background: #000; object-fit: contain; }
.card div span { flex: 1; min-height: 84px; padding: 12px 14px; background: var(--pale);
  color: var(--muted); font-size: 13px; overflow-wrap: anywhere; }
.flag { padding: 0 8px; border: 1px solid; border-radius: 99px; font-size: 12.5px;
  color: var(--warn); }
.failed, .open { color: var(--bad); }
.whole { display: block; }
.whole h2 { margin-bottom: 12px; }
@media (max-width: 760px) {
  body { padding: 20px 16px; }
  section { display: block; }
  h2 { margin-bottom: 10px; }
}
@media print {
  @page { margin: 14mm; }
  :root { --ground: #fff; }
  body { max-width: none; padding: 0; font-size: 11px; }
  h1 { font-size: 26px; }
  .lede, table, .tiles dd { font-size: 12px; }
  .tiles { flex-wrap: nowrap; }
  .wide { overflow: visible; }
  .numbers td, .numbers th { padding-right: 10px; font-size: 10px; white-space: normal; }
  .panels { grid-template-columns: repeat(3, 1fr); gap: 18px; }
  .times { grid-template-columns: auto 1fr; gap: 0 24px; }
  .legend, .lines td, .lines th { padding-right: 10px; font-size: 10px; }
  section { display: block; margin-top: 20px; }
  .cards { grid-template-columns: repeat(3, 1fr); gap: 18px; }
}
"""
