/** Svelte strips the types itself; runes everywhere, so that no component falls back to old reactivity. */
export default {
  compilerOptions: { runes: true },
};
