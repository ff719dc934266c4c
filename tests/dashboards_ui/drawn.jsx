// The two panels whose own code is not published: state timeline and heatmap, drawn from the same prepared frames.

const AXIS = 22;
const timesAlong = (range, w) => {
  const count = Math.max(2, Math.floor(w / 110));
  return Array.from({ length: count }, (_, place) => range.from + ((place + 0.5) * (range.to - range.from)) / count);
};
const clock = (at) => new Date(at).toISOString().slice(11, 19);

function TimeAxis({ range, left, w, y, theme }) {
  return timesAlong(range, w - left).map((at) => (
    <text key={at} x={left + ((at - range.from) / (range.to - range.from)) * (w - left)} y={y} textAnchor="middle" fontSize="11" fill={theme.colors.text.secondary}>
      {clock(at)}
    </text>
  ));
}

export function StateTimeline({ panel, frames, w, h, theme, range }) {
  const rows = frames.map((frame) => ({ name: frame.fields[1].state.displayName, field: frame.fields[1], times: frame.fields[0].values }));
  if (!rows.length) return <div style={{ padding: 20, color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>;
  const left = Math.min(w / 3, 12 + 6.8 * Math.max(...rows.map(({ name }) => name.length)));
  const legendHeight = 24;
  const rowHeight = (h - AXIS - legendHeight) / rows.length;
  const x = (at) => left + ((at - range.from) / (range.to - range.from)) * (w - left);
  const states = Object.values(panel.fieldConfig.defaults.mappings[0].options);
  const colourOf = (name) => theme.visualization.getColorByName(name);
  return (
    <svg width={w} height={h} fontFamily={theme.typography.fontFamily}>
      {rows.map(({ name, field, times }, row) => {
        const y = row * rowHeight;
        const bars = [];
        for (let at = 0; at < times.length; at++) {
          const value = field.values[at];
          if (value == null) continue;
          const last = bars[bars.length - 1];
          if (last && last.value === value && last.end >= times[at]) last.end = times[at] + range.step;
          else bars.push({ value, start: times[at], end: times[at] + range.step });
        }
        return (
          <g key={row}>
            <text x={left - 6} y={y + rowHeight / 2 + 4} fontSize={Math.min(11, rowHeight)} textAnchor="end" fill={theme.colors.text.primary}>
              {name}
            </text>
            <rect x={left} y={y + rowHeight * 0.08} width={w - left} height={rowHeight * 0.84} fill={theme.colors.background.secondary} />
            {bars.map(({ value, start, end }, place) => (
              <rect key={place} x={x(start)} y={y + rowHeight * 0.08} width={Math.max(1, x(Math.min(end, range.to)) - x(start))} height={rowHeight * 0.84} fill={field.display(value).color} fillOpacity={0.8} />
            ))}
          </g>
        );
      })}
      <TimeAxis range={range} left={left} w={w} y={rows.length * rowHeight + 14} theme={theme} />
      {states.map((state, place) => (
        <g key={place} transform={`translate(${left + place * 90}, ${h - 14})`}>
          <rect width="12" height="4" y="2" fill={colourOf(state.color)} stroke={theme.colors.border.medium} />
          <text x="18" y="8" fontSize="11" fill={theme.colors.text.primary}>{state.text}</text>
        </g>
      ))}
    </svg>
  );
}

const SCHEMES = { Oranges: ['#3b1f08', '#ff9830'], Blues: ['#0b2542', '#5794f2'] };
const mix = ([a, b], share) => {
  const part = (text, place) => parseInt(text.slice(1 + 2 * place, 3 + 2 * place), 16);
  return `rgb(${[0, 1, 2].map((place) => Math.round(part(a, place) + share * (part(b, place) - part(a, place)))).join(',')})`;
};

export function Heatmap({ panel, frames, w, h, theme, range }) {
  const rows = frames.map((frame) => ({ name: frame.fields[1].state.displayName, times: frame.fields[0].values, values: frame.fields[1].values }));
  const most = Math.max(0, ...rows.flatMap(({ values }) => values.map((value) => value ?? 0)));
  if (!rows.length || most === 0) return <div style={{ padding: 20, color: theme.colors.text.secondary }}>{panel.fieldConfig.defaults.noValue}</div>;
  const left = 44;
  const plotHeight = h - AXIS - 16;
  const rowHeight = plotHeight / rows.length;
  const columnWidth = ((w - left) * range.step) / (range.to - range.from);
  return (
    <svg width={w} height={h} fontFamily={theme.typography.fontFamily}>
      {rows.map(({ name, times, values }, place) => {
        const y = plotHeight - (place + 1) * rowHeight;
        return (
          <g key={place}>
            <text x={left - 6} y={y + rowHeight / 2 + 4} fontSize="10" textAnchor="end" fill={theme.colors.text.secondary}>{name}</text>
            {values.map((value, at) =>
              value > panel.options.filterValues.le ? (
                <rect key={at} x={left + ((times[at] - range.from) / (range.to - range.from)) * (w - left)} y={y + 1} width={Math.max(1, columnWidth - 1)} height={rowHeight - 1} fill={mix(SCHEMES[panel.options.color.scheme], Math.sqrt(value / most))} />
              ) : null
            )}
          </g>
        );
      })}
      <TimeAxis range={range} left={left} w={w} y={plotHeight + 14} theme={theme} />
      <text x={left} y={h - 2} fontSize="11" fill={theme.colors.text.secondary}>{`1 to ${Math.round(most)} in a cell`}</text>
    </svg>
  );
}
