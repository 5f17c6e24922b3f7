/**
 * Sets the theme (system, light or dark) as an attribute for the tokens, and keeps it for the next
 * page.
 */
export type Theme = "system" | "light" | "dark";

const NAME = "lanyard.theme";

export function currentTheme(): Theme {
  const theme = document.documentElement.dataset.theme;
  return theme === "light" || theme === "dark" ? theme : "system";
}

export function setTheme(theme: Theme): void {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  try {
    localStorage.setItem(NAME, theme);
  } catch {
    // Without storage the choice lasts as long as the page.
  }
}
