// A dashboard drawn with Grafana's own components (@grafana/ui), for looking at it. It is not Grafana: the state timeline, the
// heatmap and the frame around the panels are drawn here.
import { createRoot } from 'react-dom/client';
import { Component, useEffect, useState } from 'react';
import { ThemeContext, createTheme, dateTime, getFieldDisplayValues } from '@grafana/data';
import {
  BarGauge,
  BigValue,
  BigValueColorMode,
  BigValueGraphMode,
  BigValueJustifyMode,
  BigValueTextMode,
  GlobalStyles,
  PanelChrome,
  TimeSeries,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import 'uplot/dist/uPlot.min.css';
import '@grafana/react-data-grid/lib/styles.css';
import { prepared, replaced } from './frames.mjs';
import { Heatmap, StateTimeline } from './drawn.jsx';

const CELL = 30;
const GAP = 8;
const { board, scene, width, height, note } = window.SCENE;
const theme = createTheme({ colors: { mode: 'dark' } });
const column = (width - GAP) / 24;
const timeRange = { from: dateTime(scene.from), to: dateTime(scene.to), raw: { from: 'now-15m', to: 'now' } };

const grid = ({ x, y, w, h }) => ({
  position: 'absolute',
  left: x * column + GAP,
  top: y * (CELL + GAP),
  width: w * column - GAP,
  height: h * (CELL + GAP) - GAP,
});

function displayValues(panel, frames) {
  const shown = getFieldDisplayValues({
    fieldConfig: panel.fieldConfig,
    reduceOptions: panel.options.reduceOptions,
    replaceVariables: (text, scoped) => replaced(text, scene.variables, scoped),
    theme,
    data: frames,
    sparkline: panel.options.graphMode === 'area',
    timeZone: 'utc',
  });
  return frames.length ? shown : [];
}

function Tiles({ panel, frames, w, h }) {
  const values = displayValues(panel, frames);
  if (!values.length) return <Nothing text={panel.fieldConfig.defaults.noValue} />;
  const wide = w > h * 1.4;
  const each = wide ? { w: w / values.length, h } : { w, h: h / values.length };
  return (
    <div style={{ display: 'flex', flexDirection: wide ? 'row' : 'column', height: '100%' }}>
      {values.map((value, place) => (
        <BigValue
          key={place}
          value={value.display}
          text={panel.options.text}
          count={values.length}
          sparkline={value.sparkline}
          width={each.w - 4}
          height={each.h}
          theme={theme}
          colorMode={{ value: BigValueColorMode.Value, none: BigValueColorMode.None }[panel.options.colorMode]}
          graphMode={panel.options.graphMode === 'area' ? BigValueGraphMode.Area : BigValueGraphMode.None}
          disableWideLayout={!panel.options.wideLayout}
          justifyMode={BigValueJustifyMode.Auto}
          textMode={panel.options.textMode === 'auto' && values.length > 1 ? BigValueTextMode.ValueAndName : panel.options.textMode}
        />
      ))}
    </div>
  );
}

function Bars({ panel, frames, w, h }) {
  const values = displayValues(panel, frames);
  if (!values.length) return <Nothing text={panel.fieldConfig.defaults.noValue} />;
  const each = Math.min(h / values.length, 60);
  return values.map((value, place) => (
    <div key={place} style={{ height: each }}>
      <BarGauge
        value={value.display}
        field={value.field}
        display={value.view?.getFieldDisplayProcessor(value.colIndex)}
        width={w}
        height={each - 6}
        theme={theme}
        orientation="horizontal"
        displayMode="basic"
        namePlacement="left"
        valueDisplayMode="text"
        showUnfilled
        alignmentFactors={alignment(values)}
        itemSpacing={8}
        lcdCellWidth={12}
      />
    </div>
  ));
}

const longest = (texts) => texts.reduce((a, b) => (b.length > a.length ? b : a), '');
const alignment = (values) => ({
  title: longest(values.map(({ display }) => display.title ?? '')),
  text: longest(values.map(({ display }) => display.text)),
  suffix: longest(values.map(({ display }) => display.suffix ?? '')),
  prefix: longest(values.map(({ display }) => display.prefix ?? '')),
});

function marks() {
  const found = [];
  for (const mark of board.annotations.list) {
    for (const series of scene.marks[mark.name] ?? []) {
      const at = mark.useValueForTime ? Number(series.values[0][1]) : series.values[0][0] * 1000;
      found.push({ at, colour: theme.visualization.getColorByName(mark.iconColor) });
    }
  }
  return found;
}

function draw(builder) {
  builder.addHook('draw', (u) => {
    u.ctx.save();
    for (const { at, colour } of marks()) {
      const x = Math.round(u.valToPos(at, 'x', true));
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
      u.ctx.strokeStyle = colour;
      u.ctx.globalAlpha = 0.45;
      u.ctx.setLineDash([3, 3]);
      u.ctx.beginPath();
      u.ctx.moveTo(x, u.bbox.top);
      u.ctx.lineTo(x, u.bbox.top + u.bbox.height);
      u.ctx.stroke();
    }
    u.ctx.restore();
  });
}

function Graph({ panel, frames, w, h }) {
  const some = frames.filter((frame) => frame.length);
  if (!some.length) return <Nothing text={panel.fieldConfig.defaults.noValue} />;
  return (
    <TimeSeries
      frames={some}
      structureRev={1}
      width={w}
      height={h}
      timeRange={timeRange}
      timeZone="utc"
      legend={panel.options.legend}
      options={panel.options}
    >
      {draw}
    </TimeSeries>
  );
}

function Table({ panel, frames, w, h }) {
  const [frame] = frames;
  if (!frame?.length) return <Nothing text={panel.fieldConfig.defaults.noValue} />;
  return (
    <TableNG
      data={frame}
      width={w}
      height={h}
      sortBy={panel.options.sortBy}
      cellHeight={panel.options.cellHeight}
      noValue={panel.fieldConfig.defaults.noValue}
      structureRev={1}
      timeRange={timeRange}
      enableVirtualization={false}
      fieldConfig={panel.fieldConfig}
    />
  );
}

const Nothing = ({ text }) => (
  <div style={{ display: 'grid', placeItems: 'center', textAlign: 'center', height: '100%', color: theme.colors.text.secondary }}>{text}</div>
);

const KINDS = { stat: Tiles, bargauge: Bars, timeseries: Graph, table: Table, 'state-timeline': StateTimeline, heatmap: Heatmap };

/** A panel that cannot be drawn says so and leaves the others alone. */
class Guarded extends Component {
  state = { error: null };
  static getDerivedStateFromError(error) {
    return { error };
  }
  componentDidCatch(error) {
    document.body.dataset.failed = `${document.body.dataset.failed ?? ''}panel ${this.props.title}: ${error.stack}\n`;
  }
  render() {
    return this.state.error ? <Nothing text={`cannot be drawn: ${this.state.error.message}`} /> : this.props.children;
  }
}

function Panel({ panel }) {
  const [frames, setFrames] = useState(null);
  const own = scene.panels[panel.id];
  const range = { from: Math.floor(scene.from / own.step) * own.step, to: scene.to, step: own.step };
  useEffect(() => {
    prepared(panel, own.answers, range, theme, scene.variables).then(setFrames, (error) => {
      throw new Error(`panel ${panel.title}: ${error.stack}`);
    });
  }, []);
  const place = grid(panel.gridPos);
  const Kind = KINDS[panel.type];
  return (
    <div style={place}>
      <PanelChrome width={place.width} height={place.height} title={panel.title} description={panel.description} padding="md">
        {(w, h) =>
          frames ? (
            <Guarded title={panel.title}>
              <Kind panel={panel} frames={frames} w={w} h={h} theme={theme} range={range} />
            </Guarded>
          ) : null
        }
      </PanelChrome>
    </div>
  );
}

const Row = ({ row }) => (
  <div style={{ ...grid(row.gridPos), display: 'flex', alignItems: 'center', fontSize: 16, color: theme.colors.text.primary }}>
    {row.collapsed ? '›' : '⌄'}&nbsp;&nbsp;{row.title}
    {row.collapsed ? <span style={{ color: theme.colors.text.secondary, fontSize: 12 }}>&nbsp;&nbsp;({row.panels.length} panels)</span> : null}
  </div>
);

function Variables() {
  const shown = board.templating.list.filter(({ hide }) => hide !== 2).map((one) => {
    const chosen = scene.chosen[one.name] ?? one.current?.text ?? '';
    return [one.label, Array.isArray(chosen) ? chosen.join(', ') : chosen];
  });
  return (
    <div style={{ display: 'flex', flexWrap: 'wrap', gap: 8, padding: '0 8px' }}>
      {shown.map(([label, text]) => (
        <span key={label} style={{ border: `1px solid ${theme.colors.border.medium}`, borderRadius: 2, fontSize: 12, lineHeight: '24px' }}>
          <b style={{ background: theme.colors.background.secondary, padding: '4px 8px', fontWeight: 500 }}>{label}</b>
          <span style={{ padding: '4px 8px' }}>{text}</span>
        </span>
      ))}
    </div>
  );
}

function Board() {
  const clock = (at) => new Date(at).toISOString().slice(11, 19);
  const bottom = Math.max(...board.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
  return (
    <ThemeContext.Provider value={theme}>
      <GlobalStyles />
      <div
        style={{
          width,
          height,
          overflow: 'hidden',
          background: theme.colors.background.canvas,
          color: theme.colors.text.primary,
          fontFamily: theme.typography.fontFamily,
          fontSize: 14,
        }}
      >
        <div style={{ display: 'flex', alignItems: 'baseline', gap: 16, padding: '10px 8px 6px' }}>
          <span style={{ fontSize: 20 }}>{board.title}</span>
          <span style={{ color: theme.colors.text.secondary }}>
            {clock(scene.from)} to {clock(scene.to)} UTC
          </span>
          <span style={{ marginLeft: 'auto', color: theme.colors.warning.text }}>{note}</span>
        </div>
        <Variables />
        <div style={{ position: 'relative', height: bottom * (CELL + GAP), marginTop: 8 }}>
          {board.panels.map((panel) => (panel.type === 'row' ? <Row key={panel.id} row={panel} /> : <Panel key={panel.id} panel={panel} />))}
        </div>
      </div>
    </ThemeContext.Provider>
  );
}

createRoot(document.getElementById('root')).render(<Board />);
