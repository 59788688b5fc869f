// Builds dist/: the page, its one script, the API docs page, and the licences of what the page contains.
import { cp, mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { fileURLToPath } from "node:url";
import { build } from "esbuild";

const at = (path) => new URL(path, import.meta.url);
const copy = (from, to) => cp(at(from), at(`dist/${to}`));

// The text of the library's NOTICE file, which its npm package leaves out.
const CHARTS_NOTICE = "TradingView Lightweight Charts™\nCopyright (c) 2026 TradingView, Inc. https://www.tradingview.com/\n";

async function licences() {
  const modules = "node_modules";
  const text = (path) => readFile(at(`${modules}/${path}`), "utf8");
  return [
    "This page contains the following software.\n",
    `lightweight-charts\n\n${CHARTS_NOTICE}\n${await text("lightweight-charts/LICENSE")}`,
    "fancy-canvas, by TradingView, Inc., under the MIT licence: https://github.com/tradingview/fancy-canvas\n",
    `swagger-ui (the API docs page)\n\n${await text("swagger-ui-dist/NOTICE")}\n${await text("swagger-ui-dist/LICENSE")}`,
    await text("swagger-ui-dist/swagger-ui-bundle.js.LICENSE.txt"),
  ].join(`\n${"-".repeat(80)}\n\n`);
}

await rm(at("dist"), { recursive: true, force: true });
await mkdir(at("dist/docs"), { recursive: true });
await Promise.all([
  build({
    absWorkingDir: fileURLToPath(at(".")),
    entryPoints: { app: "src/main.ts", style: "src/style.css" },
    outdir: "dist",
    bundle: true,
    minify: true,
    format: "esm",
    target: "es2022",
    sourcemap: "external",
    legalComments: "inline",
    external: ["*.svg"],
    logLevel: "warning",
  }),
  copy("src/index.html", "index.html"),
  copy("src/favicon.svg", "favicon.svg"),
  copy("src/chevron.svg", "chevron.svg"),
  copy("src/docs/index.html", "docs/index.html"),
  copy("src/docs/docs.js", "docs/docs.js"),
  copy("node_modules/swagger-ui-dist/swagger-ui-bundle.js", "docs/swagger-ui-bundle.js"),
  copy("node_modules/swagger-ui-dist/swagger-ui.css", "docs/swagger-ui.css"),
  writeFile(at("dist/licences.txt"), await licences()),
]);
