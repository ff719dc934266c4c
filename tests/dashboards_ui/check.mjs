// What each panel shows, as text, by Grafana's own code; and what is wrong with it.
// node out/check.mjs SCENES.json: prints {"text": ..., "problems": [...], "counts": {...}}.
import { readFileSync } from 'node:fs';
import {
  createTheme,
  fieldMatchers,
  formattedValueToString,
  getFieldDisplayValues,
  getValueFormats,
  standardTransformersRegistry,
} from '@grafana/data';
import { knownProperty, prepared, replaced } from './frames.mjs';

const theme = createTheme();
const ROWS = 6;
const problems = [];
const counts = { boards: 0, panels: 0, fields: 0, rows: 0, links: 0, overrides: 0 };
const text = [];

const formatted = (display) => formattedValueToString(display).trim();
const nameOf = (field) => field.state?.displayName ?? field.name;

const UNITS = new Set(getValueFormats().flatMap(({ submenu }) => submenu.map(({ value }) => value)));
// Units that carry their own text or format; Grafana makes a suffix of any other word that it does not know.
const OWN = /^(suffix|time|prefix|si|count|currency):./;

function checkUnit(where, unit) {
  if (!UNITS.has(unit) && !OWN.test(unit)) problems.push(`${where}: Grafana has no unit ${unit}`);
}

function checkOverrides(panel, where, frames) {
  for (const override of panel.fieldConfig.overrides) {
    counts.overrides++;
    const matches = fieldMatchers.get(override.matcher.id).get(override.matcher.options);
    const fields = frames.flatMap((frame) => frame.fields.filter((field) => matches(field, frame, frames)));
    if (!fields.length && frames.length) problems.push(`${where}: override of ${override.matcher.options} matches no field`);
    for (const { id, value } of override.properties) {
      if (!knownProperty(panel.type, id)) problems.push(`${where}: ${panel.type} has no field option ${id}`);
      if (id === 'unit') checkUnit(where, value);
    }
  }
}

/** The key in a link is a regular expression; it must find the row's own task and no other of its run. */
function checkTask(where, frame, row, href) {
  const key = new URL(href, 'http://localhost').searchParams.get('var-task_id');
  if (key == null) return;
  const [runs, ids] = ['Run', 'Id'].map((name) => frame.fields.find((field) => nameOf(field) === name).values);
  const found = ids.filter((id, other) => runs[other] === runs[row] && new RegExp(`^(?:${key})$`).test(id));
  if (found.length !== 1 || found[0] !== ids[row]) problems.push(`${where}: the link to ${ids[row]} finds ${found.join(', ') || 'nothing'}`);
}

function tableText(panel, where, frames) {
  const [frame] = frames;
  if (!frame?.length) return ['  (no rows)'];
  const shown = frame.fields.filter((field) => !field.config.custom?.hideFrom?.viz);
  const sort = panel.options.sortBy[0]?.displayName;
  const key = frame.fields.find((field) => nameOf(field) === sort);
  const order = Array.from({ length: frame.length }, (_, row) => row);
  if (key) order.sort((a, b) => (key.values[b] > key.values[a] ? 1 : key.values[b] < key.values[a] ? -1 : 0));
  counts.rows += frame.length;
  const lines = [`  | ${shown.map(nameOf).join(' | ')} |`];
  for (const row of order.slice(0, ROWS)) {
    lines.push(`  | ${shown.map((field) => formatted(field.display(field.values[row]))).join(' | ')} |`);
    for (const field of frame.fields) {
      for (const link of field.getLinks?.({ valueRowIndex: row }) ?? []) {
        counts.links++;
        if (/\$\{|\$\w|undefined|null/.test(link.href)) problems.push(`${where}: link ${link.title} leads to ${link.href}`);
        if (link.href.includes('#')) problems.push(`${where}: all after # is lost in ${link.href}`);
        checkTask(where, frame, row, link.href);
        if (/[?&](from|to)=(?!\d{13}(&|$))/.test(link.href)) problems.push(`${where}: no time in ms in ${link.href}`);
        if (row === order[0]) lines.push(`    ${link.title}: ${link.href}`);
      }
    }
  }
  if (order.length > ROWS) lines.push(`  and ${order.length - ROWS} rows more`);
  return lines;
}

function valuesText(panel, frames, variables) {
  if (!frames.length) return [`  ${panel.fieldConfig.defaults.noValue}`];
  return getFieldDisplayValues({
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (one, scoped) => replaced(one, variables, scoped),
    theme,
    data: frames,
    timeZone: 'utc',
  }).map(({ display }) => `  ${display.title || '(no name)'}: ${formatted(display)}`);
}

function seriesText(panel, frames) {
  return frames.map((frame) => {
    const field = frame.fields[1];
    if (panel.type === 'heatmap') return `  ${nameOf(field)}: ${field.values.reduce((sum, value) => sum + (value ?? 0), 0)} in all cells`;
    const known = [...field.values].filter((value) => value != null);
    const last = known.length ? formatted(field.display(known[known.length - 1])) : 'nothing';
    return `  ${nameOf(field)}: ${last}`;
  });
}

async function checkPanel(panel, scene, board) {
  const where = `${board.uid}, ${panel.title}`;
  const own = scene.panels[panel.id];
  const range = { from: Math.floor(scene.from / own.step) * own.step, to: scene.to, step: own.step };
  for (const step of panel.transformations ?? []) {
    if (!standardTransformersRegistry.getIfExists(step.id)) problems.push(`${where}: unknown transformation ${step.id}`);
  }
  checkUnit(where, panel.fieldConfig.defaults.unit);
  const frames = await prepared(panel, own.answers, range, theme, scene.variables);
  counts.panels++;
  counts.fields += frames.reduce((sum, frame) => sum + frame.fields.length, 0);
  checkOverrides(panel, where, frames);
  for (const frame of frames) {
    const names = frame.fields.map(nameOf);
    const unnamed = names.filter((name) => name.includes('$') || name.startsWith('Value #'));
    if (unnamed.length) problems.push(`${where}: a field is called ${unnamed.join(', ')}`);
  }
  if (panel.type === 'table' && frames.length > 1) problems.push(`${where}: ${frames.length} tables where one was meant`);
  text.push(`${panel.type}: ${panel.title}`);
  if (panel.type === 'table') text.push(...tableText(panel, where, frames));
  else if (panel.type === 'stat' || panel.type === 'bargauge') text.push(...valuesText(panel, frames, scene.variables));
  else text.push(...seriesText(panel, frames));
}

for (const { board, scene } of JSON.parse(readFileSync(process.argv[2], 'utf8'))) {
  counts.boards++;
  text.push('', `=== ${board.uid}`);
  const panels = board.panels.flatMap((panel) => (panel.type === 'row' ? panel.panels : [panel]));
  for (const panel of panels) await checkPanel(panel, scene, board);
}
console.log(JSON.stringify({ text: text.join('\n').trim() + '\n', problems, counts }));
