// Before the first paint: the theme that was chosen, or none, for the system's own.
try {
  const theme = localStorage.getItem("nowcart-theme");
  if (theme) document.documentElement.dataset.theme = theme;
} catch { /* storage is turned off */ }
