// What Prometheus answered -> data frames as Grafana's Prometheus data source makes them -> the fields that a panel shows.
// The second step is Grafana's own code (@grafana/data): transformations, overrides, units, links.
import { lastValueFrom } from 'rxjs';
import {
  FieldType,
  Registry,
  applyFieldOverrides,
  cacheFieldDisplayNames,
  getDisplayProcessor,
  standardTransformers,
  standardTransformersRegistry,
  toDataFrame,
  transformDataFrame,
} from '@grafana/data';

standardTransformersRegistry.setInit(() =>
  ['mergeTransformer', 'organizeFieldsTransformer', 'joinByFieldTransformer', 'calculateFieldTransformer'].map((name) => {
    const made = standardTransformers[name];
    return { id: made.id, name: made.name, aliasIds: made.aliasIds, transformation: async () => made, editor: () => null };
  })
);

const STANDARD = ['displayName', 'unit', 'min', 'max', 'decimals', 'noValue', 'color', 'thresholds', 'mappings', 'links', 'fieldMinMax'];
// Options of single fields that the panels of these boards know, by panel type.
const CUSTOM = {
  table: ['align', 'cellOptions', 'width', 'minWidth', 'hidden', 'hideFrom', 'filterable', 'inspect'],
  timeseries: ['lineStyle', 'fillOpacity', 'axisPlacement', 'hideFrom', 'lineWidth', 'stacking', 'thresholdsStyle'],
};

function registryOf(panelType) {
  const item = (id, path, isCustom) => ({
    id,
    path,
    isCustom,
    name: id,
    process: (value) => value,
    shouldApply: () => true,
    getItemsCount: () => 0,
    settings: {},
    override: () => null,
    editor: () => null,
  });
  return new Registry(() => [
    ...STANDARD.map((id) => item(id, id, false)),
    ...(CUSTOM[panelType] ?? []).map((name) => item(`custom.${name}`, name, true)),
  ]);
}

export function knownProperty(panelType, id) {
  return registryOf(panelType).getIfExists(id) !== undefined;
}

const legendOf = (format, labels) => {
  if (format && format !== '__auto') return format.replace(/\{\{\s*(.+?)\s*\}\}/g, (_, name) => labels[name] ?? '');
  const rest = Object.entries(labels).filter(([name]) => name !== '__name__');
  return rest.length ? `{${rest.map(([name, value]) => `${name}="${value}"`).join(', ')}}` : 'Value';
};

const number = (text) => (text === '+Inf' ? Infinity : text === '-Inf' ? -Infinity : Number(text));

/** `range`: {from, to, step} in milliseconds. A series is put on the whole grid of steps; where it has no point it is null. */
function seriesFrame(target, series, range, variables) {
  const legend = target.legendFormat && replaced(target.legendFormat, variables);
  const points = series.values ?? [series.value];
  let times = points.map(([at]) => Math.round(at * 1000));
  let values = points.map(([, value]) => number(value));
  if (series.values && range) {
    const known = new Map(times.map((at, place) => [at, values[place]]));
    times = [];
    for (let at = range.from; at <= range.to; at += range.step) times.push(at);
    values = times.map((at) => known.get(at) ?? null);
  }
  return toDataFrame({
    refId: target.refId,
    meta: { type: 'timeseries-multi' },
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: times },
      {
        name: 'Value',
        type: FieldType.number,
        labels: series.metric,
        config: { displayNameFromDS: legendOf(legend, series.metric) },
        values,
      },
    ],
  });
}

function tableFrame(target, result, several) {
  const labels = [...new Set(result.flatMap((series) => Object.keys(series.metric)))].sort();
  return toDataFrame({
    refId: target.refId,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: result.map((series) => series.value[0] * 1000) },
      ...labels.map((name) => ({
        name,
        type: FieldType.string,
        config: { filterable: true },
        values: result.map((series) => series.metric[name] ?? ''),
      })),
      {
        name: several ? `Value #${target.refId}` : 'Value',
        type: FieldType.number,
        config: {},
        values: result.map((series) => number(series.value[1])),
      },
    ],
  });
}

/** Buckets by their bound, each less what the one below it already counts. */
function heatmapFrames(target, result, range, variables) {
  const sorted = [...result].sort((a, b) => number(a.metric.le) - number(b.metric.le));
  const frames = sorted.map((series) => seriesFrame(target, series, range, variables));
  for (let place = frames.length - 1; place > 0; place--) {
    const [above, below] = [frames[place].fields[1].values, frames[place - 1].fields[1].values];
    frames[place].fields[1].values = above.map((value, at) => (value == null ? null : Math.max(0, value - (below[at] ?? 0))));
  }
  return frames;
}

export function framesOf(panel, answers, range, variables) {
  return panel.targets.flatMap((target) => {
    const result = answers[target.refId] ?? [];
    if (target.format === 'table') return result.length ? [tableFrame(target, result, panel.targets.length > 1)] : [];
    if (target.format === 'heatmap') return heatmapFrames(target, result, range, variables);
    return result.map((series) => seriesFrame(target, series, target.range ? range : null, variables));
  });
}

/** Frames as the panel shows them. `variables`: name -> value, for links and titles. */
export async function prepared(panel, answers, range, theme, variables) {
  const frames = framesOf(panel, answers, range, variables);
  const transformed = await lastValueFrom(
    transformDataFrame(panel.transformations ?? [], frames, { interpolate: (text) => text })
  );
  const replace = (text, scoped) => replaced(text, variables, scoped);
  const shown = applyFieldOverrides({
    data: transformed,
    fieldConfig: panel.fieldConfig,
    fieldConfigRegistry: registryOf(panel.type),
    replaceVariables: replace,
    theme,
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(shown);
  for (const frame of shown) {
    for (const field of frame.fields) field.display ??= getDisplayProcessor({ field, theme, timeZone: 'utc' });
  }
  return shown;
}

/** The data link macros and variables that Grafana's core would put in. */
export function replaced(text, variables, scoped) {
  return String(text).replace(/\$\{([^}]+)\}|\$(\w+)/g, (whole, inBraces, plain) => {
    const wanted = inBraces ?? plain;
    const [name, format] = wanted.split(':');
    const field = /^__data\.fields\.(\w+)(\.numeric)?$/.exec(wanted);
    if (field && scoped?.__dataContext) {
      const { data, frameIndex, rowIndex } = scoped.__dataContext.value;
      const column = data[frameIndex ?? 0].fields.find((one) => (one.state?.displayName ?? one.name) === field[1]);
      if (!column) return whole;
      const value = column.values[rowIndex];
      if (field[2] || value == null) return String(value);
      return encodeURIComponent(column.display ? column.display(value).text : value);
    }
    if (name === '__url_time_range') return `from=${variables.__from}&to=${variables.__to}`;
    if (!(name in variables)) return whole;
    return format === 'queryparam' ? `var-${name}=${encodeURIComponent(variables[name])}` : String(variables[name]);
  });
}
