/** Names and wildcards of the shared scripts (protocol/vectors/README.md). */

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
/** The values of `$name`. */
export type Names = Map<string, Json>;

/** Returns the value with all names replaced. Throws for an unknown name. */
export function resolved(value: Json, names: Names): Json {
  if (typeof value === "string" && value.startsWith("$")) {
    const known = names.get(value.slice(1));
    if (known === undefined) throw new Error(`${value} has no value yet`);
    return known;
  }
  if (Array.isArray(value)) return value.map((item) => resolved(item, names));
  if (!isObject(value)) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, field]) => [key, resolved(field, names)]),
  );
}

/**
 * Compares field by field, and returns the difference or null. `"*"` matches anything and `{"not":
 * …}` anything else. `"$name"` matches the value of that name, or sets it.
 */
export function difference(pattern: Json, actual: Json, names: Names): string | null {
  const differs = `${JSON.stringify(pattern)} expected, ${JSON.stringify(actual)} came`;
  if (pattern === "*") return null;
  if (typeof pattern === "string" && pattern.startsWith("$")) {
    const name = pattern.slice(1);
    const known = names.get(name);
    if (known === undefined) names.set(name, actual);
    return known === undefined || isSame(known, actual)
      ? null
      : `${pattern} is ${JSON.stringify(known)}, ${differs}`;
  }
  if (Array.isArray(pattern)) {
    if (!Array.isArray(actual) || actual.length !== pattern.length) return differs;
    return first(pattern.map((item, at) => difference(item, actual[at] ?? null, names)));
  }
  if (!isObject(pattern)) return pattern === actual ? null : differs;
  const keys = Object.keys(pattern);
  if (keys.length === 1 && pattern.not !== undefined)
    return isSame(resolved(pattern.not, names), actual) ? differs : null;
  if (!isObject(actual) || Object.keys(actual).length !== keys.length) return differs;
  return first(
    keys.map((key) =>
      Object.hasOwn(actual, key)
        ? difference(pattern[key] ?? null, actual[key] ?? null, names)
        : differs,
    ),
  );
}

export function isSame(one: Json, other: Json): boolean {
  if (Array.isArray(one))
    return (
      Array.isArray(other) &&
      one.length === other.length &&
      one.every((item, at) => isSame(item, other[at] ?? null))
    );
  if (!isObject(one)) return one === other;
  const keys = Object.keys(one);
  return (
    isObject(other) &&
    Object.keys(other).length === keys.length &&
    keys.every((key) => Object.hasOwn(other, key) && isSame(one[key] ?? null, other[key] ?? null))
  );
}

function first(differences: (string | null)[]): string | null {
  return differences.find((one) => one !== null) ?? null;
}

export function isObject(value: unknown): value is { [key: string]: Json } {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}
