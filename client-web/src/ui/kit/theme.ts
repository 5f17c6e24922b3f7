/** System, light or dark: the attribute that the tokens follow, kept for the next page. */
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
    // Then it lasts as long as the page.
  }
}
