"""The tour in seven steps: see, predict, attack, explain, defend, compare, mistake."""
