// Bundles the preview for a browser and the check for Node into out/. It runs beside node_modules, where test_ui.py copies it.
import { build } from 'esbuild';

const common = { bundle: true, define: { 'process.env.NODE_ENV': '"production"' }, logLevel: 'error', minify: true };
const asData = Object.fromEntries(['.ttf', '.woff', '.woff2', '.svg', '.png', '.gif'].map((ending) => [ending, 'dataurl']));

await build({
  ...common,
  entryPoints: ['preview.jsx'],
  outfile: 'out/preview.js',
  platform: 'browser',
  jsx: 'automatic',
  loader: asData,
  define: { ...common.define, global: 'window' },
});

await build({
  ...common,
  entryPoints: ['check.mjs'],
  minify: false,
  outfile: 'out/check.mjs',
  platform: 'node',
  format: 'esm',
  // Some packages inside call require() for Node's own modules, and ask the browser for its language.
  banner: {
    js:
      "import { createRequire } from 'node:module'; const require = createRequire(import.meta.url);" +
      'globalThis.window ??= globalThis;' +
      "globalThis.navigator ??= { language: 'en-US', languages: ['en-US'] };",
  },
});
