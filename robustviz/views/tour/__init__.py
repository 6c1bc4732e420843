"""Seven steps through all of it: see, predict, attack, explain, defend, compare, mistake."""
