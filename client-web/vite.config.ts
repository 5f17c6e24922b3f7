import { svelte } from "@sveltejs/vite-plugin-svelte";
import { defineConfig } from "vite";

export default defineConfig(({ mode }) => ({
  plugins: [svelte()],
  // Component tests mount on a DOM, so they need the browser's half of Svelte.
  resolve: mode === "test" ? { conditions: ["browser"] } : {},
  build: {
    target: "es2022",
    cssTarget: ["chrome111", "firefox114", "safari16.4"],
    // Nothing may become a data: URL, the policy of the page forbids them.
    assetsInlineLimit: 0,
    modulePreload: { polyfill: false },
    rollupOptions: { input: { index: "index.html", console: "console.html" } },
  },
  worker: { format: "es" as const },
  server: {
    proxy: Object.fromEntries(
      ["/ws", "/chunks", "/d"].map((path) => [path, { target: "http://127.0.0.1:7070", ws: path === "/ws" }]),
    ),
  },
  test: {
    environment: "happy-dom",
    include: ["src/**/*.test.ts"],
    // A bound for a hang, not for speed: busy machines take their time.
    testTimeout: 60_000,
  },
}));
