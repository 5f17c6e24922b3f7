import svelte from "eslint-plugin-svelte";
import ts from "typescript-eslint";

/** What no component may reach past: the stores are the only door to the machinery. */
const behindTheStore = ["connection", "transfer", "identity", "protocol/codec", "driver", "session/session"];

export default ts.config(
  { ignores: ["dist/", "node_modules/", "public/", "src/protocol/generated/"] },
  ...ts.configs.recommended,
  ...svelte.configs.recommended,
  {
    files: ["**/*.svelte", "**/*.svelte.ts"],
    languageOptions: { parserOptions: { parser: ts.parser } },
  },
  {
    rules: {
      "@typescript-eslint/no-unused-vars": ["error", { argsIgnorePattern: "^_", varsIgnorePattern: "^_" }],
      "svelte/prefer-svelte-reactivity": "off",
    },
  },
  {
    files: ["src/ui/**", "src/*.svelte"],
    rules: {
      "no-restricted-imports": [
        "error",
        {
          patterns: behindTheStore.map((part) => ({
            group: [`**/${part}`, `**/${part}/**`],
            message: "Components read the store and call its actions.",
          })),
        },
      ],
    },
  },
);
