/** Reports one line per story, its figures, and all details of a failure. */
import { inspect } from "node:util";

export default async function* reporter(source) {
  for await (const { type, data } of source) {
    if (type === "test:diagnostic" && data.nesting > 0) yield `    ${data.message}\n`;
    else if (
      type === "test:diagnostic" &&
      /^(figure|evidence|closing|no evidence)/.test(data.message)
    )
      yield `    ${data.message}\n`;
    else if (type === "test:pass" && data.skip !== undefined)
      yield `- ${data.name} (only in full)\n`;
    else if (type === "test:pass") yield `✔ ${data.name} (${seconds(data)})\n`;
    else if (type === "test:fail")
      yield `✖ ${data.name} (${seconds(data)})\n${indent(inspect(data.details.error?.cause ?? data.details.error, { depth: 4 }))}\n`;
    else if (type === "test:stderr" || type === "test:stdout") yield data.message;
  }
}

function seconds({ details }) {
  return `${(details.duration_ms / 1000).toFixed(1)} s`;
}

function indent(text) {
  return text.replace(/^/gm, "    ");
}
